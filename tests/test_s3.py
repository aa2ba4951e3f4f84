"""Every place that takes a path takes a URI: input, model, settings and output on S3.

The store is a real one (see `bucket`) where Ceph is installed.
"""

from pathlib import Path

import duckdb
import fsspec
import pytest

from jobs import count, predict, train
from jobs._main import read_settings
from pipeline.config import CountSettings, PredictSettings, TrainSettings
from pipeline.distributed.backfill import Backfill
from pipeline.tables.dataset import OutputDataset


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_whole_path_on_s3(bucket: str, annotated: str, tmp_path: Path) -> None:
    fs = fsspec.filesystem("s3")
    fs.put(annotated, f"{bucket}/annotated", recursive=True)
    fs.pipe(
        f"{bucket}/train.yaml",
        b"epochs: 3\ncrop: 64\nmin_steps: 15\nnetwork: {depth: 2, width: 8}\n",
    )
    flags = ["--data", f"{bucket}/annotated", "--output", f"{bucket}/model"]
    settings = read_settings(TrainSettings, [*flags, "--config", f"{bucket}/train.yaml"])
    assert settings.epochs == 3
    assert train.work(settings) == 0
    names = {Path(p).name for p in fs.find(f"{bucket}/model")}
    assert {"bundle.json", "settings.yaml", "weights.safetensors", "README.md"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert not {"training.json", "state.json"} & names  # what only a training on its way needs

    fs.pipe(f"{bucket}/annotated/images/broken.png", b"")
    predicted = PredictSettings(
        input=f"{bucket}/annotated/images",
        model=f"{bucket}/model",
        output=f"{bucket}/out",
        images_per_shard=5,
    )
    assert predict.work(predicted) == 0
    with Backfill(predicted).plan() as work:
        assert work.nothing
    assert count.work(CountSettings(dataset=f"{bucket}/out")) == 0

    dataset = OutputDataset.open(f"{bucket}/out")
    images = dataset.read("images", ["uri", "version", "n_objects"]).to_pylist()
    assert len(images) == 16
    assert all(row["uri"].startswith(f"{bucket}/annotated/images/") for row in images)
    (reject,) = dataset.read("rejects", ["uri", "code"]).to_pylist()
    assert reject == {"uri": f"{bucket}/annotated/images/broken.png", "code": "empty"}

    duckdb.register_filesystem(fs)
    rows = duckdb.sql(f"select count(*) from read_parquet('{bucket}/out/objects/*.parquet')")
    assert rows.fetchall() == [(sum(row["n_objects"] for row in images),)]
