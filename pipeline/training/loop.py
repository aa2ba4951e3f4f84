"""The training loop in plain PyTorch: one process's part of it, alone or one of many under DDP.

    training = Training(network, method, crops, validation, settings, …)
    for event in training.run():
        an EpochReport after each validation, a SaveDue when a snapshot should be taken

All processes go through the same events in the same order: what depends on a clock or on a signal
is decided by the first of them.

Legend: B batch, H height, W width, C channels.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.collective import is_alone, rank_and_world
from pipeline.config import ConfiguredSettings
from pipeline.errors import SettingsError
from pipeline.memory import give_back_free_memory, peak_memory
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.models.unet import UNet
from pipeline.predicting.engine import device_name
from pipeline.predicting.predictor import Predictor
from pipeline.records import Sample
from pipeline.training.average import WeightAverage
from pipeline.training.crops import Batch, CropSource
from pipeline.training.milestones import is_milestone
from pipeline.training.optimizer import build_optimizer
from pipeline.training.prefetch import prefetch
from pipeline.training.recorded import Recorded
from pipeline.training.reports import EpochReport, Needs, Notice, StepReport
from pipeline.training.schedule import Schedule
from pipeline.training.spread import Some
from pipeline.training.state import (
    Snapshot,
    TrainingState,
    kept,
    optimizer_tensors,
    packed,
    restore_optimizer,
    unpacked,
)
from pipeline.training.validation import build_predictor, validate
from pipeline.training.world import from_first, gather

_VALIDATE_EVERY = 0.25  # of the training at the latest, however much time it takes
_SOON_OVER = 0.05  # of the training that is left: the last validation is near enough
_DECODING_SHARE = 0.1  # of the time that may be kept for decodings at the end
_MARGIN = 1.15  # on the time that the last validation is expected to take
_SHORT = 20.0  # seconds: a validation that takes no longer is not worth cutting
_MOST_LOST = 10  # steps one after the other whose gradients are no numbers: it won't recover
_SURPRISE = 2.0  # times the one before that a validation is taken to need: a busy moment passes


@dataclass(frozen=True)
class SaveDue:
    """Now is the time for `Training.snapshot`: it waits until the next event is asked for."""

    last: bool
    """There are no events after this one: the training has finished or was told to stop."""


@dataclass(frozen=True)
class _Beat:
    """What the first process says before each step."""

    progress: float
    save: bool
    stop: bool
    validate: bool
    """Where the epoch ends here."""
    overdue: bool
    """To validate now, though the epoch goes on."""
    can_save: bool
    """There is nothing of an earlier snapshot left to do."""


class Training:
    """A network on its way from random weights, or from a snapshot, to the end of its schedule.

    Attributes:
        state: where it stands.
        decoder: the method, whose settings count the images' pixels instead of the network's.
        validation: the images to validate on: as many as there is time for, from the first
            validation on.
        best: the weights of the best validation so far, on the CPU.
    """

    def __init__(
        self,
        network: UNet,
        method: Method,
        train: CropSource,
        validation: Sequence[Sample],
        settings: ConfiguredSettings,
        *,
        device: torch.device,
        dtype: torch.dtype,
        started: float,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
        on_step: Callable[[StepReport], bool] = lambda report: False,
        can_save: Callable[[], bool] = lambda: True,
        snapshot: Snapshot | None = None,
        end_validations: float = 1.0,
        end_decodings: float = 0.0,
    ) -> None:
        """Nothing is trained yet.

        Args:
            network: trained in place.
            validation: all of the validation images; each process takes its share.
            started: `time.time()` from which the time limit counts; where there is a snapshot, it
                counts on from that, so that a worker that dies, or a machine that takes long to be
                replaced, leaves the rest of the training its time.
            wrap: makes the network distributed.
            on_step: told of each step; whether the training should save and stop.
            can_save: whether the last snapshot has been dealt with; until then none is due.
            snapshot: where to go on from.
            end_validations: how much time to leave at the end, in validations: one is the last
                validation itself, the rest is for what the caller does with the result.
            end_decodings: and in decodings of all validation images by one thread.
        """
        self.method, self.train, self.validation = method, train, validation
        in_image = method.settings.in_image(settings.zoom)
        self.decoder = build_method(in_image, method.classes)
        self.settings, self.device, self.dtype = settings, device, dtype
        self.on_step, self.can_save = on_step, can_save
        self.end_validations, self.end_decodings = end_validations, end_decodings
        self.state = snapshot.state.model_copy() if snapshot else TrainingState()
        self._look_at(self.state.validation_images)
        self.best: dict[str, Tensor] = unpacked("best", snapshot.tensors) if snapshot else {}
        if snapshot:
            network.load_state_dict(unpacked("network", snapshot.tensors))
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = WeightAverage(self.network, settings.optimizer.ema)
        self.model = wrap(self._recorded(self.network))
        self.optimizer = build_optimizer(self.model, settings.optimizer)
        if snapshot:
            if settings.optimizer.ema:
                self.average.network.load_state_dict(unpacked("average", snapshot.tensors))
            restore_optimizer(self.optimizer, unpacked("optimizer", snapshot.tensors))
        self.steps = max(settings.min_steps, math.ceil(len(train) / settings.batch_size))
        if snapshot:
            started = time.time() - self.state.elapsed
        self.schedule = Schedule(settings, self.steps, started, self.state.first)
        self.state.first = self.schedule.first
        self.stop = False
        self.saved = time.monotonic()
        self._lost = 0  # steps up to now, one after the other, that changed nothing

    def run(self) -> Iterator[EpochReport | Notice | SaveDue]:
        """Train to the end of the schedule, or until told to stop.

        Raises:
            SettingsError: it diverges.
        """
        while not self.state.finished:
            yield from self._train_epoch()
            beat = self._beat()
            if beat.stop:
                break
            self.state.progress = beat.progress
            late = self.state.done > self.state.validated
            if late and (beat.validate or beat.progress >= 1):
                yield from self._validate()
            impatient = self._is_impatient()
            self.state.finished = beat.progress >= 1 or impatient
            if beat.validate and beat.can_save and not self.state.finished:
                yield self._save(last=False)
        yield self._save(last=True)

    def snapshot(self) -> Snapshot:
        """All that it takes to go on from here; a copy, which training does not change."""
        self.state.elapsed = self.schedule.elapsed()
        tensors = packed("network", self.network.state_dict()) | packed("best", self.best)
        tensors |= packed("optimizer", optimizer_tensors(self.optimizer))
        if self.settings.optimizer.ema:
            tensors |= packed("average", self.average.network.state_dict())
        return Snapshot(self.state.model_copy(), tensors)

    @property
    def end_share(self) -> float:
        """The share of the validation images that there is time for to decode so often at the end.

        As this process has measured it: of several, the first decides.
        """
        most = (self.settings.max_minutes or math.inf) * 60 * _DECODING_SHARE
        return min(1.0, most / max(self.state.decoding_seconds * self.end_decodings, 1e-9))

    def predictor(self, network: UNet) -> Predictor:
        """What a prediction job would look at images with."""
        return build_predictor(
            network, self.method, self.train.channels, self.settings, self.device, self.dtype
        )

    def _recorded(self, network: UNet) -> nn.Module:
        """The network as a GPU runs it fastest, where its work is the same in every step."""
        settings = self.settings
        # What workers tell each other on the way can't be recorded for one of them alone.
        if self.device.type != "cuda" or settings.accumulate > 1 or not is_alone():
            return network
        shape = (settings.batch_size, self.train.channels, settings.crop, settings.crop)
        return Recorded(network, shape, self.dtype)

    def _train_epoch(self) -> Iterator[Notice | SaveDue]:
        """Steps until the epoch or the time ends, somebody says so, or a validation is overdue."""
        settings, state = self.settings, self.state
        rank, world = rank_and_world()
        parts = settings.accumulate
        batches = self.train.batches(
            state.epoch, self.steps, settings.batch_size, rank, world, first=state.step, parts=parts
        )
        self.model.train()
        began, first = time.monotonic(), state.done
        with contextlib.closing(prefetch(batches, device=self.device)) as ready:
            while state.step < self.steps:
                beat = self._beat()
                if beat.stop or beat.overdue or beat.progress >= 1:
                    return
                if beat.save:
                    yield self._save(last=False)
                    began += time.monotonic() - self.saved
                state.progress = beat.progress
                start = time.monotonic()
                loss = self._step([next(ready) for _ in range(parts)])
                state.training_seconds += time.monotonic() - start
                state.loss_sum += loss if math.isfinite(loss) else 0.0
                if self._lost == 1:
                    yield Notice(f"step {state.done:,} has no finite gradient, and is left out")
                speed = self._pixels(state.done - first) / (time.monotonic() - began)
                report = StepReport(
                    state.epoch, state.done, loss, self._rate(), state.progress, speed
                )
                self.stop = self.on_step(report) or self.stop
        state.epoch, state.step = state.epoch + 1, 0

    def _step(self, parts: list[Batch]) -> float:
        """One optimiser step on a batch that comes in parts; the mean loss over its crops."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for number, (batch, share) in enumerate(zip(parts, self._shares(), strict=True)):
            is_last = number == len(parts) - 1
            with contextlib.nullcontext() if is_last else _without_exchange(self.model):
                loss = self._loss(batch) * share
                loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.optimizer.clip_norm)
        self.state.done += 1
        self.state.step += 1
        # The norm is of the gradients of all workers: they agree.
        if math.isfinite(norm):
            self.optimizer.step()
            self.average.update(self.state.done)
        self._count_lost(math.isfinite(norm))
        return total

    def _count_lost(self, learned: bool) -> None:
        """One step that is lost is bad luck; many are weights that nothing brings back."""
        self._lost = 0 if learned else self._lost + 1
        if self._lost == _MOST_LOST:
            raise self._divergence()

    def _divergence(self) -> SettingsError:
        rate = self.settings.optimizer.learning_rate
        return SettingsError(
            f"setting optimizer.learning_rate: {rate:g} has made the training diverge by step "
            f"{self.state.done:,}: what the network says is no longer a number; give less, with "
            "--restart"
        )

    def _rate(self) -> float:
        """The learning rate at this point of the schedule."""
        settings = self.settings.optimizer
        peak = settings.learning_rate * (settings.fine_tuning if self.settings.pretrained else 1)
        return peak * self.schedule.factor(self.state.progress)

    def _loss(self, batch: Batch) -> Tensor:
        batch.claim()
        reduced = self.dtype == torch.bfloat16
        with torch.autocast(self.device.type, torch.bfloat16, enabled=reduced):
            outputs: dict[str, Tensor] = self.model(batch.images)
        return self.method.loss(outputs, batch.targets)

    def _shares(self) -> list[float]:
        """How much of a batch's crops, of all workers, each of its parts has."""
        size, parts = self.settings.batch_size, self.settings.accumulate
        return [(size // parts + (part < size % parts)) / size for part in range(parts)]

    def _beat(self) -> _Beat:
        """What all do next, as the first of them decides."""
        state = self.state
        reserve = state.validation_seconds * self.end_validations
        reserve += state.decoding_seconds * self.end_decodings * self.end_share
        progress = max(state.progress, self.schedule.progress(state.done, reserve * _MARGIN))
        affordable = self.settings.validation_share * state.training_seconds
        late = progress - state.validated_progress >= _VALIDATE_EVERY
        soon_over = progress >= 1 - _SOON_OVER
        validate = state.best_score is None or (
            not soon_over and (late or state.validation_seconds <= affordable)
        )
        # An epoch of very many images may be longer than the whole training.
        fresh = state.done - state.validated < self.settings.min_steps
        overdue = late and not soon_over and not fresh
        can_save = self.can_save()
        save = can_save and time.monotonic() - self.saved >= self.settings.checkpoint_minutes * 60
        said = from_first([progress, save, self.stop, validate, overdue, can_save])
        return _Beat(said[0], *(bool(one) for one in said[1:]))

    def _validate(self) -> Iterator[EpochReport | Notice]:
        """Measure the averaged weights and remember them when they are the best so far."""
        began, state = time.monotonic(), self.state
        steps, seconds = state.done - state.validated, max(state.training_seconds, 1e-9)
        epoch = state.epoch if state.step else state.epoch - 1
        pictured = is_milestone(epoch) or state.progress >= 1
        network = self.average.network
        is_first, images = state.validation_images is None, len(self.validation)
        try:
            found = validate(
                self.predictor(network),
                self.decoder,
                Some.shuffled(self.validation) if is_first else self.validation,
                with_overlays=self.settings.record.tensorboard and pictured,
                seconds=self._seconds_to_validate() if is_first else math.inf,
            )
        except FloatingPointError as error:
            raise self._divergence() from error
        looked_at = found.validation.figures.images
        if looked_at < images:
            self._look_at(looked_at)
            yield Notice(
                f"{looked_at:,} of the {images:,} validation images are looked at, spread evenly "
                "over them: for more there is no time (--validation-share)"
            )
        state.validation_images = looked_at
        report = EpochReport(
            epoch=epoch,
            step=state.done,
            loss=state.loss_sum / steps,
            learning_rate=self._rate(),
            validation=found.validation,
            overlays=found.overlays,
            seconds=seconds,
            validation_seconds=time.monotonic() - began,
            pixels_per_second=self._pixels(steps) / seconds,
            needs=self._needs(),
        )
        if state.best_score is None or report.score > state.best_score:
            state.best_score, state.best_epoch = report.score, epoch
        # Of equals the one that has learned longest: a few validation images tell many not apart.
        if report.score == state.best_score:
            state.best_validation, self.best = found.validation, kept(network.state_dict())
        state.validated, state.validated_progress = state.done, state.progress
        state.training_seconds, state.loss_sum = 0.0, 0.0
        before = state.validation_seconds or report.validation_seconds
        surprise = min(1.0, _SURPRISE * before / max(report.validation_seconds, 1e-9))
        state.validation_seconds = report.validation_seconds * surprise
        state.decoding_seconds = found.decoding_seconds * surprise
        # Images of many sizes leave holes that no step fills, and more of them each time.
        give_back_free_memory()
        yield report

    def _seconds_to_validate(self) -> float:
        """What one validation may take, and with it each that follows."""
        minutes = self.settings.max_minutes
        return max(_SHORT, self.settings.validation_share * minutes * 60) if minutes else math.inf

    def _look_at(self, count: int | None) -> None:
        """Validate on so many images from now on."""
        if count is not None and count < len(self.validation):
            self.validation = Some.shuffled(self.validation).first(count)

    def _needs(self) -> Needs:
        """Of the process that needs most; all take part."""
        on_device = 0
        if self.device.type == "cuda":
            on_device = torch.cuda.max_memory_allocated(self.device)
        peaks = gather((peak_memory(), on_device))
        most, most_on_device = (max(column) for column in zip(*peaks, strict=True))
        return Needs(device_name(self.device, self.dtype), most, most_on_device)

    def _is_impatient(self) -> bool:
        patience, state = self.settings.patience, self.state
        return (
            patience is not None
            and state.best_score is not None
            and state.epoch - 1 - state.best_epoch >= patience
        )

    def _save(self, *, last: bool) -> SaveDue:
        self.saved = time.monotonic()
        return SaveDue(last)

    def _pixels(self, steps: int) -> int:
        return steps * self.settings.batch_size * self.settings.crop**2


def _without_exchange(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Keep the gradients in this process for now; the next exchange adds them in."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()
