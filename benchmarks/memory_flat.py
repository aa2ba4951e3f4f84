"""Peak memory of a prediction over collections of growing size.

    python -m benchmarks.memory_flat --data ANNOTATED --model BUNDLE [--sizes 600 6000]

Each size runs as a user would run it, in processes of its own. Memory is the proportional set size
(shared pages counted once) of the driver and every process below it, four times a second.
"""

import argparse
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks._collections import link_images


def proportional_bytes(root: psutil.Process) -> int:
    """Of a process and all of its descendants."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[600, 6000])
    parser.add_argument("--side", type=int, default=256)
    given = parser.parse_args()
    for size in given.sizes:
        with tempfile.TemporaryDirectory() as folder:
            images = link_images(given.data, Path(folder) / "images", size, given.side)
            words = ["--input", str(images), "--model", given.model, "--output", f"{folder}/out"]
            started, seen = time.perf_counter(), [0]
            job = subprocess.Popen(
                [sys.executable, "-m", "jobs.predict", *words], stdout=subprocess.DEVNULL
            )
            while job.poll() is None:
                seen.append(proportional_bytes(psutil.Process(job.pid)))
                time.sleep(0.25)
            seconds = time.perf_counter() - started
            outcome = f"{seconds:.0f} s, exit {job.returncode}"
            late = statistics.median(seen[len(seen) // 2 :])
            print(
                f"{size} images: peak {max(seen) / 2**20:.0f} MiB, median of the second half "
                f"{late / 2**20:.0f} MiB, {outcome}",
                flush=True,
            )


if __name__ == "__main__":
    main()
