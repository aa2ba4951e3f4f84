"""`python -m jobs`: the jobs, with a line each."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches

from rich.console import Console
from rich.table import Table

JOBS = {
    "inspect": "annotated images → what is in them, what is wrong, what a training would choose",
    "train": "annotated images → a model bundle",
    "predict": "images and a model bundle → masks, objects and counts in Parquet",
    "verify": "predictions → whether they are whole; --repair mends them",
    "compact": "predictions → the same in few large files",
    "evaluate": "predictions and annotated images → accuracy",
    "count": "predictions → how many objects of each class",
    "export": "predictions → OME-Zarr, GeoJSON, COCO or TIFF, for other tools",
    "overlay": "predictions → one picture of objects drawn over their images",
    "submit": "any of those above on a Ray cluster: submitted, followed, stopped",
    "demo": "all of it on a small synthetic collection",
}


def main(words: Sequence[str]) -> int:
    """Print the list; 2 when called with anything but --help, for so no job is called."""
    table = Table("job", "what it does", box=None, pad_edge=False)
    for name, line in JOBS.items():
        table.add_row(f"python -m jobs.{name}", line)
    Console().print(table)
    Console().print("\nEach takes --help, and settings from a YAML file with --config.")
    if not words or words[0] in ("-h", "--help"):
        return 0
    job = words[0].removeprefix("jobs.")
    wrong = "" if job in JOBS else f"there is no job {job}; "
    alike = get_close_matches(job, JOBS, n=1) or ["JOB"]
    print(f"error: {wrong}a job is called as python -m jobs.{alike[0]}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
