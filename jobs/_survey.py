"""What the jobs show of a survey: what was found, what is wrong, what was chosen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jobs._console import console, human_bytes, print_table
from jobs._log import Log

if TYPE_CHECKING:  # PyTorch and Ray are imported when there is work for them
    from pipeline.survey.configure import Choice
    from pipeline.survey.problems import Findings
    from pipeline.survey.summary import SplitSummary, Spread

_MOST_VALUES = 12  # of a list, such as a weight a class, that leave room for the reason


def print_summaries(found: Sequence["SplitSummary"]) -> None:
    """A table of the images, a column a split; and one of the classes, a row a split."""
    columns = [_image_figures(one) for one in found]
    rows: list[list[object]] = [
        [figures[0][0], *(value for _, value in figures)] for figures in zip(*columns, strict=True)
    ]
    print_table(["images of", *(one.split for one in found)], rows)
    console.print()
    header = ["class", "kind", "split", "images", "pixels", "share", "objects"]
    print_table(
        header,
        [
            [c.name, c.kind, one.split, c.images, c.pixels, f"{c.share:.2%}", c.objects]
            for classes in zip(*(one.classes for one in found), strict=True)
            for one, c in zip(found, classes, strict=True)
        ],
    )


def tell_notes(log: Log, findings: "Findings") -> None:
    """A line a note."""
    for note in findings.notes:
        log.warn("note", str(note))


def tell_choices(log: Log, choices: Sequence["Choice"], title: str) -> None:
    """A row a setting, with its reason."""
    rows: list[list[object]] = [[c.setting, _value(c.value), c.reason] for c in choices]
    log.table("choice", [title, "value", "because"], rows)


def _image_figures(one: "SplitSummary") -> list[tuple[str, object]]:
    diameters = "–" if one.diameters is None else ", ".join(f"{d:.0f}" for d in one.diameters)
    return [
        ("number", f"{one.images:,}"),
        ("height: least, median, most", _spread(one.height)),
        ("width: least, median, most", _spread(one.width)),
        ("channels", _times(one.channels)),
        ("type", _times(one.types)),
        ("in colour", f"{one.in_colour:,}"),
        ("dark ends (1%)", " to ".join(f"{v:.4g}" for v in one.dark_ends)),
        ("bright ends (99.8%)", " to ".join(f"{v:.4g}" for v in one.bright_ends)),
        ("objects bright on dark", f"{one.bright_objects:,}"),
        ("objects dark on bright", f"{one.dark_objects:,}"),
        ("nothing but background", f"{one.only_background:,}"),
        ("objects", f"{one.objects:,}"),
        ("an image: least, median, most", _spread(one.objects_an_image)),
        ("diameter: 5%, median, 95%", diameters),
        ("touch another", _part(one.touching, one.objects)),
        ("overlap another", _part(one.overlapping, one.objects)),
        ("void pixels", f"{one.void_share:.1%}"),
        ("decoded", human_bytes(one.decoded_bytes)),
    ]


def _spread(spread: "Spread") -> str:
    return f"{spread.least:,}, {spread.median:,}, {spread.most:,}"


def _times(counts: Mapping[str, int]) -> str:
    """What occurs, and how often where it is not the same everywhere."""
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({times:,})" for value, times in counts.items())


def _part(n: int, total: int) -> str:
    return f"{n:,} ({n / total:.0%})" if n else "0"


def _value(value: object) -> str:
    if isinstance(value, list) and len(value) > _MOST_VALUES:
        least, most = _value(min(value)), _value(max(value))
        return (
            f"{len(value)} times {least}" if least == most else f"{len(value)}, {least} to {most}"
        )
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
