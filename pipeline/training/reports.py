"""What a training tells of itself while it goes on."""

from dataclasses import dataclass


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
