"""dataset.json: what the rows of a dataset were made with."""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline import storage
from pipeline.config import fingerprint
from pipeline.errors import DatasetError
from pipeline.records import ClassSpec, CountCalibration
from pipeline.tables.schema import SCHEMA_VERSION

SPEC_NAME = "dataset.json"


class DatasetSpec(BaseModel):
    """What every row of a dataset has in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    classes: tuple[ClassSpec, ...]
    model: str
    """Fingerprint of the model bundle."""
    settings: dict[str, Any]
    """Those that change results."""
    partition_columns: tuple[str, ...] = ()
    overlapping: bool = False
    """Whether objects may share pixels: then masks show those on top, and `rle` the whole."""
    counts: dict[str, dict[int, CountCalibration]] = {}
    """`results` of what has counted → class id → how its counts relate to the truth."""

    @property
    def results(self) -> str:
        """A hash of all that decides what the rows of an image say."""
        return fingerprint([self.model, self.settings])

    def differences(self, other: "DatasetSpec") -> Iterator[str]:
        """What `other` has otherwise, as `name: here, not there`."""
        if self.model != other.model:
            yield f"model {self.model}, not {other.model}"
        mine, theirs = _flat(self.settings), _flat(other.settings)
        for key in sorted(mine.keys() | theirs.keys()):
            if mine.get(key) != theirs.get(key):
                yield f"{key} {_said(mine.get(key))}, not {_said(theirs.get(key))}"

    def layout_differences(self, other: "DatasetSpec") -> Iterator[str]:
        """What can't be replaced, since every row and file depends on it."""
        if self.classes != other.classes:
            yield f"classes {_names(self)}, not {_names(other)}"
        if self.overlapping != other.overlapping:
            yield f"objects that {_may(self)}, not {_may(other)}"
        if self.partition_columns != other.partition_columns:
            yield f"partitions {_columns(self)}, not {_columns(other)}"


def read_spec(uri: str) -> DatasetSpec | None:
    """The spec of the dataset at a URI; None where there is none.

    Raises:
        DatasetError: it is damaged, or of another version.
    """
    path = _file(uri)
    if not storage.exists(path):
        return None
    try:
        return DatasetSpec.model_validate_json(storage.read_bytes(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "schema_version":
            raise DatasetError(
                f"{path} is of schema version {first['input']!r}, which this Tessera does not "
                "read: take the version that has written it, or give another --output"
            ) from error
        raise DatasetError(
            f"{path} is damaged, or of another version: {where or 'dataset'}: {first['msg']}"
        ) from error


def write_spec(uri: str, spec: DatasetSpec) -> None:
    """Create or replace dataset.json."""
    storage.write_bytes(_file(uri), (spec.model_dump_json(indent=2) + "\n").encode())


def _file(uri: str) -> str:
    return storage.join(uri, SPEC_NAME)


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}".replace("_", "-")
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _said(value: object) -> object:
    """What was left to the bundle, or to what is there by default, is None."""
    return "as by default" if value is None else value


def _names(spec: DatasetSpec) -> str:
    return ", ".join(one.name for one in spec.classes)


def _may(spec: DatasetSpec) -> str:
    return "may overlap" if spec.overlapping else "share no pixels"


def _columns(spec: DatasetSpec) -> str:
    return ", ".join(spec.partition_columns) or "none"
