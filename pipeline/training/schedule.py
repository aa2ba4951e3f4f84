"""How far a training is, and the learning rate that goes with it."""

import math
import time

from pipeline.config import TrainSettings

DEFAULT_EPOCHS = 60


class Schedule:
    """How far the training is, by steps or by the clock, and the learning rate that goes with it.

    With a time limit the cosine runs on the clock, so that it reaches zero when the time is up.
    The time that a training was away, or has lost with a worker, is not on that clock: `started` is
    later by as much. Nor does it follow the machine's clock where that is set meanwhile.

    Attributes:
        first: seconds from the start to the first step; the warm-up begins with it.
    """

    def __init__(
        self,
        settings: TrainSettings,
        steps_per_epoch: int,
        started: float,
        first: float | None = None,
    ) -> None:
        # Another process has read the machine's clock for it; from here on nobody does.
        self._before = max(0.0, time.time() - started)
        self._since = time.monotonic()
        self.seconds = settings.max_minutes * 60 if settings.max_minutes else None
        epochs = settings.epochs or (None if self.seconds else DEFAULT_EPOCHS)
        self.steps = epochs * steps_per_epoch if epochs else None
        self.warmup = settings.optimizer.warmup
        self.first = self.elapsed() if first is None else first

    def elapsed(self) -> float:
        """Seconds that the training has taken, its preparations included."""
        return self._before + time.monotonic() - self._since

    def progress(self, step: int, reserve: float = 0.0) -> float:
        """0 at the start, 1 when the steps or the time are used up.

        Args:
            step: steps done.
            reserve: seconds at the end that are needed for something else.
        """
        shares = []
        if self.steps is not None:
            shares.append(step / self.steps)
        if self.seconds is not None:
            end = self.seconds - min(reserve, self.seconds / 2)
            first = min(self.first, 0.9 * end)
            shares.append((self.elapsed() - first) / (end - first))
        return min(1.0, max(shares))

    def factor(self, progress: float) -> float:
        """Of the peak learning rate: a linear warm-up, then a cosine to zero."""
        if progress < self.warmup:
            return max(progress / self.warmup, 0.01)
        share = (progress - self.warmup) / (1 - self.warmup)
        return 0.5 * (1 + math.cos(math.pi * share))
