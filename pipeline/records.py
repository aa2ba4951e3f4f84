"""The typed records that travel between stages.

Shapes: H height, W width, C channels, N objects. Boxes are y0 x0 y1 x1, half-open, in image
pixels. Nothing here reads, computes or knows a library other than NumPy and pydantic.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

VOID = 255
"""Value in a semantic map for pixels that nobody labelled; losses and metrics ignore them."""

Pixels = NDArray[np.generic]
"""(H, W, C) of an unsigned integer or a float type, as stored in the file."""
SemanticMap = NDArray[np.uint8]
"""(H, W), a class id a pixel, or VOID."""
InstanceMap = NDArray[np.int32]
"""(H, W), 0 for no object, otherwise the object's id, from 1."""

Maps = Mapping[str, NDArray[np.uint8]]
"""What a method keeps of the network's outputs: name → (H, W)."""


class Box(NamedTuple):
    """A half-open window of an image, in pixels."""

    y0: int
    x0: int
    y1: int
    x1: int


class ClassSpec(BaseModel):
    """A label: *things* have countable objects, *stuff* has only pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: int = Field(ge=0, lt=VOID, description="value in the semantic map")
    name: str = Field(min_length=1, description="name in the tables")
    kind: Literal["background", "stuff", "thing"] = Field(
        description="thing: countable objects; stuff: pixels only; background: not reported"
    )


Classes = tuple[ClassSpec, ...]


def thing_ids(classes: Iterable[ClassSpec]) -> list[int]:
    """The ids of the classes whose objects are counted."""
    return [spec.id for spec in classes if spec.kind == "thing"]


def reported(classes: Iterable[ClassSpec]) -> list[ClassSpec]:
    """The classes that have rows in the counts table: all but background."""
    return [spec for spec in classes if spec.kind != "background"]


@dataclass(frozen=True)
class CountCalibration:
    """How a class's counts relate to the truth by annotated images (see `metrics.true_counts`)."""

    images: int
    """Annotated images that it was learned from, at least two."""
    ratio: float
    """True objects for each that is counted."""
    ratio_error: float
    """Standard error of the ratio."""
    spread: float
    """Variance of an image's true count, for each object counted in it and one more."""
    spread_squared: float
    """Likewise, for the square of its count."""


class RowKey(NamedTuple):
    """Where the tables hold the rows of one image."""

    shard: str
    image_id: str


@dataclass(frozen=True)
class SourceImage:
    """One image of a collection, as listed."""

    image_id: str
    uri: str
    version: str
    size: int
    """Bytes in storage; -1 where the listing does not say."""
    replaces: RowKey | None = None
    """The rows of the same URI that this image's result takes the place of."""


@dataclass(frozen=True)
class Shard:
    """A planned group of images that is computed and committed together."""

    id: str
    images: tuple[SourceImage, ...]
    partition: str = ""
    """Hive directory of its files in every table, `date=2026-10-01/site=a`; empty without one."""


@dataclass(frozen=True)
class Reject:
    """An input that could not be processed, and why."""

    source: SourceImage
    stage: str
    code: str
    message: str


@dataclass(frozen=True)
class ObjectMask:
    """One object as it was annotated, with the pixels that it shares with others."""

    id: int
    """In ``Label.instances``, where it is drawn but for what others cover."""
    class_id: int
    box: Box
    bits: bytes = field(repr=False)
    """The mask over the box, row by row, eight pixels a byte (`numpy.packbits`)."""

    @classmethod
    def pack(cls, id: int, class_id: int, box: Box, mask: NDArray[np.bool_]) -> "ObjectMask":
        """From the (H, W) mask over the box."""
        return cls(id, class_id, box, np.packbits(mask).tobytes())

    def mask(self) -> NDArray[np.bool_]:
        """(H, W) over the box."""
        height, width = self.box.y1 - self.box.y0, self.box.x1 - self.box.x0
        flat = np.unpackbits(np.frombuffer(self.bits, np.uint8), count=height * width)
        return flat.reshape(height, width).astype(bool)


@dataclass(frozen=True)
class Remark:
    """What the reader of one image had to decide, and a user should know."""

    what: str
    """Things of a kind, in the plural: "objects that cover no pixel"."""
    times: int = 1


@dataclass(frozen=True)
class Label:
    """The ground truth of one image: (H, W) maps of equal size.

    Where objects overlap, the maps show the one that has fewer pixels.
    """

    semantic: SemanticMap
    instances: InstanceMap
    objects: tuple[ObjectMask, ...] = ()
    """Every object whole, in the order of ids; empty where no two objects overlap."""
    remarks: tuple[Remark, ...] = ()
    """For those who look at the data; training does not carry them."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image of an annotated data set, and where its labels are."""

    name: str
    split: str
    image_uri: str
    instances_uri: str | None
    semantic_uri: str | None
    attributes: dict[str, str]
    """Further columns of the data set's manifest."""
    format: str = "folder"
    """The annotation format, a key of `pipeline.labels.FORMATS`."""
    annotation: str = field(default="", repr=False)
    """JSON of what the format knows of this image beside the URIs."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with one part of an annotated data set; as text, one line."""

    where: str
    """A URI, or a file and a place in it."""
    what: str
    """What is wrong, as the rest of a sentence that begins with `where`."""

    def __str__(self) -> str:
        return " ".join(f"{self.where} {self.what}".split())


@dataclass(frozen=True)
class Sample:
    """An annotated image in memory."""

    name: str
    pixels: Pixels
    label: Label


@dataclass(frozen=True)
class Segmentation:
    """What a method decoded from one image.

    Object ``i`` (from 0) is drawn in ``instances`` as ``i + 1``.
    """

    semantic: SemanticMap
    instances: InstanceMap
    class_ids: NDArray[np.uint8]
    """(N,) the class of each object."""
    scores: NDArray[np.float32]
    """(N,) how likely each object is right, 0 to 1."""
    objects: tuple[ObjectMask, ...] | None = None
    """(N,) every object whole, where they may overlap: then ``instances`` shows those on top."""


@dataclass(frozen=True)
class ObjectMeasures:
    """Per-object measurements; every array has length N, in the order of the ids."""

    boxes: NDArray[np.int32]
    """(N, 4) y0 x0 y1 x1."""
    centroids: NDArray[np.float64]
    """(N, 2) y, x of the mean pixel centre."""
    areas: NDArray[np.int64]
    """Pixels."""
    major_axes: NDArray[np.float32]
    """Length in pixels of the major axis of the ellipse with the same second moments."""
    minor_axes: NDArray[np.float32]
    eccentricities: NDArray[np.float32]
    """Of that ellipse: 0 for a circle, towards 1 for a line."""
    intensity_means: NDArray[np.float32]
    """(N, C) mean of each channel in the file's own units."""
    intensity_stds: NDArray[np.float32]
    """(N, C)."""
    truncated: NDArray[np.bool_]
    """The object touches the image's border, so part of it may be missing."""
    rles: list[str] = field(repr=False)
    """COCO compressed RLE of the mask over the object's box."""


@dataclass(frozen=True)
class PredictedImage:
    """One image's results, ready to become rows."""

    source: SourceImage
    shape: tuple[int, int, int]
    """H, W, C of the file."""
    segmentation: Segmentation
    measures: ObjectMeasures
