"""The number of workers changes how fast a training is, and nothing else; nor does a stop."""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from pipeline.collective import share_out
from pipeline.config import (
    AugmentSettings,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
    OptimizerSettings,
    SamplingSettings,
    TrainSettings,
)
from pipeline.errors import SettingsError
from pipeline.methods import build_method
from pipeline.models.unet import UNet
from pipeline.records import VOID, Label, Sample
from pipeline.synthetic import CLASSES, make_scene
from pipeline.training import loop
from pipeline.training.average import WeightAverage
from pipeline.training.crops import Batch, CropSource
from pipeline.training.loop import SaveDue, Training
from pipeline.training.reports import EpochReport, Notice, StepReport
from pipeline.training.samples import CachedSamples
from pipeline.training.schedule import Schedule
from pipeline.training.state import load_snapshot, save_snapshot

STILL = AugmentSettings(flip=False, rotate=False, scale=1, intensity=0, noise=0)
STEPS = 12


@dataclass(frozen=True)
class Case:
    """A short training in float32, without chance in its crops."""

    name: str
    method: str = "instance"
    batch_size: int = 4
    accumulate: int = 1
    norm: str = "batch"
    void: bool = False
    """Half of the images have no label at all, so that some workers see none."""


CASES = [
    Case("plain"),
    Case("uneven", batch_size=5),
    Case("semantic", method="semantic", batch_size=3, void=True),
    Case("parts", batch_size=5, accumulate=2),
    Case("standardised filters", batch_size=5, norm="weight"),
    Case("proposals", method="proposals", batch_size=3, norm="weight"),
]


def samples_of(case: Case) -> list[Sample]:
    samples = []
    for seed in range(4):
        scene = make_scene(48, 40, 6, seed)
        label = scene.label
        if case.void and seed % 2:
            label = Label(torch.full((48, 40), VOID, dtype=torch.uint8).numpy(), label.instances)
        samples.append(Sample(str(seed), scene.image, label))
    return samples


def train(
    case: Case,
    folder: Path,
    world: int = 1,
    stop_after: int = 0,
    reports: list[EpochReport | Notice] | None = None,
    started: float | None = None,
    can_save: Callable[[], bool] = lambda: True,
    saves: list[SaveDue] | None = None,
    **changes: object,
) -> Training:
    """Run a case to its end, or until `stop_after` steps, from a snapshot where there is one.

    Validations and notices are added to `reports`, and the moments to save to `saves`.
    """
    torch.manual_seed(5)
    values = {
        "data": "d", "output": "o", "zoom": 1, "epochs": 3, "min_steps": STEPS // 3, "crop": 32,
        "precision": "float32", "batch_size": case.batch_size, "accumulate": case.accumulate,
        "augment": STILL, "optimizer": OptimizerSettings(learning_rate=1e-3),
        "network": NetworkSettings(depth=2, width=4, norm=case.norm),
    }  # fmt: skip
    settings = TrainSettings(**(values | changes))
    samples = samples_of(case)
    method = build_method(MethodSettings(name=case.method), CLASSES)
    crops = CropSource(
        CachedSamples(samples, 3, NormalizeSettings()), method,
        channels=3, crop=32, augment=STILL, sampling=SamplingSettings(), seed=1,
        device=torch.device("cpu"),
    )  # fmt: skip
    losses: list[float] = []

    def on_step(report: StepReport) -> bool:
        losses.append(report.loss)
        return len(losses) == stop_after

    training = Training(
        UNet(settings.network, 3, method.heads), method, crops, samples[::2], settings,
        device=torch.device("cpu"), dtype=torch.float32, started=started or time.time(),
        on_step=on_step,
        wrap=torch.nn.parallel.DistributedDataParallel if world > 1 else lambda module: module,
        snapshot=load_snapshot(str(folder)), can_save=can_save,
    )  # fmt: skip
    events = list(training.run())
    assert isinstance(events[-1], SaveDue)
    assert events[-1].last
    if reports is not None:
        reports += [event for event in events if not isinstance(event, SaveDue)]
    if saves is not None:
        saves += [event for event in events if isinstance(event, SaveDue)]
    snapshot = training.snapshot()
    if not world > 1 or dist.get_rank() == 0:
        save_snapshot(snapshot, str(folder))
        curve = {"curve": torch.tensor(losses), **snapshot.tensors}
        save_file(curve, folder / f"result-{stop_after}.safetensors")
    return training


def share_numbers(rank: int, folder: Path) -> None:
    """Double the numbers 1 to 7, each of which costs what it is."""
    mine = []

    def double(numbers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        mine.extend(float(number[0]) for number in numbers)
        return [2 * number for number in numbers]

    numbers = [torch.full((n,), float(n)) for n in range(1, 8)]
    found = share_out(numbers, double, costs=list(range(1, 8)))
    results = {"mine": torch.tensor(mine), "found": torch.cat(found)}
    save_file(results, folder / f"shared-{rank}.safetensors")


def process(rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    share_numbers(rank, folder)
    for case in CASES:
        train(case, folder / case.name, world)
    dist.destroy_process_group()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: more threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    for case in CASES:
        (folder / case.name).mkdir()
    mp.spawn(process, (2, folder), nprocs=2)
    return folder


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_and_two_workers_learn_the_same(case: Case, two_workers: Path, tmp_path: Path) -> None:
    train(case, tmp_path)
    alone = load_file(tmp_path / "result-0.safetensors")
    together = load_file(two_workers / case.name / "result-0.safetensors")
    assert len(alone["curve"]) == STEPS
    assert alone["curve"][-1] < alone["curve"][0]
    torch.testing.assert_close(together["curve"], alone["curve"], rtol=1e-4, atol=0)
    for name in alone:
        if name.startswith(("network.", "average.")):
            torch.testing.assert_close(together[name], alone[name], rtol=0.05, atol=1e-3)


def test_work_is_shared_out_evenly_and_all_know_what_came_of_it(two_workers: Path) -> None:
    first, second = (load_file(two_workers / f"shared-{rank}.safetensors") for rank in (0, 1))
    assert first["mine"].sum() == second["mine"].sum() == 14
    assert sorted([*first["mine"].tolist(), *second["mine"].tolist()]) == list(range(1, 8))
    expected = torch.cat([torch.full((n,), 2.0 * n) for n in range(1, 8)])
    assert torch.equal(first["found"], expected)
    assert torch.equal(second["found"], expected)


@pytest.mark.parametrize("stop_after", [1, 6])
def test_a_training_that_goes_on_ends_like_one_that_was_not_stopped(
    stop_after: int, tmp_path: Path
) -> None:
    case = Case("resumed")
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    undisturbed.mkdir()
    disturbed.mkdir()
    train(case, undisturbed)
    first = train(case, disturbed, stop_after=stop_after)
    assert first.state.done == stop_after
    assert not first.state.finished
    second = train(case, disturbed)
    assert second.state.finished
    assert second.state.done == STEPS
    left = load_file(undisturbed / "result-0.safetensors")
    right = load_file(disturbed / "result-0.safetensors")
    assert torch.equal(left["curve"][stop_after:], right["curve"])
    for name in left:
        if name != "curve" and not name.startswith("best."):
            assert torch.equal(left[name], right[name]), name


def test_time_that_was_lost_with_a_worker_is_not_taken_from_the_rest(tmp_path: Path) -> None:
    train(Case("lost"), tmp_path, stop_after=2, max_minutes=60)
    second = train(Case("lost"), tmp_path, started=time.time() - 2 * 3600, max_minutes=60)
    assert second.state.done == STEPS


def test_parts_of_a_batch_are_the_batch(tmp_path: Path) -> None:
    """Without batch normalisation, which sees a part at a time, the parts change nothing."""
    curves = []
    for accumulate in (1, 2):
        case = Case("parts", batch_size=4, method="semantic", norm="group")
        folder = tmp_path / str(accumulate)
        folder.mkdir()
        train(replace(case, accumulate=accumulate), folder)
        curves.append(load_file(folder / "result-0.safetensors")["curve"])
    # Dice is a ratio over the part, so that the curves are near each other but not equal.
    torch.testing.assert_close(curves[1], curves[0], rtol=0.05, atol=0)


def test_a_training_that_gets_no_better_is_not_waited_for(tmp_path: Path) -> None:
    still = OptimizerSettings(learning_rate=1e-12, ema=0)
    training = train(
        Case("still"), tmp_path, epochs=30, patience=2, validation_share=1.0, optimizer=still
    )
    assert training.state.finished
    assert training.state.epoch - 1 <= training.state.best_epoch + 2 + 30 * 0.25
    assert training.state.done < 30 * STEPS // 3
    assert training.state.best_validation.score == training.state.best_score


def test_an_epoch_that_is_longer_than_the_training_is_validated_on_the_way(tmp_path: Path) -> None:
    """Or nobody knows how long a validation takes, and the end comes late by as much."""
    reports: list[EpochReport | Notice] = []
    case = Case("long", batch_size=1)
    # As short as they are, validations take more of this training than they may on the way.
    training = train(case, tmp_path, reports=reports, epochs=1, min_steps=3, validation_share=1e-9)
    assert [(one.epoch, one.step) for one in reports if isinstance(one, EpochReport)] == [
        (1, 3),
        (1, 4),
    ]
    assert training.state.finished


def test_of_more_validation_images_than_there_is_time_for_the_same_few_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_SHORT", 0.0)
    short: dict[str, object] = {"max_minutes": 60, "validation_share": 1e-9}
    first: list[EpochReport | Notice] = []
    train(Case("hurried"), tmp_path, stop_after=5, reports=first, **short)
    second: list[EpochReport | Notice] = []
    training = train(Case("hurried"), tmp_path, reports=second, **short)
    assert training.state.finished
    notices = [one.text for one in first + second if isinstance(one, Notice)]
    assert notices == [
        "1 of the 2 validation images are looked at, spread evenly over them: for more there is no "
        "time (--validation-share)"
    ]
    looked = [one.validation for one in first + second if isinstance(one, EpochReport)]
    assert len(looked) > 1
    assert {one.figures.images for one in looked} == {1}
    assert [sample.name for sample in training.validation] == ["0"]


def test_of_equally_good_weights_those_that_learned_longest_are_kept(tmp_path: Path) -> None:
    slow = OptimizerSettings(learning_rate=1e-5, ema=0)
    training = train(Case("slow"), tmp_path, validation_share=1.0, optimizer=slow)
    assert training.state.best_score == 0
    assert training.state.best_epoch == 1  # since when it got no better
    weights = training.average.network.state_dict()
    for name, tensor in training.best.items():
        assert torch.equal(tensor, weights[name].cpu()), name


def test_one_step_without_a_finite_gradient_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = itertools.count(1)
    loss = loop.Training._loss

    def broken_once(self: Training, batch: Batch) -> torch.Tensor:
        return loss(self, batch) * (math.nan if next(losses) == 5 else 1)

    monkeypatch.setattr(loop.Training, "_loss", broken_once)
    reports: list[EpochReport | Notice] = []
    training = train(Case("unlucky"), tmp_path, reports=reports)
    notices = [one.text for one in reports if isinstance(one, Notice)]
    assert notices == ["step 5 has no finite gradient, and is left out"]
    assert training.state.done == STEPS
    assert all(one.loss > 0 for one in reports if isinstance(one, EpochReport))
    assert all(tensor.isfinite().all() for tensor in training.network.state_dict().values())


@pytest.mark.parametrize("steps", [4, 100])
def test_a_training_that_diverges_says_so(steps: int, tmp_path: Path) -> None:
    """By its steps, or by a validation that comes before enough of them."""
    wild = OptimizerSettings(kind="adamw", learning_rate=1e30)
    with pytest.raises(SettingsError, match=r"learning_rate: 1e\+30 has made .* diverge by step"):
        train(Case("wild"), tmp_path, epochs=30, min_steps=steps, optimizer=wild)


def test_the_average_follows_the_weights() -> None:
    network = UNet(NetworkSettings(depth=1, width=2), 1, {"out": 1})
    average = WeightAverage(network, decay=0.3)
    expected = {n: t.clone().double() for n, t in network.state_dict().items()}
    for step in range(1, 6):
        network.train()(torch.rand(2, 1, 8, 8) * step)  # moves the statistics
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(step)
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor
    for name, tensor in average.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)
        else:
            assert tensor == 5
    assert WeightAverage(network, decay=0).network is network


def test_time_is_left_for_what_comes_after_the_last_step() -> None:
    settings = TrainSettings(data="d", output="o", max_minutes=1.0)
    schedule = Schedule(settings, 10, time.time() - 50.5, first=0.0)
    assert schedule.progress(0) == pytest.approx(50.5 / 60, abs=0.01)
    assert schedule.progress(0, reserve=10) == 1
    assert schedule.progress(0, reserve=1000) == 1  # half of the time is kept for training
    early = Schedule(settings, 10, time.time() - 15, first=0.0)
    assert early.progress(0, reserve=1000) == pytest.approx(0.5, abs=0.01)


def test_decoding_at_the_end_takes_a_tenth_of_the_time_at_most(tmp_path: Path) -> None:
    training = train(Case("brief"), tmp_path, stop_after=1, max_minutes=1)
    training.end_decodings = 20
    for seconds, share in ((0.1, 1), (0.3, 1), (1.2, 0.25)):
        training.state.decoding_seconds = seconds
        assert training.end_share == pytest.approx(share)
    training.settings = training.settings.model_copy(update={"max_minutes": None})
    assert training.end_share == 1


def test_snapshots_do_not_pile_up_before_a_slow_store(tmp_path: Path) -> None:
    """What waits behind another would be old when it is there, and take memory until then."""
    saves: list[SaveDue] = []
    train(CASES[0], tmp_path, saves=saves, checkpoint_minutes=1e-9)
    assert len(saves) > STEPS
    saves.clear()
    (tmp_path / "slow").mkdir()
    train(CASES[0], tmp_path / "slow", saves=saves, can_save=lambda: False, checkpoint_minutes=1e-9)
    assert [save.last for save in saves] == [True]
