"""A fingerprint as figures to read: for tables, JSON and model cards."""

import math
from dataclasses import dataclass

from pipeline.survey.fingerprint import DataFingerprint, SplitFingerprint
from pipeline.survey.tally import Tally, diameter_quantile


@dataclass(frozen=True)
class Spread:
    """Of one quantity over many images."""

    least: int
    median: int
    most: int


@dataclass(frozen=True)
class ClassSummary:
    """One class in one split."""

    name: str
    kind: str
    images: int
    """That hold it."""
    pixels: int
    share: float
    """Of the labelled pixels."""
    objects: int | None
    """None for stuff and background."""


@dataclass(frozen=True)
class SplitSummary:
    """One split. Lengths in pixels; intensities in the files' own units."""

    split: str
    images: int
    height: Spread
    width: Spread
    channels: dict[str, int]
    """Channels → images."""
    types: dict[str, int]
    """Type → images."""
    in_colour: int
    dark_ends: tuple[float, float]
    """Least and most of the images' 1st percentiles of gray."""
    bright_ends: tuple[float, float]
    """Least and most of the images' 99.8th percentiles."""
    bright_objects: int
    """Images whose objects are brighter than what is around them."""
    dark_objects: int
    only_background: int
    objects: int
    objects_an_image: Spread
    diameters: tuple[float, float, float] | None
    """5%, median and 95% of the objects' diameters, as discs of their area."""
    touching: int
    overlapping: int
    void_share: float
    decoded_bytes: int
    classes: tuple[ClassSummary, ...]


def summaries(found: DataFingerprint) -> list[SplitSummary]:
    """One a split, and, where there are several, one of all."""
    parts = [*found.splits, found.whole] if len(found.splits) > 1 else list(found.splits)
    return [_summary(found, one) for one in parts]


def card_rows(found: DataFingerprint) -> list[tuple[str, str]]:
    """What a model card says of the data beside the number of images: what, and how much."""
    whole = _summary(found, found.whole)
    rows = [
        ("height and width in pixels, median", f"{whole.height.median:,} x {whole.width.median:,}"),
        ("height and width, largest", f"{whole.height.most:,} x {whole.width.most:,}"),
        ("images in colour", f"{whole.in_colour:,}"),
        *(
            (f"{one.name}: share of labelled pixels", f"{one.share:.3%}")
            for one in whole.classes
            if one.kind != "background"
        ),
    ]
    if whole.objects and whole.diameters:
        small, median, large = whole.diameters
        rows += [
            ("objects", f"{whole.objects:,}"),
            ("object diameter, 5%, median, 95%", f"{small:.0f}, {median:.0f}, {large:.0f}"),
            ("objects that touch another", f"{whole.touching / whole.objects:.0%}"),
        ]
    return rows


def _summary(found: DataFingerprint, one: SplitFingerprint) -> SplitSummary:
    five, median, most = (diameter_quantile(one.diameters, share) for share in (0.05, 0.5, 0.95))
    return SplitSummary(
        split=one.split,
        images=one.images,
        height=_spread(one.heights),
        width=_spread(one.widths),
        channels={str(value): times for value, times in one.channels.counts},
        types=dict(one.dtypes.counts),
        in_colour=one.colour,
        dark_ends=(one.dark_levels.low, one.dark_levels.high),
        bright_ends=(one.bright_levels.low, one.bright_levels.high),
        bright_objects=one.bright,
        dark_objects=one.dark,
        only_background=one.empty,
        objects=one.objects,
        objects_an_image=_spread(one.objects_an_image),
        diameters=None if math.isnan(median) else (five, median, most),
        touching=one.touching,
        overlapping=one.overlapping,
        void_share=one.void_pixels / (one.void_pixels + one.labelled_pixels),
        decoded_bytes=one.decoded_bytes,
        classes=tuple(
            ClassSummary(
                name=spec.name,
                kind=spec.kind,
                images=one.class_images[i],
                pixels=one.class_pixels[i],
                share=one.class_pixels[i] / max(one.labelled_pixels, 1),
                objects=one.class_objects[i] if spec.kind == "thing" else None,
            )
            for i, spec in enumerate(found.classes)
        ),
    )


def _spread(tally: Tally[int]) -> Spread:
    return Spread(tally.quantile(0), tally.quantile(0.5), tally.quantile(1))
