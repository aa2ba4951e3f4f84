"""Training as a user runs it, and the parts of the loop that a user would notice."""

import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jobs import evaluate, predict, train
from pipeline.config import (
    ConfiguredSettings,
    EvaluateSettings,
    MethodSettings,
    NetworkSettings,
    PredictSettings,
    TrainSettings,
)
from pipeline.distributed.train import train_bundle
from pipeline.distributed.train_worker import check_shared, explained_memory
from pipeline.errors import DataError, SettingsError, StorageError
from pipeline.evaluation import evaluate as measure
from pipeline.labels import open_data
from pipeline.models.bundle import load_spec
from pipeline.synthetic import write_annotated
from pipeline.tables.dataset import OutputDataset
from pipeline.training.schedule import Schedule

SMALL = NetworkSettings(depth=2, width=8)


def test_the_learning_rate_is_annealed_to_the_end_of_the_time() -> None:
    settings = TrainSettings(data="d", output="o", max_minutes=1.0)
    schedule = Schedule(settings, steps_per_epoch=10, started=time.time() - 15)
    assert schedule.progress(0) < 0.01
    late = Schedule(settings, 10, time.time() - 61, first=30)
    assert late.progress(5) == 1
    assert schedule.factor(schedule.warmup) == pytest.approx(1)
    assert schedule.factor(1) == pytest.approx(0)
    by_steps = Schedule(TrainSettings(data="d", output="o", epochs=4), 10, time.time())
    assert [by_steps.progress(n) for n in (0, 20, 40)] == [0, 0.5, 1]


@pytest.mark.parametrize("step", [-3600, 3600])
def test_a_clock_that_is_set_meanwhile_makes_no_training_longer_or_shorter(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    settings = TrainSettings(data="d", output="o", max_minutes=1.0)
    schedule = Schedule(settings, 10, time.time() - 30, first=0.0)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + step)
    assert schedule.progress(0) == pytest.approx(0.5, abs=0.02)


def test_an_output_that_cannot_be_written_is_told_before_any_image_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for given in ({"output": "file/model"}, {"output": "model", "checkpoints": "file"}):
        places = {key: str(tmp_path / value) for key, value in given.items()}
        with pytest.raises(StorageError, match="file is a file, not a folder"):
            train_bundle(
                TrainSettings(data=str(tmp_path / "nowhere"), **places), lambda report: None
            )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_whole_path_finds_most_objects(
    trained: str, annotated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = load_spec(trained)
    assert spec.method.name == "instance"
    assert spec.channels == 3
    assert spec.metrics["ap_0.5"] > 0.5
    assert {p.name for p in Path(trained).iterdir()} == {
        "bundle.json", "weights.safetensors", "settings.yaml", "validation.json",
        "README.md", "curve.png", "metrics.jsonl", "tensorboard",
    }  # fmt: skip
    output = str(tmp_path / "out")
    predict.work(PredictSettings(input=f"{annotated}/images", model=trained, output=output))
    assert evaluate.work(EvaluateSettings(predictions=output, data=annotated, split="val")) == 0
    assert "panoptic quality" in capsys.readouterr().out
    (figures,) = measure(
        OutputDataset.open(output), open_data(annotated, val_fraction=0.2), split="val"
    )
    # The figures are those of the validation that chose the model.
    assert figures.ap_mean["0.5"] == pytest.approx(spec.metrics["ap_0.5"], abs=0.03)
    assert figures.count_bias == pytest.approx(spec.metrics["count_bias"], abs=0.05)
    assert figures.scores is not None
    assert figures.scores.error == pytest.approx(spec.metrics["object_calibration_error"], abs=0.05)
    assert figures.images == 4
    assert [c.name for c in figures.classes] == ["tissue", "cell", "crystal"]
    assert figures.classes[0].iou > 0.6
    assert math.isfinite(figures.count_error)


def test_evaluation_against_itself_is_perfect(
    trained: str, annotated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Predictions turned into labels: every figure is the best there is."""
    import cv2

    output, truth = str(tmp_path / "out"), tmp_path / "truth"
    predict.work(PredictSettings(input=f"{annotated}/images", model=trained, output=output))
    dataset = OutputDataset.open(output)
    write_annotated(str(truth), [(8, 8)] * 2, ["train", "val"], seed=1)  # classes.yaml, and names
    names = {}
    for row in dataset.read("images", ["image_id", "uri"]).to_pylist():
        names[row["image_id"]] = Path(row["uri"])
    for row in dataset.read("masks", ["image_id", "semantic", "instances"]).to_pylist():
        image = names[row["image_id"]]
        (truth / "images" / image.name).write_bytes(image.read_bytes())
        (truth / f"labels/{image.stem}.png").write_bytes(row["instances"])
        (truth / f"semantic/{image.stem}.png").write_bytes(row["semantic"])
    (truth / "manifest.csv").write_text(
        "name,split,half\n" + "".join(f"{p.stem},test,{p.stem[-1] > '5'}\n" for p in names.values())
    )
    groups = measure(dataset, open_data(str(truth), val_fraction=0.2), by="half")
    assert [g.group for g in groups] == ["all", "False", "True"]
    for group in groups:
        assert set(group.ap_mean.values()) == set(group.ap_pooled.values()) == {1.0}
        assert (group.pq, group.count_error, group.count_bias) == (1, 0, 0)
        assert group.scores is not None
        assert group.scores.correct == group.scores.counts  # all are right
        assert {c.dice for c in group.classes} <= {1, None}  # None where a class does not occur
        assert {c.iou for c in group.classes} <= {1, None}
    label = cv2.imread(str(truth / f"labels/{image.stem}.png"), cv2.IMREAD_UNCHANGED)
    assert np.any(label)


def test_labels_that_were_predicted_too_do_not_confuse_evaluation(
    trained: str, annotated: str, tmp_path: Path
) -> None:
    """Who predicts the whole annotated folder predicts its label images as well."""
    output = str(tmp_path / "out")
    predict.work(PredictSettings(input=annotated, model=trained, output=output))
    dataset = OutputDataset.open(output)
    assert dataset.read("images", ["uri"]).num_rows == 3 * 16
    (figures,) = measure(dataset, open_data(annotated, val_fraction=0.2), split="val")
    assert figures.ap_pooled["0.5"] > 0.45


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_semantic_training_on_two_workers(annotated: str, tmp_path: Path) -> None:
    settings = TrainSettings(
        data=annotated,
        output=str(tmp_path / "model"),
        epochs=3,
        workers=2,
        crop=64,
        min_steps=20,
        network=SMALL,
        method=MethodSettings(name="semantic", class_weights=[1, 1, 2, 2]),
        checkpoints=str(tmp_path / "checkpoints"),
    )
    assert train.work(settings) == 0
    spec = load_spec(settings.output)
    assert spec.method.name == "semantic"
    assert spec.metrics["mean_iou"] > 0.4
    assert list((tmp_path / "checkpoints").rglob("weights.safetensors"))


def test_an_output_on_the_disk_of_another_machine_is_refused(tmp_path: Path) -> None:
    """Where the worker that saves is on one that does not see it."""
    (tmp_path / "training.json").write_text("{}")
    check_shared(f"{tmp_path}/training.json")
    with pytest.raises(SettingsError, match=r"elsewhere is not the same folder on all machines"):
        check_shared(f"{tmp_path}/elsewhere/training.json")


def test_a_gpu_that_is_too_small_for_a_step_is_one_line() -> None:
    settings = ConfiguredSettings(
        data="any", output="any", channels=3, zoom=1, batch_size=64, crop=256
    )
    said = pytest.raises(SettingsError, match=r"batch_size: 64 crops of 256 .* --accumulate$")
    with said, explained_memory(settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4 GiB")


@pytest.mark.usefixtures("ray_cluster")
def test_a_damaged_label_stops_training_with_one_line(tmp_path: Path) -> None:
    write_annotated(str(tmp_path / "data"), [(40, 40)] * 4, ["train"] * 3 + ["val"], seed=0)
    bad = tmp_path / "data/labels/scene-0001.png"
    bad.write_bytes(bad.read_bytes()[:60])
    settings = TrainSettings(data=str(tmp_path / "data"), output=str(tmp_path / "model"), epochs=1)
    with pytest.raises(DataError, match=r"labels/scene-0001\.png damaged PNG") as error:
        train.work(settings)
    assert "\n" not in str(error.value)
    (tmp_path / "data/manifest.csv").write_text("name,split\nscene-0000,train\n")
    with pytest.raises(DataError, match="has no image of the split val"):
        train.work(settings)
