"""An evaluation says what lacks."""

from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.evaluation import evaluate
from pipeline.evaluation.pairing import predicted_rows
from pipeline.labels import open_data
from pipeline.records import AnnotatedImage, Reject, SourceImage
from pipeline.synthetic import CLASSES, write_annotated
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


def test_images_without_a_suffix_are_no_namesakes(tmp_path: Path) -> None:
    spec = DatasetSpec(classes=CLASSES, model="m", settings={})
    dataset = OutputDataset.accepting(str(tmp_path / "out"), spec)
    dataset.create()
    for name in ("other", "one"):
        source = SourceImage(name, f"s3://bucket/{name}", "1", 1)
        reject = Reject(source, "read", "corrupt", f"is {name}")
        commit_shard(dataset.uri, [], [reject], CLASSES, Provenance(name, "r", "m"))
        image = AnnotatedImage("one", "val", "annotated/one", None, None, {})
        with pytest.raises(DataError, match="1 of 1 annotated images") as caught:
            predicted_rows(dataset, [image])
        assert ("corrupt: is one" in str(caught.value)) == (name == "one")
        assert "is other" not in str(caught.value)
