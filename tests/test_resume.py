"""A commit that was cut off is computed again under the same names, and nothing is there twice."""

from pathlib import Path

import pytest

from pipeline.tables.dataset import OutputDataset
from tests.chaos import tables


@pytest.fixture
def many(trained: str, tmp_path: Path) -> str:
    """Images of five shards; two files are bad."""
    from pipeline.synthetic import write_annotated

    write_annotated(str(tmp_path / "many"), [(64, 64)] * 12, ["test"] * 12, seed=300)
    for i in range(2):
        (tmp_path / f"many/images/bad{i}.png").write_bytes(b"nothing like a PNG")
    return str(tmp_path / "many/images")


@pytest.mark.slow
def test_a_shard_that_is_written_again_replaces_itself(
    many: str, trained: str, tmp_path: Path, ray_cluster: None
) -> None:
    """A commit that was cut off before its images file is computed again, under the same names."""
    from jobs import predict
    from pipeline.config import PredictSettings

    output = tmp_path / "out"
    settings = PredictSettings(
        input=many, model=trained, output=str(output), images_per_shard=3, max_reject_share=1
    )
    predict.work(settings)
    expected = tables(output)
    images = sorted((output / "images").glob("*.parquet"))
    images[0].unlink()
    (output / "objects" / images[1].name).unlink()
    images[1].unlink()
    for summary in output.glob("_runs/*/summary.json"):
        summary.unlink()
    assert len(OutputDataset.open(str(output)).snapshot().shards) == len(images) - 2
    predict.work(settings)
    for name, table in tables(output).items():
        assert table.equals(expected[name]), name
