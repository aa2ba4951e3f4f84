"""One large image: time by its size, memory of all processes, and whether every object is counted.

    python -m benchmarks.gigapixel --sides 4096 8192 16384 32768 --spacing 72
    python -m benchmarks.gigapixel --sides 32768 --spacing 23

A tiled, compressed TIFF of bright discs that do not touch, of which it is known how many there
are, and a network whose weights make it a threshold between disc and background: so the count has
to be right to the object. Each image is predicted as a user would, in processes of its own. Memory
is the proportional set size of the driver and every process below it, once a second; the baseline
is the same job on an image of 64 x 64.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import duckdb
import numpy as np
import psutil
import tifffile
import torch
from numpy.typing import NDArray

from benchmarks.memory_flat import proportional_bytes
from pipeline.config import MethodSettings, NetworkSettings, NormalizeSettings
from pipeline.models.bundle import BundleSpec
from pipeline.models.weights import build_network, save_bundle
from pipeline.records import ClassSpec

_TILE = 512
_CLASSES = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="disc", kind="thing"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 8192, 16384, 32768])
    parser.add_argument("--spacing", type=int, default=72, help="pixels between middles of discs")
    parser.add_argument("--folder", type=Path, help="keep the images here")
    parser.add_argument("flags", nargs="*", help="more flags of jobs.predict, after --")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        model = write_threshold(folder / "model")
        baseline, _ = run(write_discs(folder, 64, given.spacing)[0], model, folder, given.flags)
        print(f"baseline: {baseline / 2**20:.0f} MiB", flush=True)
        rates = []
        for side in given.sides:
            image, n = write_discs(folder, side, given.spacing)
            peak, seconds = run(image, model, folder, given.flags)
            found = count(folder / "out")
            rates.append(side**2 / seconds / 1e6)
            print(
                f"{side} x {side}: {n:,} discs, counted {found:,}; {seconds:.0f} s, "
                f"{rates[-1]:.2f} Mpx/s ({rates[-1] / rates[0]:.2f} of the first); peak "
                f"{peak / 2**20:.0f} MiB, {(peak - baseline) / 2**20:.0f} over the baseline",
                flush=True,
            )


def run(image: Path, model: str, folder: Path, flags: list[str]) -> tuple[int, float]:
    """Peak memory in bytes, and seconds of the whole command."""
    subprocess.run(["rm", "-rf", str(folder / "out")], check=True)
    words = ["--input", str(image), "--model", model, "--output", str(folder / "out"), *flags]
    started, peak = time.perf_counter(), 0
    job = subprocess.Popen([sys.executable, "-m", "jobs.predict", *words])
    while job.poll() is None:
        peak = max(peak, proportional_bytes(psutil.Process(job.pid)))
        time.sleep(1)
    assert job.returncode == 0
    return peak, time.perf_counter() - started


def count(output: Path) -> int:
    """Objects in the table, each once."""
    query = f"select count(distinct object_id), count(*) from '{output}/objects/*.parquet'"
    ids, rows = duckdb.sql(query).fetchall()[0]
    assert ids == rows
    return int(rows)


def write_threshold(path: Path) -> str:
    """A bundle whose network says disc where a pixel is above half of the range."""
    spec = BundleSpec(
        network=NetworkSettings(depth=1, width=2, full_resolution="full", norm="none"),
        channels=1,
        classes=_CLASSES,
        method=MethodSettings(name="semantic", min_area=1),
        normalize=NormalizeSettings(kind="range"),
    )
    network = build_network(spec)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        first, second = (m for m in network.encoder[0] if isinstance(m, torch.nn.Conv2d))
        third, fourth = (m for m in network.decoder[0].conv if isinstance(m, torch.nn.Conv2d))
        # The pixel itself, through the encoder, over the skip, through the decoder.
        for conv, channel in ((first, 0), (second, 0), (third, 2), (fourth, 0)):
            conv.weight[0, channel, 1, 1] = 1
        head = network.heads["semantic"]
        head.weight[1, 0] = 100
        head.bias[1] = -50
    save_bundle(spec, network, str(path))
    return str(path)


def write_discs(folder: Path, side: int, spacing: int) -> tuple[Path, int]:
    """A tiled TIFF of discs that do not touch, and how many they are."""
    rng = np.random.default_rng(side * 1000 + spacing)
    across = side // spacing
    radius = rng.integers(spacing // 5, spacing // 3, (across, across))
    room = spacing - 2 * radius - 3
    middles = [
        np.arange(across).reshape(shape) * spacing + radius + 1 + (rng.random(room.shape) * room)
        for shape in ((-1, 1), (1, -1))
    ]
    path = folder / f"discs-{side}-{spacing}.tif"
    if not path.exists():
        y, x = (m.astype(int) for m in middles)
        tifffile.imwrite(
            path, tiles(side, spacing, y, x, radius), shape=(side, side), dtype=np.uint8,
            tile=(_TILE, _TILE), compression="zlib", bigtiff=True, photometric="minisblack",
        )  # fmt: skip
    return path, across * across


def tiles(
    side: int, spacing: int, y: NDArray[np.int_], x: NDArray[np.int_], radius: NDArray[np.int_]
) -> Iterator[NDArray[np.uint8]]:
    """Row by row."""
    noise = np.random.default_rng(0).integers(0, 40, (_TILE, _TILE)).astype(np.uint8)
    for y0 in range(0, side, _TILE):
        for x0 in range(0, side, _TILE):
            discs = np.zeros((_TILE, _TILE), np.uint8)
            rows = slice(max(y0 // spacing - 1, 0), (y0 + _TILE) // spacing + 1)
            columns = slice(max(x0 // spacing - 1, 0), (x0 + _TILE) // spacing + 1)
            found = (a[rows, columns].ravel().tolist() for a in (y, x, radius))
            for cy, cx, r in zip(*found, strict=True):
                cv2.circle(discs, (cx - x0, cy - y0), r, 160, cv2.FILLED)
            yield (discs + noise)[: side - y0, : side - x0]


if __name__ == "__main__":
    main()
