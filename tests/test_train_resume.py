"""Nothing is lost when a training is stopped, or when one of its workers dies."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from pydantic import BaseModel
from ray.exceptions import RayActorError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from jobs import train
from jobs._main import read_settings, run_job
from pipeline.config import (
    ConfiguredSettings,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
    TrainSettings,
)
from pipeline.config.base import CHOSEN
from pipeline.distributed.mailbox import Report, deliver, listening
from pipeline.distributed.session import ray_session
from pipeline.distributed.streaming import StreamedSamples
from pipeline.distributed.survey import survey
from pipeline.distributed.train import lost_workers, train_bundle
from pipeline.errors import DataError, LeaseError, SettingsError, StoppedError, TesseraError
from pipeline.labels import open_data
from pipeline.models.bundle import load_spec
from pipeline.survey.facts import data_hash, measure_image
from pipeline.synthetic import CLASSES
from pipeline.tables.lease import hold_lease
from pipeline.training.reports import EpochReport, Notice, StepReport
from pipeline.training.samples import CachedSamples
from pipeline.training.state import Snapshot, TrainingState, load_whole_snapshot, save_snapshot
from pipeline.training.unfinished import (
    Unfinished,
    check_unchanged,
    checkpoints_uri,
    find_unfinished,
    mark_unfinished,
)
from tests.conftest import ROOT


def settings_for(data: str, output: Path, **changes: object) -> TrainSettings:
    values = {
        "epochs": 12, "crop": 64, "min_steps": 15, "network": NetworkSettings(depth=2, width=8),
        "checkpoint_minutes": 0.01,
    }  # fmt: skip
    return TrainSettings(data=data, output=str(output), **(values | changes))


def terminate_after_a_checkpoint(flags: list[str], output: Path) -> str:
    """Run the job until it has saved something, and send SIGTERM; returns what it printed."""
    job = subprocess.Popen(
        [sys.executable, "-m", "jobs.train", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 240
        while not list(output.rglob("state.json")):
            assert job.poll() is None, job.communicate()
            assert time.monotonic() < end
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        said, errors = job.communicate(timeout=240)
    finally:
        job.kill()
    assert job.returncode == 0, errors
    return said


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_costs_no_more_than_the_last_checkpoint(
    annotated: str, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    steps: list[tuple[float, StepReport]] = []
    killed: list[float] = []
    told: list[str] = []

    def on_report(report: Report) -> None:
        if isinstance(report, Notice):
            told.append(report.text)
        if not isinstance(report, StepReport):
            return
        steps.append((time.time(), report))
        # A file that is there may still be on its way: what Ray Train's own list names is safe.
        safe = [path.read_text() for path in output.rglob("checkpoint_manager_snapshot.json")]
        if killed or report.progress < 0.2 or not any("checkpoint_dir_name" in s for s in safe):
            return
        workers = [
            process
            for process in psutil.Process().children(recursive=True)
            if "RayTrainWorker" in " ".join(process.cmdline())
        ]
        workers[-1].send_signal(signal.SIGKILL)
        killed.append(report.progress)

    result = train_bundle(
        settings_for(annotated, output, epochs=20, workers=2, batch_size=4), on_report
    )
    assert killed
    assert any("workers were lost or added; the training goes on from" in line for line in told)
    assert result.spec.metrics["ap_0.5"] > 0.2
    backwards = [
        (before.progress, after.progress)
        for (_, before), (_, after) in pairwise(steps)
        if after.progress < before.progress
    ]
    assert len(backwards) <= 1
    assert all(after > 0 for _, after in backwards)  # it did not begin again
    assert steps[-1][1].progress > 0.8
    assert not {"checkpoints", "training.json", "_lease"} & {path.name for path in output.iterdir()}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_sigterm_saves_and_the_line_that_is_printed_resumes(annotated: str, tmp_path: Path) -> None:
    output = tmp_path / "a model"
    settings = settings_for(annotated, output, epochs=500)
    flags = ["--data", annotated, "--output", str(output), "--epochs", "500", "--crop", "64"]
    flags += ["--min-steps", "15", "--network.depth", "2", "--network.width", "8"]
    flags += ["--checkpoint-minutes", "0.01"]
    said = terminate_after_a_checkpoint(flags, output)
    words = shlex.split(said.strip().splitlines()[-1])
    assert words[:3] == ["python", "-m", "jobs.train"]
    typed, printed = (read_settings(TrainSettings, one) for one in (flags, words[3:]))
    assert printed == typed.model_copy(update={"resume": True, "restart": False})
    unfinished = find_unfinished(settings.model_copy(update={"resume": True}))
    assert unfinished is not None
    assert 0 < unfinished.state.progress < 1

    with pytest.raises(SettingsError, match=r"unfinished training, \d+% done: --resume goes on"):
        train.work(settings)
    changed = settings.model_copy(update={"resume": True, "crop": 96})
    with pytest.raises(SettingsError, match="setting crop: 64 in the unfinished training, not 96"):
        train.work(changed)
    seen: list[StepReport] = []
    epochs = unfinished.state.epoch + 8  # fewer than it was started with, so that it ends soon
    result = train_bundle(
        settings.model_copy(update={"resume": True, "epochs": epochs}),
        lambda report: seen.append(report) if isinstance(report, StepReport) else None,
    )
    assert seen[0].progress >= unfinished.state.progress
    assert result.spec.metrics["ap_0.5"] > 0.2
    assert load_spec(str(output)) == result.spec
    assert not (output / "checkpoints").exists()
    with pytest.raises(SettingsError, match="holds a finished model; --restart trains it anew"):
        train.work(settings.model_copy(update={"resume": True}))


def test_a_training_that_is_stopped_before_it_began_prints_the_line_that_begins_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once, however long its images take to be read."""

    def reads_for_hours(*given: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("pipeline.distributed.train.train_bundle", reads_for_hours)
    flags = ["--data", "d", "--output", str(tmp_path / "model"), "--crop", "64"]
    before = time.monotonic()
    assert run_job(TrainSettings, train.work, flags) == 0
    assert time.monotonic() - before < 30
    *_, told, line = capsys.readouterr().out.strip().splitlines()
    assert told == "stopped; this begins anew:"
    assert read_settings(TrainSettings, shlex.split(line)[3:]) == read_settings(
        TrainSettings, flags
    )


@pytest.mark.parametrize("flag", ["--restart", "--resume"])
def test_the_line_of_one_that_is_stopped_early_does_not_turn_restart_into_resume(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for("d", tmp_path / "model")
    configured = ConfiguredSettings(**dict(settings) | {"channels": 3, "zoom": 1, "batch_size": 8})
    mark_unfinished(settings, configured, CLASSES, "of before", None)

    def stopped(*given: object) -> None:
        raise StoppedError("stopped")

    monkeypatch.setattr("pipeline.distributed.train.train_bundle", stopped)
    flags = ["--data", "d", "--output", settings.output, flag]
    assert run_job(TrainSettings, train.work, flags) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1].endswith(flag)


def test_a_snapshot_that_was_cut_off_is_passed_over(tmp_path: Path) -> None:
    settings = settings_for("data", tmp_path / "model", resume=True, notes="of no consequence")
    configured = ConfiguredSettings(**dict(settings) | {"channels": 3, "zoom": 1, "batch_size": 8})
    mark_unfinished(settings, configured, CLASSES, "run", None)
    folder = f"{checkpoints_uri(settings)}/run"
    tensors = {"network.weight": torch.arange(1000.0)}
    for done in (10, 20, 30):
        save_snapshot(Snapshot(TrainingState(done=done), tensors), f"{folder}/at-{done}")
    cut = Path(folder) / "at-30/state.safetensors"
    cut.write_bytes(cut.read_bytes()[:2000])
    found = find_unfinished(settings.model_copy(update={"notes": "better ones"}))
    assert found is not None
    assert found.state.done == 20
    whole = load_whole_snapshot(found.uri)
    assert torch.equal(whole.tensors["network.weight"], tensors["network.weight"])
    for lost in ("at-30", "at-40"):
        with pytest.raises(DataError, match=f"the checkpoint .*{lost} has gone or is damaged"):
            load_whole_snapshot(f"{folder}/{lost}")
    anew = settings.model_copy(update={"resume": False, "restart": True})
    assert find_unfinished(anew) is None
    assert Path(folder).exists()  # as long as nothing is there in its place
    mark_unfinished(anew, configured, CLASSES, "another", None)
    assert not Path(folder).exists()


def test_a_training_that_goes_on_with_other_images_says_so(annotated: str, tmp_path: Path) -> None:
    from tests.test_crops import samples_in

    samples = samples_in(annotated)
    facts = [measure_image(sample, "train", CLASSES) for sample in samples]
    then = data_hash(facts)
    assert data_hash(reversed(facts)) == then
    label = replace(samples[0].label, semantic=np.zeros_like(samples[0].label.semantic))
    relabelled = measure_image(replace(samples[0], label=label), "train", CLASSES)
    changed = {
        data_hash(facts[1:]),
        data_hash([*facts[:-1], replace(facts[-1], split="val")]),
        data_hash([relabelled, *facts[1:]]),
    }
    assert len(changed | {then}) == 4

    settings = settings_for("data", tmp_path / "model", resume=True)
    configured = ConfiguredSettings(**dict(settings) | {"channels": 3, "zoom": 1, "batch_size": 8})
    mark_unfinished(settings, configured, CLASSES, "run", None, then)
    snapshot = Snapshot(TrainingState(done=10), {"network.weight": torch.zeros(3)})
    save_snapshot(snapshot, f"{checkpoints_uri(settings)}/run/at-10")
    found = find_unfinished(settings)
    assert found is not None
    assert found.data_changed(then) is None
    assert "images or labels have changed" in str(found.data_changed(changed.pop()))


def test_a_training_goes_on_with_the_classes_it_began_with(tmp_path: Path) -> None:
    """Also where there are as many: the network knows them by their places."""
    before = Unfinished("uri", "run", TrainingState(), {}, CLASSES)
    before.check_classes(CLASSES)
    others = (*CLASSES[:-1], CLASSES[-1].model_copy(update={"name": "vessel"}))
    with pytest.raises(SettingsError, match=r"3 vessel \(thing\); --restart starts over$"):
        before.check_classes(others)


def test_a_training_that_ended_before_it_began_is_not_in_the_way(tmp_path: Path) -> None:
    settings = settings_for("data", tmp_path / "model")
    configured = ConfiguredSettings(**dict(settings) | {"channels": 3, "zoom": 1, "batch_size": 8})
    mark_unfinished(settings, configured, CLASSES, "run", None)
    snapshot = Snapshot(TrainingState(progress=1, finished=True), {"weight": torch.zeros(3)})
    save_snapshot(snapshot, f"{checkpoints_uri(settings)}/run/last")
    assert find_unfinished(settings) is None


def leave_snapshot(settings: TrainSettings, run: str, done: int) -> Path:
    """What a training leaves that was stopped after so many steps; the snapshot's file."""
    configured = ConfiguredSettings(**dict(settings) | {"channels": 3, "zoom": 1, "batch_size": 8})
    mark_unfinished(settings, configured, CLASSES, run, None)
    folder = f"{checkpoints_uri(settings)}/{run}/at-{done}"
    state = TrainingState(done=done, progress=done / 100)
    save_snapshot(Snapshot(state, {"weight": torch.zeros(3)}), folder)
    return Path(folder) / "state.json"


@pytest.mark.usefixtures("ray_cluster")
def test_a_training_that_was_stopped_while_another_read_its_images_is_kept(
    annotated: str, tmp_path: Path
) -> None:
    settings = settings_for(annotated, tmp_path / "model", epochs=1)
    left: list[Path] = []
    with pytest.raises(SettingsError, match="holds an unfinished training, 40% done: --resume"):
        train_bundle(
            settings,
            lambda report: None,
            lambda survey, configuration: left.append(leave_snapshot(settings, "another", 40)),
        )
    assert left[0].exists()


def test_a_training_resumes_only_from_the_newest_snapshot_there_is(tmp_path: Path) -> None:
    """Another may go on with the same one, and stop or finish, before this one has its turn."""
    settings = settings_for("data", tmp_path / "model", resume=True)
    leave_snapshot(settings, "run", 40)
    found = find_unfinished(settings)
    assert found is not None
    check_unchanged(settings, found)
    leave_snapshot(settings, "another", 60)
    with pytest.raises(SettingsError, match="another training wrote to"):
        check_unchanged(settings, found)
    (tmp_path / "model/training.json").unlink()  # as one that has finished leaves it
    (tmp_path / "model/bundle.json").write_bytes(b"{}")
    with pytest.raises(SettingsError, match="holds a finished model"):
        check_unchanged(settings, found)


@pytest.mark.parametrize("name", ["README.md", "checkpoints", "tensorboard"])
def test_what_no_training_wrote_is_not_written_over(tmp_path: Path, name: str) -> None:
    settings = settings_for("data", tmp_path)
    (tmp_path / name).write_bytes(b"of the user")
    for changes in ({}, {"resume": True}, {"restart": True}):
        with pytest.raises(SettingsError, match=f"holds {name}, which no training wrote"):
            find_unfinished(settings.model_copy(update=changes))


def test_a_finished_model_is_replaced_only_when_asked_to(tmp_path: Path) -> None:
    settings = settings_for("data", tmp_path)
    for name in ("bundle.json", "README.md", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(SettingsError, match="holds a finished model; --restart trains it anew"):
        find_unfinished(settings)
    assert find_unfinished(settings.model_copy(update={"restart": True})) is None


def open_settings(settings: TrainSettings) -> list[str]:
    """Those that are chosen from the data and have no value yet."""

    def walk(section: BaseModel, prefix: str) -> Iterator[str]:
        for name, field in type(section).model_fields.items():
            value = getattr(section, name)
            if isinstance(value, BaseModel):
                yield from walk(value, f"{prefix}{name}.")
            elif value is None and CHOSEN in (field.description or ""):
                yield prefix + name

    return list(walk(settings, ""))


@pytest.mark.usefixtures("ray_cluster")
def test_what_was_chosen_from_the_data_stays_when_a_training_goes_on(annotated: str) -> None:
    given = TrainSettings(data=annotated, output="o")
    with ray_session() as resources:
        chosen = survey(open_data(annotated, val_fraction=0.2)).configure(given, 1, resources)
    before = Unfinished("uri", "run", TrainingState(), chosen.settings.result_settings(), CLASSES)
    assert len(open_settings(given)) > 10
    assert open_settings(before.fill_in(given)) == []


def test_what_another_model_settled_stays_when_a_training_goes_on() -> None:
    """And what was neither given nor settled is still to be learned at the end."""
    given = TrainSettings(data="d", output="o", method=MethodSettings(vote_blur=0.3))
    network = NetworkSettings(depth=2, width=8, norm="batch", full_resolution="full")
    normalize = NormalizeSettings(kind="percentile", low=5.0)
    method = given.method.model_copy(update={"name": "instance", "reach": 32})
    changes = {"network": network, "normalize": normalize, "method": method, "channels": 3}
    chosen = given.model_copy(update=changes).result_settings()
    again = Unfinished("uri", "run", TrainingState(), chosen, CLASSES).fill_in(given)
    assert (again.network, again.normalize, again.method) == (network, normalize, method)
    assert again.method.left_to_learn == given.method.left_to_learn


@pytest.mark.usefixtures("ray_cluster")
def test_two_trainings_to_one_output_do_not_disturb_each_other(
    annotated: str, tmp_path: Path
) -> None:
    output = tmp_path / "model"
    with (
        hold_lease(str(output), "a training", renew=0.2),
        pytest.raises(LeaseError, match="is being written by another run: a training by"),
    ):
        train_bundle(settings_for(annotated, output), lambda report: None)
    assert [path.name for path in output.iterdir()] == ["_lease"]


@pytest.mark.usefixtures("ray_cluster")
def test_a_wish_to_stop_does_not_wait_for_a_recorder(annotated: str) -> None:
    """It may hang for minutes in a store that stalls."""
    stop, hangs = threading.Event(), threading.Event()
    with listening(lambda report: hangs.wait(60) and None, [stop]) as mailbox:
        deliver(mailbox, Notice("is written down"))
        time.sleep(1)
        assert not ray.get(mailbox.put.remote(Notice("next")))
        stop.set()
        end = time.monotonic() + 20
        while not ray.get(mailbox.put.remote(Notice("next"))):
            assert time.monotonic() < end
            time.sleep(0.1)
        hangs.set()
    hangs.clear()

    def interrupted() -> None:
        with listening(lambda report: hangs.wait(60) and None, []) as mailbox:
            deliver(mailbox, Notice("is written down"))
            time.sleep(1)
            raise KeyboardInterrupt

    before = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - before < 30
    hangs.set()


def test_a_lost_worker_is_known_whoever_noticed_it_first() -> None:
    died = RayActorError()
    for failure in (died, WorkerHealthCheckFailedError("A worker health check failed.", died)):
        assert lost_workers(WorkerGroupError("…", {1: failure}))
    assert not lost_workers(WorkerGroupError("…", {0: ValueError("a defect")}))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_are_lost_too_often_are_one_line_that_says_how_to_go_on(
    annotated: str, tmp_path: Path
) -> None:
    output = tmp_path / "model"

    def on_report(report: Report) -> None:
        if list(output.rglob("state.json")):
            for process in psutil.Process().children(recursive=True):
                if "RayTrainWorker" in " ".join(process.cmdline()):
                    process.kill()

    settings = settings_for(annotated, output, epochs=500, max_failures=0)
    with pytest.raises(TesseraError, match=r"^workers of the training were lost 1 time; the same"):
        train_bundle(settings, on_report)
    assert find_unfinished(settings.model_copy(update={"resume": True})) is not None


@pytest.mark.parametrize("words", ["0", "4:1", "1:2:3", "many", "1.5"])
def test_nonsense_for_workers_is_refused(words: str) -> None:
    with pytest.raises(ValueError, match="such as 1:4"):
        TrainSettings(data="d", output="o", workers=words)


def test_workers_are_a_number_or_a_range() -> None:
    ranges = [TrainSettings(data="d", output="o", workers=w).worker_range for w in (2, "2", "1:4")]
    assert ranges == [(2, 2), (2, 2), (1, 4)]


@pytest.mark.usefixtures("ray_cluster")
def test_fewer_crops_than_workers_are_refused(annotated: str, tmp_path: Path) -> None:
    settings = settings_for(annotated, tmp_path / "m", workers=3, batch_size=4, accumulate=2)
    with pytest.raises(SettingsError, match=r"batch_size: 4 .* at least 6 are needed"):
        train.work(settings)


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("zoom", [1.0, 0.75])
def test_streamed_images_give_the_crops_of_cached_ones(annotated: str, zoom: float) -> None:
    from tests.test_crops import samples_in, source

    crops, whole = source(annotated), samples_in(annotated)
    crops.samples = CachedSamples(whole, 3, NormalizeSettings(), zoom)
    cached = list(crops.batches(epoch=2, steps=2, batch_size=4, rank=0, world=1))
    data = open_data(annotated, val_fraction=0.2)
    stream = StreamedSamples.of(data, "train", survey(data).facts, 3, NormalizeSettings(), zoom)
    assert list(stream.sizes) == list(crops.samples.sizes)
    assert [list(ids) for ids in stream.classes_shown] == list(crops.samples.classes_shown)
    crops.samples = stream
    for left, right in zip(cached, crops.batches(2, 2, 4, 0, 1), strict=True):
        assert torch.equal(left.images, right.images)
        assert all(torch.equal(left.targets[n], right.targets[n]) for n in left.targets)
    assert [(s.name, s.pixels.shape) for s in stream[1::3]] == [
        (s.name, s.pixels.shape) for s in sorted(whole, key=lambda s: s.name)[1::3]
    ], "as a sequence they have their own size"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_training_whose_images_do_not_fit_in_memory(annotated: str, tmp_path: Path) -> None:
    more = {"cache_bytes": 0, "accumulate": 2, "zoom": 0.5}
    settings = settings_for(annotated, tmp_path / "m", epochs=2, **more)
    seen: list[Report] = []
    train_bundle(settings, seen.append)
    spec = load_spec(settings.output)
    assert (spec.channels, spec.zoom) == (3, 0.5)
    assert any(isinstance(report, EpochReport) for report in seen)
