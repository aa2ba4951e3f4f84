"""What a training leaves to look at: read back as a user's tools would."""

import errno
import json
import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from pipeline import storage
from pipeline.config import RecordSettings, TrainSettings
from pipeline.errors import UnavailableError
from pipeline.metrics.figures import Figures
from pipeline.models.bundle import load_spec
from pipeline.training.curve import draw_curve
from pipeline.training.milestones import is_milestone
from pipeline.training.recorders.group import recording
from pipeline.training.recorders.history import EpochLine, load_lines
from pipeline.training.reports import (
    EpochReport,
    Needs,
    Notice,
    Overlay,
    Report,
    StepReport,
    Validation,
    load_validation,
)


def events(folder: str) -> Iterator[Event]:
    """Every event of the files in a folder; a record is its length, a check, itself, a check."""
    for file in storage.list_files(folder):
        data, at = storage.read_bytes(file.uri), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 16 + length


def scalars(folder: str) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture
def report(trained: str) -> EpochReport:
    return EpochReport(
        epoch=1,
        step=40,
        loss=1.5,
        learning_rate=1e-3,
        validation=load_validation(trained),
        overlays=(Overlay("scene", np.full((20, 60, 3), 99, np.uint8)),),
        seconds=3.0,
        validation_seconds=1.0,
        pixels_per_second=1e6,
        needs=Needs("CPU, float32", peak_memory=3 * 2**30, peak_device_memory=0),
    )


def test_a_line_an_epoch_and_the_published_figures(trained: str) -> None:
    rows = [json.loads(line) for line in Path(trained, "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows[:-1]]  # those that were validated
    assert epochs == sorted(set(epochs))
    assert (epochs[0], epochs[-1]) == (1, 8)
    assert [row["final"] for row in rows] == [False] * len(epochs) + [True]
    assert [row["step"] for row in rows[:-1]] == [45 * n for n in epochs]
    # The last has the thresholds tuned, and so is no worse than the best epoch.
    assert rows[-1]["score"] == max(row["score"] for row in rows)
    metrics = load_spec(trained).metrics
    assert {name: rows[-1][name] for name in metrics} == metrics
    assert load_validation(trained).metrics == metrics
    assert metrics["score"] == pytest.approx(np.mean([metrics[f"ap_0.{n}"] for n in range(5, 10)]))


def test_tensorboard_shows_curves_and_pictures(trained: str) -> None:
    folder = f"{trained}/tensorboard"
    found = scalars(folder)
    steps = [step for step, _ in found["val/score"]]
    assert (steps[0], steps[-1]) == (45, 360)
    best = max(value for _, value in found["val/score"])
    assert 0 < best <= load_spec(trained).metrics["score"] + 1e-6
    assert {"train/loss", "train/learning_rate", "val/iou/cell", "val/ap_50/crystal"} <= set(found)
    pictures: dict[str, list[int]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "image":
                pictures.setdefault(value.tag, []).append(event.step)
                encoded = np.frombuffer(value.image.encoded_image_string, np.uint8)
                assert cv2.imdecode(encoded, cv2.IMREAD_COLOR).std() > 10
    assert len(pictures) == 4  # the validation images, after epochs that are milestones, and last
    expected = [step for step in steps if is_milestone(step // 45) or step == 360]
    assert all(shown == expected for shown in pictures.values())


def test_mlflow_keeps_settings_figures_and_the_card(
    trained: str, tracked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracked)
    experiment = client.get_experiment_by_name("tessera")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["network.depth"] == "2"
    history = client.get_metric_history(run.info.run_id, "val/score")
    lines = Path(trained, "metrics.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if not line["final"]]
    assert [metric.step for metric in history] == steps, "an epoch may have several validations"
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"README.md", "curve.png", "bundle.json", "metrics.jsonl"} <= names


def test_the_card_tells_the_figures_of_the_bundle(trained: str) -> None:
    text = Path(trained, "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "image-segmentation"
    metrics, validation = load_spec(trained).metrics, load_validation(trained)
    shown = ("score", "pq", "count_error", "mean_iou", "ap_0.5", "ap_0.9", "iou/cell", "ap_50/cell")
    for name in shown:
        assert f" {metrics[name]:.3f} " in body
    assert f"error {validation.figures.scores.error:.3f}" in body
    assert "Trained on synthetic scenes." in body
    assert "| images of the split train | 12 |" in body
    assert "python -m jobs.predict" in body
    assert str(Path(trained).parent) not in text  # no path of this machine


def test_the_curve_is_a_picture_with_something_on_it(trained: str) -> None:
    picture = cv2.imread(f"{trained}/curve.png")
    assert picture.shape == (1000, 1400, 3)
    for half in np.split(picture, 2):
        for panel in np.split(half, 2, axis=1):
            assert panel.std() > 5


def test_a_score_that_is_the_mean_iou_is_one_line() -> None:
    """Of class maps there were two, one on top of the other."""

    def second_lines(mean_iou: float) -> int:
        metrics = {"score": 0.5, "mean_iou": mean_iou}
        line = EpochLine(1, 3, 1.5, 0.0, 2.0, 1.0, 1e5, 0, 0, metrics)
        figures = Figures("val", 1, {}, {}, None, None, None, mean_iou, (), scores=None)
        body = np.frombuffer(draw_curve([line], Validation(0.5, figures, None)), np.uint8)
        return int((cv2.imdecode(body, cv2.IMREAD_COLOR) == (0x5B, 0x49, 0xD1)).all(-1).sum())

    assert (second_lines(0.5), second_lines(0.4) > 20) == (0, True)


def test_a_resumed_training_goes_on_with_its_lines(report: EpochReport, tmp_path: Path) -> None:
    settings = TrainSettings(data="d", output=str(tmp_path))
    for epochs in ([1, 2, 3], [3, 4], [4]):  # the second driver had saved epoch 2 last
        with recording(settings, lambda report: None) as recorders:
            for epoch in epochs:
                recorders(replace(report, epoch=epoch, step=40 * epoch, loss=10.0 * len(epochs)))
    lines = load_lines(f"{tmp_path}/metrics.jsonl")
    assert [(line.epoch, line.loss) for line in lines] == [(1, 30), (2, 30), (3, 20), (4, 10)]
    assert len(list((tmp_path / "tensorboard").iterdir())) >= 1
    with recording(settings, lambda report: None) as recorders:
        recorders(report)  # a new training into the same output
    assert [line.epoch for line in load_lines(f"{tmp_path}/metrics.jsonl")] == [1]
    assert [step for step, _ in scalars(f"{tmp_path}/tensorboard")["val/score"]] == [40]


def test_event_files_reach_object_storage(report: EpochReport, bucket: str) -> None:
    output = f"{bucket}/watched"
    with recording(TrainSettings(data="d", output=output), lambda report: None) as recorders:
        recorders(StepReport(1, 10, 2.0, 1e-3, 0.1, 1e6))
        recorders(report)
    found = scalars(f"{output}/tensorboard")
    assert found["train/loss"] == [(10, 2.0)]
    assert found["val/score"] == [(40, pytest.approx(report.score))]
    assert [line.epoch for line in load_lines(f"{output}/metrics.jsonl")] == [1]


def test_what_is_turned_off_is_not_written(report: EpochReport, tmp_path: Path) -> None:
    nothing = dict.fromkeys(RecordSettings.model_fields, False)
    settings = TrainSettings(data="d", output=str(tmp_path), record=RecordSettings(**nothing))
    with recording(settings, lambda report: None) as recorders:
        recorders(report)
    assert list(tmp_path.iterdir()) == []


def test_a_recorder_that_fails_costs_one_notice(
    report: EpochReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow is wanted but missing, and metrics.jsonl can't be written; curves go on."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    (tmp_path / "metrics.jsonl").mkdir()
    heard: list[Report] = []
    with recording(TrainSettings(data="d", output=str(tmp_path)), heard.append) as recorders:
        recorders(report)
        recorders(replace(report, epoch=2, step=80))
    notices = [one.text for one in heard if isinstance(one, Notice)]
    assert len(notices) == 2
    assert "pip install mlflow-skinny" in notices[0]
    assert "metrics.jsonl" in notices[1]
    assert [one.epoch for one in heard if isinstance(one, EpochReport)] == [1, 2]
    assert len(scalars(f"{tmp_path}/tensorboard")["val/score"]) == 2


def test_a_disk_that_gets_full_ends_the_curves_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that died of it printed a stack trace, and the training waited for it for ever."""
    write, written = RecordWriter.write, []

    def write_until_full(self: RecordWriter, data: bytes) -> None:
        written.append(data)
        if len(written) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", write_until_full)
    heard: list[Report] = []
    with recording(TrainSettings(data="d", output=str(tmp_path)), heard.append) as recorders:
        for step in (10, 20):
            recorders(StepReport(1, step, 2.0, 1e-3, 0.1, 1e6))
    (notice,) = [one.text for one in heard if isinstance(one, Notice)]
    assert notice.startswith("nothing more is recorded to TensorBoard: ")
    assert notice.endswith("No space left on device")


def test_milestones_thin_out() -> None:
    found = [epoch for epoch in range(1, 1001) if is_milestone(epoch)]
    assert found[:5] == [1, 2, 3, 4, 5]
    assert 20 < len(found) < 40


def test_a_store_that_is_away_for_an_epoch_leaves_no_gap(
    report: EpochReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Report] = []
    settings = TrainSettings(
        data="d", output=str(tmp_path), record=RecordSettings(tensorboard=False, curve=False)
    )

    def away(uri: str, data: bytes) -> None:
        raise UnavailableError(f"cannot write {uri}")

    with recording(settings, told.append) as recorders:
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", away)
            recorders(report)
        recorders(replace(report, epoch=2, step=80))
    assert [line.step for line in load_lines(str(tmp_path / "metrics.jsonl"))] == [40, 80]
    assert not [one for one in told if isinstance(one, Notice)]
