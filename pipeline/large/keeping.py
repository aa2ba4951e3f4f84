"""What the parts of a large image have come to, kept in the run's folder until its shard counts.

    _runs/<run>/parts/<shard>/<image>-<side>/image.json          its size, and what became of it
                                             scale.arrow         what labels follow from, of it all
                                             maps/<part>.arrow   the method's maps of a part
                                             scales/<part>.arrow
                                             objects/…, masks/…, cut/…
                                             seams/<part>.arrow

Of each step's files the last one is what says that the step is done: `scales`, `seams`. Parts of
another side are other parts.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline import storage
from pipeline.errors import MissingError
from pipeline.tables.layout import RUNS
from pipeline.tables.runs import PARTS

_LZ4 = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True)
class Opened:
    """An image that was looked at."""

    shape: tuple[int, int, int]
    """Height, width, channels."""
    low: tuple[float, ...] = ()
    """The values that become 0 and 1 in the network's input, a channel."""
    high: tuple[float, ...] = ()
    by_window: bool = False
    """Whether it is read by window, or has to be decoded whole."""


@dataclass(frozen=True)
class Rejected:
    """An image that can't be worked on."""

    stage: str
    code: str
    message: str


def parts_folder(dataset: str, run: str) -> str:
    """Where all parts of a run lie."""
    return storage.join(dataset, RUNS, run, PARTS)


@dataclass(frozen=True)
class Keep:
    """The folder of one image."""

    uri: str

    @classmethod
    def of(cls, dataset: str, run: str, shard: str, image_id: str, side: int) -> "Keep":
        """Of an image that is cut in parts of `side` pixels."""
        return cls(storage.join(parts_folder(dataset, run), shard, f"{image_id}-{side}"))

    def opened(self) -> Opened | Rejected | None:
        """What became of the image; None where nobody has looked."""
        try:
            found: dict[str, Any] = json.loads(storage.read_bytes(self._file("image.json")))
        except MissingError:
            return None
        if "code" in found:
            return Rejected(**found)
        return Opened(
            tuple(found["shape"]), tuple(found["low"]), tuple(found["high"]), found["by_window"]
        )

    def keep_opened(self, found: Opened | Rejected) -> None:
        """From now on this is what the image is; a later word wins."""
        storage.write_bytes(self._file("image.json"), json.dumps(asdict(found)).encode())

    def done(self, step: str) -> set[int]:
        """The parts whose file of a step is there."""
        names = storage.list_names(self._file(step))
        return {int(name.partition(".")[0]) for name in names if not name.startswith(".")}

    def write(self, step: str, part: int, table: pa.Table) -> None:
        storage.write_bytes(self._part(step, part), to_ipc(table))

    def read(self, step: str, part: int) -> pa.Table:
        return from_ipc(storage.read_bytes(self._part(step, part)))

    def write_scale(self, counts: NDArray[np.int64], part: int | None = None) -> None:
        """Of a part, or of the image."""
        place = np.flatnonzero(counts)
        table = pa.table({"place": place, "count": counts[place]}).replace_schema_metadata(
            {"length": str(len(counts))}
        )
        uri = self._file("scale.arrow") if part is None else self._part("scales", part)
        storage.write_bytes(uri, to_ipc(table))

    def read_scale(self, part: int | None = None) -> NDArray[np.int64]:
        uri = self._file("scale.arrow") if part is None else self._part("scales", part)
        table = from_ipc(storage.read_bytes(uri))
        counts = np.zeros(int(table.schema.metadata[b"length"]), np.int64)
        counts[table["place"].to_numpy()] = table["count"].to_numpy()
        return counts

    def has_scale(self) -> bool:
        """Whether the scale of the whole image is known."""
        return storage.stat(self._file("scale.arrow")) is not None

    def _file(self, name: str) -> str:
        return storage.join(self.uri, name)

    def _part(self, step: str, part: int) -> str:
        return storage.join(self.uri, step, f"{part}.arrow")


def to_ipc(table: pa.Table) -> bytes:
    """A table as the bytes of an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=_LZ4) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_ipc(data: bytes) -> pa.Table:
    """The bytes of an Arrow file as a table."""
    return pa.ipc.open_file(pa.BufferReader(data)).read_all()


def columns(arrays: Mapping[str, NDArray[Any]]) -> dict[str, pa.Array]:
    """(N,) and (N, K) arrays as columns; the latter as lists."""
    found = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            found[name] = pa.array(array)
        else:
            flat = pa.array(np.ascontiguousarray(array).ravel())
            found[name] = pa.FixedSizeListArray.from_arrays(flat, max(array.shape[1], 1))
    return found


def list_rows(table: pa.Table, name: str) -> NDArray[Any]:
    """A column of lists of equal length as an (N, K) array."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)


def one_row(values: Iterable[tuple[str, Any, pa.DataType]]) -> pa.Table:
    """A table of one row."""
    chosen = list(values)
    return pa.table([pa.array([v], t) for _, v, t in chosen], [name for name, _, _ in chosen])
