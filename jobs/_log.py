"""What a job tells while it works: lines for people, or a JSON object a line for programs."""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, Protocol

from rich.markup import escape

from jobs._console import console, live, print_table

_PROGRESS_SECONDS = 10.0


class Tell(Protocol):
    """Tells of one thing; `fields` are for programs, `text` is for people."""

    def __call__(self, event: str, text: str, **fields: object) -> None: ...


class TextLog:
    """For people, on a terminal or not."""

    def tell(self, event: str, text: str, **fields: object) -> None:
        """One line."""
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def warn(self, event: str, text: str, **fields: object) -> None:
        """One line about something that is not as it should be."""
        console.print(f"[yellow]note:[/] {escape(text)}", highlight=False, soft_wrap=True)

    def table(self, event: str, header: list[str], rows: Sequence[Sequence[object]]) -> None:
        print_table(header, [list(row) for row in rows])
        console.print()

    @contextmanager
    def progress(self, title: str) -> Iterator[Tell]:
        """A bar while the `with` lasts; the share that is done is among the fields."""
        with live(title) as show:

            def tell(event: str, text: str, **fields: object) -> None:
                show(float(str(fields["share"])), text)

            yield tell


class JsonLog:
    """A JSON object a line on standard output."""

    def tell(self, event: str, text: str, **fields: object) -> None:
        self._write("info", event, text, fields)

    def warn(self, event: str, text: str, **fields: object) -> None:
        self._write("warning", event, text, fields)

    def error(self, event: str, text: str, **fields: object) -> None:
        self._write("error", event, text, fields)

    def table(self, event: str, header: list[str], rows: Sequence[Sequence[object]]) -> None:
        for row in rows:
            self._write("info", event, event, dict(zip(header, row, strict=True)))

    @contextmanager
    def progress(self, title: str) -> Iterator[Tell]:
        last = 0.0

        def tell(event: str, text: str, **fields: object) -> None:
            nonlocal last
            if event != "progress" or time.monotonic() - last >= _PROGRESS_SECONDS:
                last = time.monotonic()
                self._write("info", event, f"{title} {text}", fields)

        yield tell

    def _write(self, level: str, event: str, text: str, fields: dict[str, object]) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "level": level,
            "event": event,
            "message": " ".join(text.split()),
            **fields,
        }
        print(json.dumps(line, default=str), file=sys.stdout, flush=True)


Log = TextLog | JsonLog


def log_to(kind: Literal["text", "json"]) -> Log:
    """The log that a setting names."""
    return JsonLog() if kind == "json" else TextLog()
