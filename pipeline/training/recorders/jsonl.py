"""`metrics.jsonl` in the bundle: a line an epoch, and one more for what was published."""

import contextlib

from pipeline.errors import UnavailableError
from pipeline.training.recorders.history import METRICS_NAME, History
from pipeline.training.reports import EpochReport, StepReport


class JsonlRecorder:
    """Writes the file anew after every epoch, so that it can lie in an object store."""

    name = METRICS_NAME

    def __init__(self, output: str) -> None:
        self.history = History(output)

    def step(self, report: StepReport) -> None:
        pass  # steps are too many for a file of lines

    def epoch(self, report: EpochReport) -> None:
        self.history.add(report)
        with contextlib.suppress(UnavailableError):  # the next epoch writes this one's line too
            self.history.save()

    def done(self, bundle_uri: str) -> None:
        self.history.finish(bundle_uri)
        self.history.save()

    def close(self) -> None:
        pass
