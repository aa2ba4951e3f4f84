"""A data set in one picture: telling images with their labels drawn on, and histograms.

Legend: H height, W width.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.drawing import (
    PAPER,
    WHITE,
    Picture,
    class_colours,
    draw,
    frame,
    grid,
    legend,
    text_width,
    write,
)
from pipeline.records import Box, Classes, Label, Sample
from pipeline.survey.facts import ImageFacts
from pipeline.survey.fingerprint import DataFingerprint
from pipeline.survey.tally import BINS_PER_OCTAVE, bin_edge
from pipeline.wording import plural

SIDE = 320  # pixels of a cell
_LEAST_SCALE = 0.5  # a larger image is shown by a part: its objects would be too small to see
_LEAST_LINE, _TWO_LINES = 13, 24  # pixels of a class in a panel; from which two lines fit
_LEAST_NAME = 10  # letters of an image's name that are shown, whatever else is to be told
_LEAST_BAR = 3  # pixels
_MUTED, _INK = (130, 130, 130), (120, 190, 255)


@dataclass(frozen=True)
class Pick:
    """An image worth showing."""

    facts: ImageFacts
    why: str
    """Empty for one that stands for the rest."""


def pick_images(facts: Sequence[ImageFacts], classes: Classes, count: int) -> list[Pick]:
    """Up to `count` images: the richest in each class, the most crowded, each kind of look, and
    then others spread evenly over the names."""
    picks: list[Pick] = []

    def add(why: str, score: Callable[[ImageFacts], float]) -> None:
        """The image with the highest score above 0 that is not shown yet."""
        shown = {id(pick.facts) for pick in picks}
        open_ones = [one for one in facts if id(one) not in shown and score(one) > 0]
        if open_ones and len(picks) < count:
            picks.append(Pick(max(open_ones, key=score), why))

    rarest_first = sorted(
        (place for place, spec in enumerate(classes) if spec.kind != "background"),
        key=lambda place: sum(one.class_pixels[place] for one in facts),
    )
    for place in rarest_first:
        add(f"most {classes[place].name}", lambda one, p=place: _share(one, p))  # type: ignore[misc]
    add("most touch", lambda one: one.touching)
    add("most crowded", lambda one: one.objects / (one.height * one.width))
    add("dark objects", lambda one: -one.contrast if one.polarity == "dark" else 0)
    add("bright objects", lambda one: one.contrast if one.polarity == "bright" else 0)
    add("in colour", lambda one: one.colour)
    add("in gray", lambda one: not one.colour)
    shown = {id(pick.facts) for pick in picks}
    others = [one for one in facts if id(one) not in shown]
    places = np.linspace(0, len(others) - 1, min(count - len(picks), len(others)))
    return picks + [Pick(others[i], "") for i in places.round().astype(int)]


def draw_survey(
    picks: Sequence[Pick],
    samples: Sequence[Sample],
    facts: Sequence[ImageFacts],
    found: DataFingerprint,
) -> Picture:
    """The picked images, `samples` in their order, above the histograms of all images."""
    cells = [_cell(p, s, found.classes) for p, s in zip(picks, samples, strict=True)]
    across = max(3, math.ceil(math.sqrt(len(cells))))
    panels = [_diameters(found), _class_shares(found), _levels(facts)]
    return np.vstack(
        [
            (sheet := grid(cells, across)),
            legend(found.classes, sheet.shape[1]),
            _fit_width(grid(panels, 3), sheet.shape[1]),
        ]
    )


def _share(facts: ImageFacts, place: int) -> float:
    return facts.class_pixels[place] / (facts.height * facts.width)


def _cell(pick: Pick, sample: Sample, classes: Classes) -> Picture:
    box = busiest_window(sample.label, round(SIDE / _LEAST_SCALE))
    window = (slice(box.y0, box.y1), slice(box.x0, box.x1))
    pixels, semantic = sample.pixels[window], sample.label.semantic[window]
    scale = SIDE / max(semantic.shape)
    picture = draw(pixels, semantic, sample.label.instances[window], classes, scale)
    return frame(picture, SIDE, _caption(pick))


def _caption(pick: Pick) -> str:
    """With as much of the name's end, where names differ, as there is room for."""
    what = f", {plural(pick.facts.objects, 'object')}" if pick.facts.objects else ""
    why = f", {pick.why}" if pick.why else ""
    name, rest = pick.facts.name, f" ({pick.facts.split}){what}{why}"
    shown = name
    while len(shown) > _LEAST_NAME and text_width(shown + rest) > SIDE - 8:
        name = name[1:]
        shown = ".." + name
    return shown + rest


def busiest_window(label: Label, side: int) -> Box:
    """The window of at most `side` pixels each way with the most edges between labels."""
    height, width = label.semantic.shape
    h, w = min(side, height), min(side, width)
    edges = np.zeros((height, width), np.uint8)
    for ids in (label.semantic, label.instances):
        edges[1:] |= ids[1:] != ids[:-1]
        edges[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    total = cv2.integral(edges)
    inside = total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
    y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
    return Box(int(y), int(x), int(y) + h, int(x) + w)


def _diameters(found: DataFingerprint) -> Picture:
    """Objects by diameter, on an axis of equal ratios."""
    bins = np.array(found.whole.diameters)
    panel = _panel(f"{plural(int(bins.sum()), 'object')} by diameter (pixels)")
    if not bins.any():
        return panel
    filled: list[int] = np.flatnonzero(bins).tolist()
    first = filled[0] // BINS_PER_OCTAVE * BINS_PER_OCTAVE
    last = (filled[-1] // BINS_PER_OCTAVE + 1) * BINS_PER_OCTAVE
    step = (SIDE - 20) / (last - first)
    for place in filled:
        x = 10 + (place - first) * step
        height = (SIDE - 70) * bins[place] / bins.max()
        top = SIDE - 30 - max(_LEAST_BAR, height)  # one object among thousands shows
        cv2.rectangle(panel, (round(x), round(top)), (round(x + step) - 1, SIDE - 30), _INK, -1)
    write(panel, f"{bins.max():,}", 10, 36, _MUTED)
    free = 0
    for place in range(first, last + 1, BINS_PER_OCTAVE):
        edge = f"{bin_edge(place):.0f}"
        x = min(round(10 + (place - first) * step), SIDE - 4 - text_width(edge))
        if x >= free:
            write(panel, edge, x, SIDE - 12, _MUTED)
            free = x + text_width(edge) + 6
    return panel


def _class_shares(found: DataFingerprint) -> Picture:
    """A bar a class: its share of the labelled pixels, by its root so that rare ones are seen.

    Where there are more classes than lines, those of most pixels.
    """
    panel = _panel("share of labelled pixels (bars: square root)")
    whole = found.whole
    shares = {
        s: n / max(whole.labelled_pixels, 1)
        for s, n in zip(found.classes, whole.class_pixels, strict=True)
    }
    lines = (SIDE - 54) // _LEAST_LINE
    if len(shares) > lines:
        largest = sorted(shares, key=lambda spec: -shares[spec])[:lines]
        write(panel, f"and {len(shares) - len(largest)} of fewer pixels", 10, SIDE - 8, _MUTED)
        shares = {spec: share for spec, share in shares.items() if spec in largest}
    colours = class_colours(found.classes)
    height = min(32, (SIDE - 54) // len(shares))
    for i, (spec, share) in enumerate(shares.items()):
        y, colour = 32 + i * height, colours.get(spec.id, _MUTED)
        name = f"{spec.name} {share:.2%}"
        # Few classes have their names below the bars, many beside them.
        left, top, low = (10, 4, height - 22) if height >= _TWO_LINES else (160, 3, height - 6)
        right = left + 1 + round((SIDE - 11 - left) * math.sqrt(share))
        cv2.rectangle(panel, (left, y + top), (right, y + top + max(2, low)), colour, -1)
        write(panel, name, 10, y + height - (4 if height >= _TWO_LINES else 2), WHITE)
    return panel


def _levels(facts: Sequence[ImageFacts]) -> Picture:
    """A line an image from its dark to its bright end, in the order of medians.

    In the files' own values; of images of several types, in shares of what each type holds.
    """
    panel = _panel("gray: dark, median, bright of each image")
    of_types = len({one.dtype for one in facts}) > 1
    levels = sorted(
        (_of_range(one) if of_types else list(one.levels) for one in facts),
        key=lambda level: level[1],
    )
    bottom = min(0.0, *(low for low, *_ in levels))
    top = max(bright for *_, bright in levels)
    height = (SIDE - 78) / ((top - bottom) or 1.0)
    thickness = max(1, min(8, (SIDE - 20) // (2 * max(len(levels), 1))))
    for x, level in zip(np.linspace(14, SIDE - 15, len(levels)), levels, strict=True):
        low, middle, high = (SIDE - 30 - round((value - bottom) * height) for value in level)
        cv2.line(panel, (round(x), low), (round(x), high), (70, 100, 130), thickness)
        cv2.circle(panel, (round(x), middle), max(1, thickness // 2), WHITE, -1)
    unit = " of what the type holds" if of_types else ""
    write(panel, f"{top:.4g}{unit}", 10, 36, _MUTED)
    write(panel, f"{bottom:.4g}", 10, SIDE - 12, _MUTED)
    return panel


def _of_range(facts: ImageFacts) -> list[float]:
    """The levels as shares of what the type holds; of the bright end, for floats."""
    kind = np.dtype(facts.dtype)
    most = float(np.iinfo(kind).max) if kind.kind in "ui" else max(map(abs, facts.levels)) or 1.0
    return [level / most for level in facts.levels]


def _panel(title: str) -> Picture:
    panel = _blank(SIDE, SIDE)
    write(panel, title, 10, 18, WHITE)
    return panel


def _blank(height: int, width: int) -> Picture:
    return np.full((height, width, 3), PAPER, np.uint8)


def _fit_width(picture: Picture, width: int) -> Picture:
    """Paper added on the right."""
    return np.hstack([picture, _blank(picture.shape[0], width - picture.shape[1])])
