"""The same command again, with nothing to do, over many rows that are done.

    python -m benchmarks.rerun_idle --images 100000

The dataset is generated: shards of 64 images with all their tables (few columns filled), and the
plan of the run that would have made them. The collection is a manifest that names every image, its
version and its size.
"""

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import PredictSettings
from pipeline.images.collection import image_identity
from pipeline.models.bundle import load_spec
from pipeline.plan import plan_work
from pipeline.tables.files import to_parquet
from pipeline.tables.layout import shard_file
from pipeline.tables.runs import new_run, shards_of
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.spec import DatasetSpec, write_spec
from tests.chaos import Job, predict_words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--model", default="models/nuclei")
    given = parser.parse_args()
    model = str(Path(given.model).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = folder / "list.parquet"
        listing = make_listing(given.images)
        pq.write_table(
            pa.Table.from_batches([listing]).select(["uri", "version", "size"]), manifest
        )
        shards = make_dataset(folder / "out", listing, model, str(manifest))
        words = predict_words(str(manifest), model, str(folder / "out"))
        words = words[: words.index("--images-per-shard")]
        for _ in range(3):
            started = time.monotonic()
            job = Job.start(words, folder / "log")
            assert job.wait(600) == 0, job.text()
            assert "nothing to do" in job.text(), job.text()
            print(f"{given.images:,} done rows in {shards:,} shards: "
                  f"{time.monotonic() - started:.1f} s", flush=True)  # fmt: skip


def make_listing(count: int) -> pa.RecordBatch:
    uris = [f"s3://microscopy/plates/2026-{i % 12 + 1:02d}/well-{i:09d}.tif" for i in range(count)]
    versions = [f"{i:032x}" for i in range(count)]
    ids = [image_identity(*pair) for pair in zip(uris, versions, strict=True)]
    columns = {"image_id": ids, "uri": uris, "version": versions, "size": [60_000] * count}
    return pa.record_batch(columns)


def make_dataset(output: Path, listing: pa.RecordBatch, model: str, manifest: str) -> int:
    settings = PredictSettings(input=manifest, model=model, output=str(output))
    bundle = load_spec(model)
    spec = DatasetSpec(
        classes=bundle.classes, model=bundle.fingerprint, settings=settings.results_settings()
    )
    write_spec(str(output), spec)
    for table in SCHEMAS:
        (output / table).mkdir(parents=True)
    empty = {name: to_parquet(schema.empty_table()) for name, schema in SCHEMAS.items()}
    with plan_work(
        [listing],
        [],
        images_per_shard=64,
        bytes_per_shard=32 << 20,
        results=spec.results,
    ) as plan:
        about = {"kind": "predict", "results": spec.results, "input": manifest}
        run = new_run(str(output), plan.batches(), "", lambda: None, **about)
        for shard in shards_of(plan.batches()):
            for table, data in empty.items():
                Path(shard_file(str(output), table, "", shard.id)).write_bytes(data)
        run.finish({"run": run.id, "ended_by": "done"})
        return plan.shards


if __name__ == "__main__":
    main()
