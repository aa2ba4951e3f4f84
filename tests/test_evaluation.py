"""An evaluation says what lacks."""

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.evaluation import evaluate
from pipeline.labels import open_data
from pipeline.records import Reject, SourceImage
from pipeline.synthetic import write_annotated
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec


def test_an_image_that_was_rejected_is_named_with_the_reason(tmp_path: Path) -> None:
    write_annotated(str(tmp_path / "data"), [(32, 32)] * 3, ["val"] * 3, seed=0)
    data = open_data(str(tmp_path / "data"))
    dataset = OutputDataset.accepting(
        str(tmp_path / "out"), DatasetSpec(classes=data.classes, model="m", settings={})
    )
    dataset.create()
    first, second, _ = sorted(data.images, key=lambda image: image.name)
    with pytest.raises(DataError, match=f"3 of 3 .* such as {first.name}; predict them"):
        evaluate(dataset, data)
    source = SourceImage(second.name, second.image_uri, "1", 1)
    rejects = [Reject(source, "read", "corrupt", "is cut short")]
    commit_shard(dataset.uri, [], rejects, data.classes, Provenance("s", "r", "m"))
    reason = rf"3 of 3 .*; 1 of them .* such as {second.name} \(corrupt: is cut short\): .* --retry"
    with pytest.raises(DataError, match=reason):
        evaluate(dataset, data)
