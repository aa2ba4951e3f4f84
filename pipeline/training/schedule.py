"""How far a training is, and the learning rate that goes with it."""

import math
import time

from pipeline.config import TrainSettings
from pipeline.training.world import from_first

DEFAULT_EPOCHS = 60


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
        return min(1.0, from_first(max(shares)))

    def factor(self, progress: float) -> float:
        """Of the peak learning rate: a linear warm-up, then a cosine to zero."""
        if progress < self.warmup:
            return max(progress / self.warmup, 0.01)
        share = (progress - self.warmup) / (1 - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * share))
