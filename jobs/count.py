"""Count the objects and pixels of an output dataset."""

import json
import sys

from jobs._console import console, print_table
from jobs._main import DONE, run_job
from pipeline.config import CountSettings

_TITLES = {"plus_minus": "± (95 %)"}


def work(settings: CountSettings) -> int:
    """Sum, and print a table or JSON."""
    from pipeline.counting import count
    from pipeline.tables.dataset import OutputDataset

    rows = count(OutputDataset.open(settings.dataset), settings.by)
    if settings.json_output:
        print(json.dumps(rows, indent=2))
        return DONE
    if not rows:
        console.print("no image is done yet")
        return DONE
    shown = rows[: settings.limit]
    header = [_TITLES.get(key, key.replace("_", " ")) for key in shown[0]]
    print_table(header, [[_whole(value) for value in row.values()] for row in shown])
    if len(shown) < len(rows):
        console.print(f"… and {len(rows) - len(shown):,} more; --limit N shows more, --json all")
    return DONE


def _whole(value: object) -> object:
    """Objects come whole."""
    return round(value) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(run_job(CountSettings, work))
