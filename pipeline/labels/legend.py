"""What the values and the colours of a class map stand for, and which of both speak.

A map of one channel has values, and, by the palette of its file or as gray, colours. Values that
are places in a palette say nothing where an encoder chose the palette, as for a colour-coded map
that was saved with few colours; colours say nothing where they are only for the eye.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline.errors import DataError

Color = tuple[int, int, int]
_BLACK: Color = (0, 0, 0)


@dataclass(frozen=True)
class Legend:
    """What a class list says beside its classes."""

    colours: tuple[tuple[Color, int], ...] = ()
    """Colours and the class ids that they stand for; VOID for no label."""
    void: tuple[int, ...] = ()
    """Values that nobody labelled, beside the data set's own."""

    @property
    def is_gray(self) -> bool:
        """Whether gray maps can show all of its colours: then that is how they are meant."""
        return bool(self.colours) and all(len(set(color)) == 1 for color, _ in self.colours)

    def to_json(self) -> str:
        """As images carry it to where they are read; empty where it says nothing."""
        return json.dumps(asdict(self)) if self.colours or self.void else ""

    @classmethod
    def from_json(cls, text: str) -> "Legend":
        found = json.loads(text or "{}")
        colours = ((tuple(color), value) for color, value in found.get("colours", ()))
        return cls(tuple(colours), tuple(found.get("void", ())))


@dataclass(frozen=True)
class Used:
    """The values that a map holds, what they mean, and how they look."""

    uri: str
    values: tuple[int, ...]
    by_value: tuple[int | None, ...]
    """The class of each as a value; None where the class list does not name it."""
    colours: tuple[Color, ...]
    by_colour: tuple[int | None, ...]
    """The class of each by its colour, likewise."""
    in_palette: bool
    """The file has a palette."""

    @property
    def coloured(self) -> bool:
        """Its palette is more than a row of grays."""
        grays = tuple((value,) * 3 for value in self.values)
        return self.in_palette and self.colours != grays


def classes_meant(used: Used, legend: Legend) -> tuple[int, ...]:
    """The class of each value of a map: by its colour, or else as a value.

    Raises:
        DataError: neither says it, or both do and differ where either may be meant.
    """
    by_value, by_colour = _all_known(used.by_value), _all_known(used.by_colour)
    if by_colour and (used.coloured or legend.is_gray):
        return by_colour
    if by_value and used.in_palette and _colours_differ(used):
        raise DataError(
            f"{used.uri} means other classes by its values than by the colours of its palette; "
            "save it without a palette, or with all colours as in the class list"
        )
    if by_value or by_colour:
        return by_value or by_colour
    unknown = _lacking(used.values, used.by_value)
    what = f"holds class ids that the class list does not name: {unknown}"
    if used.in_palette:
        shown = _lacking(used.colours, used.by_colour)
        what += f", nor their colours in its palette: {shown}"
    raise DataError(f"{used.uri} {what}")


def _colours_differ(used: Used) -> bool:
    """Whether the palette speaks of classes, and of others than the values.

    Most palettes for the eye begin with black: where it is all that differs, and others of their
    colours are no classes', it does not count.
    """
    meant = zip(used.colours, used.by_colour, used.by_value, strict=True)
    differing = {color for color, by_colour, by_value in meant if by_colour not in (None, by_value)}
    is_named = None not in used.by_colour
    return bool(differing) and (is_named or (used.coloured and differing != {_BLACK}))


def _all_known(meant: tuple[int | None, ...]) -> tuple[int, ...]:
    """Itself; nothing where one of them stands for nothing."""
    known = tuple(one for one in meant if one is not None)
    return known if len(known) == len(meant) else ()


def _lacking(found: Sequence[object], meant: Sequence[int | None]) -> list[object]:
    """The first few that stand for nothing."""
    return [one for one, class_id in zip(found, meant, strict=True) if class_id is None][:5]
