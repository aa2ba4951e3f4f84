"""What one annotated image says: a pure function of its pixels and its label.

Legend: H height, W width, C channels, K classes, N objects, S sides of `CELL_SIDES`.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from pipeline.records import (
    VOID,
    Classes,
    InstanceMap,
    Label,
    Pixels,
    Remark,
    Sample,
    SemanticMap,
)
from pipeline.survey.tally import diameter_bins

LEVELS = (1.0, 50.0, 99.8)
"""Percentiles of the gray values that are kept."""
CELL_SIDES = (64, 128, 256, 512)
"""Windows that an image is cut into, to see how often one of about that size holds a class."""

_COLOUR = 0.02  # mean difference between channels, as a share of the range, from which it is colour
_CONTRAST = 0.05  # of objects against their surroundings, as a share of the range
_SAMPLED = 100_000  # pixels that percentiles and colour are measured on
_ASIDE = 0.1  # of the height, from the middle, from which a class lies above or below it
_BLOCK = 32  # pixels a side of what the windows are made of
_FEW_OBJECTS = 4  # of fewer in an image, how most of them are says little

IN_PIECES = Remark(
    "objects in several pieces, as classes are (if the labels are class ids, --labels.format "
    "semantic with a class list reads them)"
)
NO_VALUE = "pixels without a value (NaN or infinite), which void in the class maps would leave out"


@dataclass(frozen=True)
class ImageFacts:
    """What one image says, in about a kilobyte however large it is."""

    name: str
    split: str
    height: int
    width: int
    channels: int
    dtype: str
    colour: bool
    """Three channels that differ; gray may be stored as three equal ones."""
    levels: tuple[float, ...]
    """The `LEVELS` percentiles of the gray values, in the file's units."""
    contrast: float
    """Mean gray of what is labelled less that of the rest, as a share of the range between the
    outer levels: above 0 where objects are bright on dark. NaN where one of both is missing."""
    class_pixels: tuple[int, ...]
    """(K,)."""
    class_edges: tuple[int, ...]
    """(K,) sides of pixels of the class at which it ends, inside of the image."""
    class_objects: tuple[int, ...]
    """(K,) objects, each of the class that most of its pixels have; only things have any."""
    stray: int
    """Objects most of whose labelled pixels are of no class of things; they count nowhere else."""
    void_pixels: int
    touching: int
    """Objects with a pixel beside another object's."""
    overlapping: int
    """Objects that share a pixel with another."""
    diameters: tuple[int, ...]
    """(BINS,) objects by the diameter of the disc of their area (`tally.diameter_bins`)."""
    cells: tuple[int, ...]
    """(S,) windows of each side that the image is cut into."""
    class_cells: tuple[tuple[int, ...], ...]
    """(S, K) how many of them hold each class."""
    object_cells: tuple[int, ...]
    """(S,) how many of them hold a thing."""
    class_above: tuple[int, ...]
    """(K,) 1 for the classes that lie in the upper part of the image, 0 for others."""
    class_below: tuple[int, ...]
    """(K,) likewise in the lower part."""
    content: str
    """Hash of the pixels: equal images have equal ones, under whatever name."""
    decoded_bytes: int
    """Of pixels and label in memory."""
    remarks: tuple[Remark, ...] = ()
    """What its reader had to decide."""

    @property
    def objects(self) -> int:
        """Objects of all classes."""
        return sum(self.class_objects)

    @property
    def polarity(self) -> Literal["bright", "dark", "unclear"]:
        """Whether objects are brighter or darker than what is around them."""
        if math.isnan(self.contrast) or abs(self.contrast) < _CONTRAST:
            return "unclear"
        return "bright" if self.contrast > 0 else "dark"

    @property
    def wide_range(self) -> bool:
        """Whether the values fill at least half of an 8-bit range, as photographs do."""
        return self.dtype == "uint8" and self.levels[-1] - self.levels[0] >= 127


def measure_image(sample: Sample, split: str, classes: Classes) -> ImageFacts:
    """The facts of one image and its label."""
    pixels, label = sample.pixels, sample.label
    height, width, channels = pixels.shape
    levels, colour = _measure_intensity(pixels)
    index = _class_index(label.semantic, classes)
    objects = _measure_objects(label, index, classes)
    blocks = _classes_in_blocks(index, len(classes))
    cells, class_cells, object_cells = _measure_cells(index.shape, blocks, classes)
    middles = _middles(blocks)
    counts = np.bincount(index.ravel(), minlength=len(classes) + 1).tolist()
    return ImageFacts(
        name=sample.name,
        split=split,
        height=height,
        width=width,
        channels=channels,
        dtype=str(pixels.dtype),
        colour=colour,
        levels=levels,
        contrast=_contrast(pixels, label, classes, levels[-1] - levels[0]),
        class_pixels=tuple(counts[:-1]),
        class_edges=_measure_edges(index, len(classes)),
        class_objects=objects.by_class,
        stray=objects.stray,
        void_pixels=counts[-1],
        touching=objects.touching,
        overlapping=objects.overlapping,
        diameters=objects.diameters,
        cells=cells,
        class_cells=class_cells,
        object_cells=object_cells,
        class_above=tuple((middles < 0.5 - _ASIDE).astype(int).tolist()),
        class_below=tuple((middles > 0.5 + _ASIDE).astype(int).tolist()),
        content=_content(pixels),
        decoded_bytes=pixels.nbytes + label.semantic.nbytes + label.instances.nbytes,
        remarks=(*label.remarks, *objects.doubts, *_without_value(pixels)),
    )


def _without_value(pixels: Pixels) -> tuple[Remark, ...]:
    if pixels.dtype.kind != "f":
        return ()
    times = int((~np.isfinite(pixels)).any(-1).sum())
    return (Remark(NO_VALUE, times),) if times else ()


def data_hash(facts: Iterable[ImageFacts]) -> str:
    """Changes when an image, its name, its split or its label does.

    Of a label it knows how many pixels and objects each class has.
    """
    digest = hashlib.blake2b(digest_size=16)
    for one in sorted(facts, key=lambda one: (one.split, one.name)):
        said = (one.split, one.name, one.content, one.class_pixels, one.class_objects)
        digest.update(repr(said).encode())
    return digest.hexdigest()


def _measure_intensity(pixels: Pixels) -> tuple[tuple[float, ...], bool]:
    """The gray percentiles, and whether the image is in colour; from an even sample of pixels."""
    flat = pixels.reshape(-1, pixels.shape[-1])
    sample = flat[:: max(1, len(flat) // _SAMPLED)].astype(np.float32)
    gray = sample.mean(1)
    finite = gray[np.isfinite(gray)]
    if not finite.size:
        return (0.0,) * len(LEVELS), False
    levels = tuple(float(value) for value in np.percentile(finite, LEVELS))
    if pixels.shape[-1] != 3:
        return levels, False
    spread = float(np.nanmean(sample.max(1) - sample.min(1)))
    return levels, spread > _COLOUR * max(levels[-1] - levels[0], 1e-12)


def _contrast(pixels: Pixels, label: Label, classes: Classes, span: float) -> float:
    gray = pixels.mean(-1, dtype=np.float32)
    known = np.isfinite(gray) & (label.semantic != VOID)
    inside = label.instances > 0
    outside = ~inside
    if not inside.any():
        background = [spec.id for spec in classes if spec.kind == "background"]
        outside = np.isin(label.semantic, background)
        inside = np.isin(label.semantic, [s.id for s in classes if s.kind != "background"])
    inside, outside = inside & known, outside & known
    if span <= 0 or not inside.any() or not outside.any():
        return math.nan
    return float(gray[inside].mean() - gray[outside].mean()) / span


def _class_index(semantic: SemanticMap, classes: Classes) -> NDArray[np.uint8]:
    """(H, W) place of each pixel's class in `classes`; K for void."""
    table = np.full(256, len(classes), np.uint8)
    table[[spec.id for spec in classes]] = np.arange(len(classes))
    return table[semantic]


def _measure_edges(index: NDArray[np.uint8], k: int) -> tuple[int, ...]:
    """(K,) sides between two pixels, one of which is of the class and the other is not."""
    found = np.zeros(k + 1, np.int64)
    for one, other in ((index[:, :-1], index[:, 1:]), (index[:-1], index[1:])):
        differ = one != other
        for side in (one, other):
            found += np.bincount(side[differ], minlength=k + 1)
    return tuple(found[:-1].tolist())


@dataclass(frozen=True)
class _Objects:
    by_class: tuple[int, ...]
    stray: int
    touching: int
    overlapping: int
    diameters: tuple[int, ...]
    doubts: tuple[Remark, ...]


def _measure_objects(label: Label, index: NDArray[np.uint8], classes: Classes) -> _Objects:
    numbers, n = _numbered(label.instances)
    if label.objects:
        areas, owners = _of_masks(label, classes)
        stray = np.zeros(n + 1, bool)
    else:
        areas, owners, stray = _of_maps(numbers, n, index, classes)
    if stray.any():
        numbers = np.where(stray[numbers], 0, numbers)
    # Where objects cover each other, maps show pieces of them.
    apart = 0 if label.objects or len(owners) < _FEW_OBJECTS else _in_pieces(numbers)
    return _Objects(
        by_class=tuple(np.bincount(owners, minlength=len(classes)).tolist()),
        stray=int(stray.sum()),
        touching=_touching(numbers, n),
        overlapping=_overlapping(label),
        diameters=diameter_bins(2 * np.sqrt(areas / np.pi)),
        doubts=(replace(IN_PIECES, times=apart),) if 2 * apart > len(owners) else (),
    )


def _in_pieces(numbers: InstanceMap) -> int:
    """Objects that have pixels apart from each other."""
    pieces = cc3d.connected_components(numbers.astype(np.uint32), connectivity=8)
    owner = np.zeros(int(pieces.max()) + 1, np.int32)
    owner[pieces.ravel()] = numbers.ravel()
    return int((np.bincount(owner[1:]) > 1).sum())


def _numbered(instances: InstanceMap) -> tuple[InstanceMap, int]:
    """The same objects numbered 1 to N. Ids of 32 bits may be far apart."""
    largest = int(instances.max(initial=0))
    if largest > 4 * instances.size:
        ids, numbers = np.unique(instances, return_inverse=True)
        start = 0 if ids[0] == 0 else 1
        return (numbers.reshape(instances.shape) + start).astype(np.int32), len(ids) - 1 + start
    present = np.bincount(instances.ravel(), minlength=1) > 0
    present[0] = False
    table = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return table[instances], int(present.sum())


def _of_maps(
    numbers: InstanceMap, n: int, index: NDArray[np.uint8], classes: Classes
) -> tuple[NDArray[np.int64], NDArray[np.intp], NDArray[np.bool_]]:
    """Areas and places of the classes of the objects of things, and (N + 1,) by number which ones
    are of another class; an object that is all void has none."""
    k = len(classes)
    inside = numbers > 0
    keys = (numbers[inside].astype(np.int64) - 1) * (k + 1) + index[inside]
    votes = np.bincount(keys, minlength=n * (k + 1)).reshape(n, k + 1)
    owners = votes[:, :k].argmax(1)
    is_thing = np.array([spec.kind == "thing" for spec in classes])[owners]
    known = votes[:, :k].any(1)
    stray = np.concatenate([[False], known & ~is_thing])
    counted = known & is_thing
    return votes[counted].sum(1), owners[counted], stray


def _of_masks(label: Label, classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """(N,) areas and places of the classes, of objects that are kept whole."""
    place = {spec.id: i for i, spec in enumerate(classes)}
    areas = [int(one.mask().sum()) for one in label.objects]
    return np.array(areas, np.int64), np.array([place[one.class_id] for one in label.objects])


def _touching(numbers: InstanceMap, n: int) -> int:
    """Objects with another one among the eight neighbours of a pixel of theirs."""
    touched = np.zeros(n + 1, bool)
    pairs = (
        (numbers[:, :-1], numbers[:, 1:]),
        (numbers[:-1], numbers[1:]),
        (numbers[:-1, :-1], numbers[1:, 1:]),
        (numbers[:-1, 1:], numbers[1:, :-1]),
    )
    for one, other in pairs:
        meet = (one != other) & (one > 0) & (other > 0)
        touched[one[meet]] = True
        touched[other[meet]] = True
    return int(touched.sum())


def _overlapping(label: Label) -> int:
    """Objects that share a pixel with another; only labels that keep objects whole have any."""
    if not label.objects:
        return 0
    covers = np.zeros(label.instances.shape, np.uint16)
    masks = [(slice(o.box.y0, o.box.y1), slice(o.box.x0, o.box.x1), o) for o in label.objects]
    for rows, columns, one in masks:
        covers[rows, columns] += one.mask()
    return sum(bool((covers[rows, columns][one.mask()] > 1).any()) for rows, columns, one in masks)


def _middles(blocks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(K,) how far down each class lies in the mean, from 0 to 1; NaN without it."""
    rows = blocks.sum(1)
    places = (np.arange(len(rows)) + 0.5) / len(rows)
    with np.errstate(invalid="ignore"):
        middles: NDArray[np.float64] = places @ rows / rows.sum(0)
    return middles


def _measure_cells(
    shape: tuple[int, ...], blocks: NDArray[np.bool_], classes: Classes
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """For each side: windows in all, windows with each class, windows with a thing."""
    k = len(classes)
    things = [i for i, spec in enumerate(classes) if spec.kind == "thing"]
    totals, with_class, with_thing = [], [], []
    for side in CELL_SIDES:
        down, across = (max(1, round(n / side)) for n in shape)
        rows = np.arange(blocks.shape[0]) * down // blocks.shape[0]
        columns = np.arange(blocks.shape[1]) * across // blocks.shape[1]
        held = np.zeros((down, across, k), bool)
        np.logical_or.at(held, (rows[:, None], columns[None]), blocks)
        totals.append(down * across)
        with_class.append(tuple(held.sum((0, 1)).tolist()))
        with_thing.append(int(held[..., things].any(-1).sum()))
    return tuple(totals), tuple(with_class), tuple(with_thing)


def _classes_in_blocks(index: NDArray[np.uint8], k: int) -> NDArray[np.bool_]:
    """(rows, columns, K) whether a block of about `_BLOCK` pixels a side holds each class."""
    height, width = index.shape
    down, across = -(-height // _BLOCK), -(-width // _BLOCK)
    rows = (np.arange(height) * down // height * (across * (k + 1))).astype(np.int32)
    columns = (np.arange(width) * across // width * (k + 1)).astype(np.int32)
    keys = rows[:, None] + columns[None] + index
    held = np.bincount(keys.ravel(), minlength=down * across * (k + 1)) > 0
    return held.reshape(down, across, k + 1)[..., :k]


def _content(pixels: Pixels) -> str:
    digest = hashlib.blake2b(f"{pixels.dtype.str}{pixels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
