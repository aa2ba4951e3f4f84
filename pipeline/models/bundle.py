"""The model bundle: a folder with weights and one JSON that says all that prediction needs.

    bundle.json           architecture, classes, normalisation, method with its thresholds
    weights.safetensors   tensors and nothing else: loading it can't execute anything

What a bundle does not hold: optimiser state, data, code. This module reads a bundle without
PyTorch; `models.weights` makes a network of it.
"""

import json
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline import storage
from pipeline.config import (
    LEAST_ZOOM,
    MOST_ZOOM,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
    fingerprint,
)
from pipeline.errors import BundleError, MissingError
from pipeline.records import ClassSpec, CountCalibration

SPEC_NAME = "bundle.json"
WEIGHTS_NAME = "weights.safetensors"
UNFINISHED_NAME = "training.json"
"""There from before the first step until the bundle is whole."""

_LATER = ("proposal_threshold", "overlap", "score_size", "min_score")
"""Settings that the first bundles did not have, whose fingerprints are to stay."""


class BundleSpec(BaseModel):
    """The JSON of a model bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["tessera-bundle"] = "tessera-bundle"
    format_version: Literal[1] = 1
    network: NetworkSettings
    channels: int = Field(ge=1, description="input channels")
    zoom: float = Field(
        1.0,
        ge=LEAST_ZOOM,
        le=MOST_ZOOM,
        multiple_of=LEAST_ZOOM,
        description="times that images are enlarged before the network sees them",
    )
    classes: tuple[ClassSpec, ...] = Field(min_length=1)
    method: MethodSettings
    normalize: NormalizeSettings
    metrics: dict[str, float] = Field(default_factory=dict, description="on validation images")
    counts: dict[int, CountCalibration] = Field(
        default_factory=dict, description="how the counts of a class relate to the truth, likewise"
    )
    weights_hash: str = Field(default="", description="content hash of the weights")

    @model_validator(mode="after")
    def _is_decided(self) -> Self:
        if self.method.name == "auto":
            raise ValueError("method.name takes a method, not auto")
        self.network.widths()
        return self

    @property
    def fingerprint(self) -> str:
        """Changes with anything that changes predictions; what validation tells does not."""
        said = self.model_dump(mode="json", exclude={"metrics", "counts"})
        if self.zoom == 1:
            del said["zoom"]
        for name in _LATER:
            if said["method"][name] == MethodSettings.model_fields[name].default:
                del said["method"][name]
        return fingerprint(said)


def load_spec(uri: str) -> BundleSpec:
    """The JSON of a bundle, without its weights.

    Raises:
        BundleError: it is missing, isn't a bundle, or is of another version.
    """
    try:
        data = storage.read_bytes(storage.join(uri, SPEC_NAME))
    except MissingError as error:
        raise _not_whole(uri, f" is not a model bundle: {error}") from error
    try:
        return BundleSpec.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if where == "format_version":
            raise BundleError(
                f"{uri}/{SPEC_NAME} is of format version {first['input']!r}, which this "
                "Tessera does not read: take the version that has made it, or train anew"
            ) from error
        raise BundleError(f"{uri}/{SPEC_NAME}: {where or 'bundle'}: {first['msg']}") from error
    except ValueError as error:
        raise BundleError(f"{uri}/{SPEC_NAME} is not valid JSON") from error


def read_weights(uri: str, spec: BundleSpec) -> bytes:
    """The safetensors file of a bundle, whole and as it was written.

    Raises:
        BundleError: it is missing, or isn't the file that the spec was written with.
    """
    try:
        data = storage.read_bytes(storage.join(uri, WEIGHTS_NAME))
    except MissingError as error:
        raise _not_whole(uri, f" has no weights: {error}") from error
    if storage.content_hash(data) != spec.weights_hash:
        what = f"/{WEIGHTS_NAME} is not the file that {SPEC_NAME} was written with"
        raise _not_whole(uri, f"{what}; copy the whole bundle again")
    return data


def _not_whole(uri: str, what: str) -> BundleError:
    """What lacks or does not fit; where a training is on its way there, that says what to do."""
    if storage.exists(storage.join(uri, UNFINISHED_NAME)):
        return BundleError(
            f"{uri} holds a training that has not finished: let it end, or, where it was stopped, "
            "give its command again with --resume"
        )
    return BundleError(f"{uri}{what}")
