"""The training loop in plain PyTorch: one process's part of it, alone or one of many under DDP.

Legend: B batch, H height, W width, C channels.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import ConfiguredSettings
from pipeline.methods.base import Method
from pipeline.models.unet import UNet
from pipeline.records import Sample
from pipeline.training.crops import Batch, CropSource
from pipeline.training.prefetch import prefetch
from pipeline.training.reports import EpochReport, StepReport
from pipeline.training.schedule import Schedule
from pipeline.training.validation import validate
from pipeline.training.world import rank_and_world


def fit(
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
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> Iterator[EpochReport]:
    """Train `network` in place, yielding after each epoch.

    Args:
        validation: all of the validation images; each process takes its share.
        started: `time.time()` from which the time limit counts.
        wrap: makes the network distributed.
    """
    rank, world = rank_and_world()
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
        for batch in prefetch(batches):
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


def _step(
    model: nn.Module,
    method: Method,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: ConfiguredSettings,
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


def _pixels(steps: int, settings: ConfiguredSettings) -> int:
    return steps * settings.batch_size * settings.crop**2
