"""What a whole data set says, a summary a split. Summaries add up in any order and grouping.

Legend: K classes, S sides of `facts.CELL_SIDES`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any

from pipeline.records import Classes
from pipeline.survey.facts import CELL_SIDES, ImageFacts
from pipeline.survey.tally import BINS, Tally, scaled_bins

USED_SPLITS = ("train", "val")
"""Those that a training looks at; images of all others say nothing about it."""


@dataclass(frozen=True)
class Span:
    """The smallest and the largest of some values."""

    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(min(self.low, other.low), max(self.high, other.high))


EMPTY_SPAN = Span(float("inf"), float("-inf"))


@dataclass(frozen=True)
class SplitFingerprint:
    """The images of one split."""

    split: str
    images: int
    heights: Tally[int]
    widths: Tally[int]
    longer_sides: Tally[int]
    channels: Tally[int]
    dtypes: Tally[str]
    colour: int
    """Images in colour; the others are gray, in however many channels."""
    dark_levels: Span
    """Of the images' dark ends (1st percentile of gray), in the file's units."""
    bright_levels: Span
    """Of the images' bright ends (99.8th percentile)."""
    wide_range: int
    """Images of 8 bit whose values fill half of the range or more."""
    bright: int
    """Images whose objects are brighter than what is around them."""
    dark: int
    class_pixels: tuple[int, ...]
    """(K,)."""
    class_edges: tuple[int, ...]
    """(K,)."""
    class_objects: tuple[int, ...]
    """(K,)."""
    class_images: tuple[int, ...]
    """(K,) images that hold the class."""
    void_pixels: int
    empty: int
    """Images with no pixel of any class but background, and no object."""
    objects_an_image: Tally[int]
    touching: int
    overlapping: int
    diameters: tuple[int, ...]
    """(BINS,) objects, as `tally.diameter_bins` counts them."""
    cells: tuple[int, ...]
    """(S,) windows of each side that the images were cut into."""
    class_cells: tuple[tuple[int, ...], ...]
    """(S, K) how many of them hold each class."""
    object_cells: tuple[int, ...]
    """(S,) how many of them hold a thing."""
    class_above: tuple[int, ...]
    """(K,) images in whose upper part the class lies."""
    class_below: tuple[int, ...]
    """(K,) images in whose lower part it lies."""
    decoded_bytes: int

    @classmethod
    def nothing(cls, split: str, k: int) -> "SplitFingerprint":
        """Of no image; adding it changes nothing."""
        none, sides = (0,) * k, (0,) * len(CELL_SIDES)
        return cls(
            split=split, images=0, heights=Tally(), widths=Tally(), longer_sides=Tally(),
            channels=Tally(), dtypes=Tally(), colour=0, dark_levels=EMPTY_SPAN,
            bright_levels=EMPTY_SPAN, wide_range=0, bright=0, dark=0, class_pixels=none,
            class_edges=none, class_objects=none, class_images=none, void_pixels=0, empty=0,
            objects_an_image=Tally(), touching=0, overlapping=0, diameters=(0,) * BINS,
            cells=sides, class_cells=(none,) * len(CELL_SIDES), object_cells=sides,
            class_above=none, class_below=none, decoded_bytes=0,
        )  # fmt: skip

    @classmethod
    def of(cls, facts: ImageFacts, classes: Classes) -> "SplitFingerprint":
        """Of one image."""
        return cls(
            split=facts.split,
            images=1,
            heights=Tally.of([facts.height]),
            widths=Tally.of([facts.width]),
            longer_sides=Tally.of([max(facts.height, facts.width)]),
            channels=Tally.of([facts.channels]),
            dtypes=Tally.of([facts.dtype]),
            colour=int(facts.colour),
            dark_levels=Span(facts.levels[0], facts.levels[0]),
            bright_levels=Span(facts.levels[-1], facts.levels[-1]),
            wide_range=int(facts.wide_range),
            bright=int(facts.polarity == "bright"),
            dark=int(facts.polarity == "dark"),
            class_pixels=facts.class_pixels,
            class_edges=facts.class_edges,
            class_objects=facts.class_objects,
            class_images=tuple(int(pixels > 0) for pixels in facts.class_pixels),
            void_pixels=facts.void_pixels,
            empty=int(is_empty(facts, classes)),
            objects_an_image=Tally.of([facts.objects]),
            touching=facts.touching,
            overlapping=facts.overlapping,
            diameters=facts.diameters,
            cells=facts.cells,
            class_cells=facts.class_cells,
            object_cells=facts.object_cells,
            class_above=facts.class_above,
            class_below=facts.class_below,
            decoded_bytes=facts.decoded_bytes,
        )

    def __add__(self, other: "SplitFingerprint") -> "SplitFingerprint":
        sums = {
            field.name: _sum(getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
            if field.name != "split"
        }
        return SplitFingerprint(split=self.split, **sums)

    def seen_at(self, zoom: float) -> "SplitFingerprint":
        """With sides and diameters as the network sees them in images so many times enlarged."""
        sides = Counter[int]()
        for side, times in self.longer_sides.counts:
            sides[max(1, round(side * zoom))] += times
        return replace(
            self,
            longer_sides=Tally(tuple(sorted(sides.items()))),
            diameters=scaled_bins(self.diameters, zoom),
        )

    @property
    def objects(self) -> int:
        """Objects of all classes."""
        return sum(self.class_objects)

    @property
    def labelled_pixels(self) -> int:
        """Pixels of all classes, without void."""
        return sum(self.class_pixels)


@dataclass(frozen=True)
class DataFingerprint:
    """A data set, a split at a time."""

    classes: Classes
    splits: tuple[SplitFingerprint, ...]
    """In the order of names; none without images."""

    @classmethod
    def of(cls, facts: Iterable[ImageFacts], classes: Classes) -> "DataFingerprint":
        """Of many images."""
        found: dict[str, list[SplitFingerprint]] = {}
        for one in facts:
            found.setdefault(one.split, []).append(SplitFingerprint.of(one, classes))
        return cls(classes, tuple(_pairwise(found[split]) for split in sorted(found)))

    def __add__(self, other: "DataFingerprint") -> "DataFingerprint":
        names = sorted({one.split for one in (*self.splits, *other.splits)})
        return DataFingerprint(
            self.classes, tuple(self.split(name) + other.split(name) for name in names)
        )

    def split(self, name: str) -> SplitFingerprint:
        """One split; of no image where there is none of that name."""
        nothing = SplitFingerprint.nothing(name, len(self.classes))
        return next((one for one in self.splits if one.split == name), nothing)

    def only(self, *names: str) -> "DataFingerprint":
        """These splits alone."""
        return replace(self, splits=tuple(one for one in self.splits if one.split in names))

    @property
    def whole(self) -> SplitFingerprint:
        """All splits together."""
        nothing = SplitFingerprint.nothing("all", len(self.classes))
        return reduce(lambda total, one: total + one, self.splits, nothing)


def is_void(facts: ImageFacts) -> bool:
    """Whether nothing is labelled in an image, not even background."""
    return not any(facts.class_pixels)


def is_empty(facts: ImageFacts, classes: Classes) -> bool:
    """Whether all that is labelled in an image is background."""
    labelled = zip(facts.class_pixels, classes, strict=True)
    return facts.objects == 0 and not any(n for n, c in labelled if c.kind != "background")


def _pairwise(parts: list[SplitFingerprint]) -> SplitFingerprint:
    """The sum, in halves: tallies of many values are copied a few times instead of each time."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return _pairwise(parts[:half]) + _pairwise(parts[half:])


def _sum(one: Any, other: Any) -> Any:
    if isinstance(one, tuple):
        return tuple(_sum(a, b) for a, b in zip(one, other, strict=True))
    return one + other
