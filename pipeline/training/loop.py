"""The training loop in plain PyTorch: one process's part of it, alone or one of many under DDP.

Legend: B batch, H height, W width, C channels.
"""

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.config import RegionSettings, TrainSettings
from pipeline.methods.base import Method
from pipeline.metrics import AP_THRESHOLDS, confusion, dice_iou, match_objects, sum_matches
from pipeline.models.unet import UNet
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.predictor import Predictor
from pipeline.records import Sample, reported
from pipeline.training.crops import Batch, CropSource

DEFAULT_EPOCHS = 60

T = TypeVar("T")


@dataclass(frozen=True)
class StepReport:
    """What a progress bar wants to know after a step."""

    epoch: int
    loss: float
    progress: float
    """Share of the training that is behind us, 0 to 1."""
    pixels_per_second: float


@dataclass(frozen=True)
class EpochReport:
    """What an epoch ended with."""

    epoch: int
    loss: float
    """Mean over the epoch's steps."""
    metrics: dict[str, float]
    """On the validation images."""
    score: float
    """The metric that decides which checkpoint is best; higher is better."""
    seconds: float
    pixels_per_second: float


class Schedule:
    """How far the training is, by steps or by the clock, and the learning rate that goes with it.

    With a time limit the cosine runs on the clock, so that it reaches zero when the time is up.
    """

    def __init__(self, settings: TrainSettings, steps_per_epoch: int, started: float) -> None:
        self.started = started
        self.seconds = settings.max_minutes * 60 if settings.max_minutes else None
        epochs = settings.epochs or (None if self.seconds else DEFAULT_EPOCHS)
        self.steps = epochs * steps_per_epoch if epochs else None
        self.warmup = settings.optimizer.warmup
        # Time before the first step is gone: the warm-up starts with it.
        self.first = min((time.time() - started) / self.seconds, 0.9) if self.seconds else 0.0

    def progress(self, step: int) -> float:
        """0 at the start, 1 at the end, the same in every process."""
        shares = []
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            elapsed = (time.time() - self.started) / self.seconds
            shares.append((elapsed - self.first) / (1 - self.first))
        return min(1.0, _from_first_process(max(shares)))

    def factor(self, progress: float) -> float:
        """Of the peak learning rate: a linear warm-up, then a cosine to zero."""
        if progress < self.warmup:
            return max(progress / self.warmup, 0.01)
        share = (progress - self.warmup) / (1 - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * share))


def fit(
    network: UNet,
    method: Method,
    train: CropSource,
    validation: Sequence[Sample],
    settings: TrainSettings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    started: float,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Iterator[EpochReport]:
    """Train `network` in place, yielding after each epoch.

    Args:
        validation: all of the validation images; each process takes its share.
        started: `time.time()` from which the time limit counts.
        wrap: makes the network distributed.
    """
    rank, world = _rank_and_world()
    model = wrap(
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    )
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.optimizer.learning_rate,
        weight_decay=settings.optimizer.weight_decay,
    )
    steps = max(settings.min_steps, math.ceil(len(train) / settings.batch_size))
    schedule = Schedule(settings, steps, started)
    done, progress, epoch = 0, 0.0, 0
    while progress < 1:
        epoch += 1
        began, losses = time.time(), []
        model.train()
        batches = train.batches(epoch, steps, settings.batch_size, rank, world)
        for batch in _ahead(batches):
            progress = schedule.progress(done)
            if progress >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.optimizer.learning_rate * schedule.factor(progress)
            losses.append(_step(model, method, batch, optimizer, settings, device, dtype))
            done += 1
            speed = _pixels(len(losses), settings) / (time.time() - began)
            on_step(StepReport(epoch, losses[-1], progress, speed))
        if not losses:
            return  # the time was up before the epoch's first step
        seconds = time.time() - began
        progress = schedule.progress(done)
        metrics = validate(network, method, validation, train.channels, settings, device, dtype)
        yield EpochReport(
            epoch=epoch,
            loss=float(np.mean(losses)),
            metrics=metrics,
            score=metrics["score"],
            seconds=seconds,
            pixels_per_second=_pixels(len(losses), settings) / seconds,
        )


def validate(
    network: UNet,
    method: Method,
    samples: Sequence[Sample],
    channels: int,
    settings: TrainSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Predict the validation images as a job would, and measure; the same in every process.

    AP is without regard to class. `score` is the mean AP where there are things, otherwise the
    mean IoU over classes.
    """
    rank, world = _rank_and_world()
    engine = TorchEngine(network, method, device, dtype)
    predictor = Predictor(engine, channels, settings.normalize, RegionSettings())
    matrix = np.zeros((256, 256), np.int64)
    found = []
    for sample in samples[rank::world]:
        (maps,) = predictor.predict([predictor.prepare(sample.pixels)])
        result = method.decode(maps)
        matrix += confusion(sample.label.semantic, result.semantic)
        found.append(match_objects(sample.label.instances, result.instances))
    parts = _gather((matrix, found))
    matrix = np.sum([part[0] for part in parts], axis=0)
    matches = [one for part in parts for one in part[1]]
    ious = [dice_iou(matrix, spec.id)[1] for spec in reported(method.classes)]
    metrics = {"mean_iou": float(np.nanmean(ious)) if not np.all(np.isnan(ious)) else 0.0}
    if not any(spec.kind == "thing" for spec in method.classes):
        return metrics | {"score": metrics["mean_iou"]}
    ap = np.mean([one.ap for one in matches], axis=0)
    metrics |= {f"ap_{t:.1f}": float(v) for t, v in zip(AP_THRESHOLDS, ap, strict=True)}
    metrics["pq"] = float(sum_matches(matches).pq[0])
    return metrics | {"score": float(ap.mean())}


def _step(
    model: nn.Module,
    method: Method,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: TrainSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    images = batch.images.to(device, non_blocking=True)
    targets = {name: target.to(device, non_blocking=True) for name, target in batch.targets.items()}
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs: dict[str, Tensor] = model(images)
    loss = method.loss(outputs, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_norm)
    optimizer.step()
    return float(loss.detach())


def _ahead(batches: Iterator[Batch], depth: int = 3) -> Iterator[Batch]:
    """The same batches, made in a thread while the network computes."""
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            for batch in batches:
                put(batch)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)  # raised where the batches are used

    thread = threading.Thread(target=produce, name="crops", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()


def _pixels(steps: int, settings: TrainSettings) -> int:
    return steps * settings.batch_size * settings.crop**2


def _rank_and_world() -> tuple[int, int]:
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _from_first_process(value: float) -> float:
    """Clocks differ between processes; all go by the first one's."""
    if _rank_and_world()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _gather(part: T) -> list[T]:
    """The parts of all processes, in every process."""
    world = _rank_and_world()[1]
    if world == 1:
        return [part]
    parts: list[T] = [part] * world
    dist.all_gather_object(parts, part)
    return parts
