"""The contract of a recorder."""

from typing import Protocol

from pipeline.training.reports import EpochReport, StepReport


class Recorder(Protocol):
    """Shows a training in one place while it goes on.

    An epoch may be reported again, after a worker died and the training went back to its last
    checkpoint: what comes later is what counts. A training that is resumed begins with the epoch
    after the last one that is done.
    """

    name: str

    def step(self, report: StepReport) -> None:
        """Some steps only: they come as often as there is something to see."""

    def epoch(self, report: EpochReport) -> None:
        """Every epoch."""

    def done(self, bundle_uri: str) -> None:
        """The bundle is there, with all that lies in it."""

    def close(self) -> None:
        """Nothing more will come, also when the training failed."""
