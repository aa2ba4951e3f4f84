"""Time and memory of planning, for collections of millions of images.

    python -m benchmarks.plan_scale FOLDER [--images 10000000] [--only NAME ...]

Writes a manifest and the plan of a finished run over it into FOLDER, once; then each case runs in
a process of its own, from the manifest's file to the plan as a Parquet file. URIs have 80
characters, etags 32, a shard 64 images.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.images.collection import open_collection
from pipeline.plan import Plan, plan_work, remaining
from pipeline.tables.schema import PLAN

LIMITS = {"images_per_shard": 64, "bytes_per_shard": 1 << 30, "results": "benchmark"}
CHUNK = 100_000
LIVE = ["uri", "version", "image_id", "shard"]


def write_inputs(folder: Path, images: int) -> None:
    """manifest.parquet and few.parquet (a tenth of it), and done.parquet, the plan of all."""
    rng = np.random.default_rng(0)
    listed = pa.schema([("uri", pa.string()), ("version", pa.string()), ("size", pa.int64())])
    with (
        pq.ParquetWriter(folder / "manifest.parquet", listed, compression="zstd") as manifest,
        pq.ParquetWriter(folder / "few.parquet", listed, compression="zstd") as few,
        pq.ParquetWriter(folder / "done.parquet", PLAN, compression="zstd") as done,
    ):
        for start in range(0, images, CHUNK):
            rows = range(start, min(start + CHUNK, images))
            uris = [
                f"s3://microscopy-archive/site-{i // 1000 % 40:02d}/2026-{1 + i // 10**6 % 12:02d}-"
                f"{1 + i // 30_000 % 28:02d}/plate-{i // 384:06d}/well-{i % 384:03d}-{i:08d}.tif"
                for i in rows
            ]
            digits = rng.bytes(16 * len(rows)).hex()
            versions = [digits[k : k + 32] for k in range(0, len(digits), 32)]
            sizes = rng.integers(10**5, 10**6, len(rows))
            ids = [
                hashlib.blake2b(f"{uri}\0{version}".encode(), digest_size=12).hexdigest()
                for uri, version in zip(uris, versions, strict=True)
            ]
            shards = [hashlib.blake2b(b"%d" % (i // 64), digest_size=8).hexdigest() for i in rows]
            table = pa.table({"uri": uris, "version": versions, "size": sizes}, listed)
            manifest.write_table(table)
            if start < images // 10:
                few.write_table(table)
            nothing = [None] * len(rows)
            columns = [shards, [""] * len(rows), ids, uris, versions, sizes, nothing, nothing]
            done.write_table(pa.table(dict(zip(PLAN.names, columns, strict=True)), PLAN))


def parquet(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(50_000, columns=columns)


def planned(folder: Path, manifest: str, done: bool, **more: bool) -> None:
    collection = open_collection(str(folder / manifest))
    live = parquet(folder / "done.parquet", LIVE) if done else iter(())
    with plan_work(collection.batches(), live, **LIMITS, **more) as plan:
        keep(plan)


def resumed(folder: Path) -> None:
    """A plan of which every tenth shard is not committed yet."""
    shards: set[str] = set()
    for batch in parquet(folder / "done.parquet", ["shard"]):
        shards.update(batch["shard"].unique().to_pylist())
    committed = set(sorted(shards)[len(shards) // 10 :])
    with remaining(parquet(folder / "done.parquet"), committed) as plan:
        keep(plan)


def keep(plan: Plan) -> None:
    """Write the plan, as a run would."""
    with tempfile.NamedTemporaryFile() as file, pq.ParquetWriter(file, PLAN) as writer:
        for batch in plan.batches():
            writer.write_batch(batch)
    print(f"{plan.listed:,} listed, {plan.images:,} to do in {plan.shards:,} shards", end=" | ")


CASES = {
    "tenth": lambda folder: planned(folder, "few.parquet", False),
    "all done": lambda folder: planned(folder, "manifest.parquet", True),
    "resume": resumed,
    "none done": lambda folder: planned(folder, "manifest.parquet", False),
    "replace all": lambda folder: planned(folder, "manifest.parquet", True, replace=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--here", choices=CASES, help="one case, in this process")
    given = parser.parse_args()
    if given.here:
        started = time.perf_counter()
        CASES[given.here](given.folder)
        seconds = time.perf_counter() - started
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        print(
            f"{seconds:.1f} | {time.process_time():.1f} | {peak:.0f} | {os.getloadavg()[0]:.1f} |"
        )
        return
    if not (given.folder / "done.parquet").exists():
        given.folder.mkdir(parents=True, exist_ok=True)
        words = "from pathlib import Path; from benchmarks.plan_scale import write_inputs; "
        words += f"write_inputs(Path({str(given.folder)!r}), {given.images})"
        subprocess.run([sys.executable, "-c", words], check=True)
    print(
        "| case | | seconds | CPU seconds | peak RSS, MiB | load |\n" + "| --- " * 6 + "|",
        flush=True,
    )
    for case in given.only:
        print(f"| {case} | ", end="", flush=True)
        words = ["-m", "benchmarks.plan_scale", str(given.folder), "--here", case]
        subprocess.run([sys.executable, *words], check=True)


if __name__ == "__main__":
    main()
