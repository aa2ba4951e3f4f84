"""What the jobs show: live bars on a terminal, a few plain lines anywhere else."""

import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

_LINE_SECONDS = 30.0

console = Console()


class Show(Protocol):
    """Shows how far a job is."""

    def __call__(self, share: float, text: str) -> None:
        """`share` of the work done, 0 to 1, and what to say beside the bar."""


@contextmanager
def live(title: str, *, quiet: bool = False) -> Iterator[Show]:
    """A bar while the `with` lasts; away from a terminal, a line every half minute at most.

    `quiet` shows nothing at all, for jobs whose output is for a program to read.
    """
    if quiet:
        yield lambda share, text: None
        return
    if not console.is_terminal:
        yield _Lines(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task(title, total=1.0, text="")
        yield lambda share, text: bar.update(task, completed=share, text=text)


class _Lines:
    def __init__(self, title: str) -> None:
        self.title = title
        self.last = time.monotonic()

    def __call__(self, share: float, text: str) -> None:
        if time.monotonic() - self.last >= _LINE_SECONDS:
            self.last = time.monotonic()
            line = f"{self.title} {share:4.0%}  {text}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_table(header: list[str], rows: list[list[object]], title: str | None = None) -> None:
    """Rows under a header; numbers to the right.

    Wide texts are folded on a terminal, and never cut; elsewhere a row is a line.
    """
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for i, name in enumerate(header):
        numeric = all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=numeric)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    if console.is_terminal:
        console.print(table, highlight=False)
        return
    unbounded = console.options.update(max_width=sys.maxsize)
    width = max(console.width, console.measure(table, options=unbounded).maximum)
    Console(file=console.file, width=width).print(table, highlight=False)


def _cell(value: object) -> str:
    if value is None or value != value:  # NaN is the one value that is not itself
        return "–"
    if isinstance(value, float):
        return f"{value:z.3f}" if abs(value) < 10 else f"{value:,.1f}"  # z: never minus zero
    if isinstance(value, int):
        return f"{value:,}"
    return escape(in_one_line(str(value)))  # a name in brackets is a name, and no style


def in_one_line(text: str) -> str:
    """Line ends, and what else would steer a terminal, as `\\n`: names may hold them."""
    return "".join(repr(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in text)


def human_bytes(size: float) -> str:
    """1536 → 1.5 KiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")


def human_seconds(seconds: float) -> str:
    """4000 → 1 h 7 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = round(minutes / 60)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours / 24:.1f} days"
