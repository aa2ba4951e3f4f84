"""All recorders of a training as one listener. One that fails is left out; training goes on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline.config import TrainSettings
from pipeline.training.recorders.base import Recorder
from pipeline.training.reports import EpochReport, Needs, Notice, OnReport, Report, StepReport


class RecorderGroup:
    """Passes each report on to every recorder that works, and then to a listener."""

    def __init__(self, listener: OnReport) -> None:
        self.recorders: list[Recorder] = []
        self.listener = listener
        self.epochs = 0
        """The last one that was reported."""
        self.needs: Needs | None = None
        """As of that epoch."""

    def __call__(self, report: Report) -> None:
        if isinstance(report, StepReport):
            self._each(lambda recorder: recorder.step(report))
        elif isinstance(report, EpochReport):
            self.epochs, self.needs = report.epoch, report.needs
            self._each(lambda recorder: recorder.epoch(report))
        self.listener(report)

    def open(self, name: str, make: Callable[[], Recorder]) -> None:
        """Add a recorder, if it can be made."""
        try:
            self.recorders.append(make())
        except Exception as error:  # a recorder is another program's client: it may raise anything
            self._tell(name, error)

    def done(self, bundle_uri: str) -> None:
        """Tell all that the bundle is there."""
        self._each(lambda recorder: recorder.done(bundle_uri))

    def close(self) -> None:
        """Let all of them go."""
        self._each(lambda recorder: recorder.close())

    def _each(self, call: Callable[[Recorder], None]) -> None:
        for recorder in list(self.recorders):
            try:
                call(recorder)
            except Exception as error:
                self.recorders.remove(recorder)
                self._tell(recorder.name, error)

    def _tell(self, name: str, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        self.listener(Notice(f"nothing more is recorded to {name}: {reason}"))


@contextmanager
def recording(settings: TrainSettings, on_report: OnReport) -> Iterator[RecorderGroup]:
    """The recorders that the settings and the environment ask for, while the `with` lasts.

    Their order matters: MLflow keeps what the others have written.
    """
    wanted, tracking_uri = settings.record, os.environ.get("MLFLOW_TRACKING_URI")
    group = RecorderGroup(on_report)
    if wanted.metrics:
        from pipeline.training.recorders.jsonl import JsonlRecorder

        group.open(JsonlRecorder.name, lambda: JsonlRecorder(settings.output))
    if wanted.curve:
        from pipeline.training.recorders.curve import CurveRecorder

        group.open(CurveRecorder.name, lambda: CurveRecorder(settings.output))
    if wanted.tensorboard:
        from pipeline.training.recorders.tensorboard import TensorBoardRecorder

        group.open(TensorBoardRecorder.name, lambda: TensorBoardRecorder(settings.output))
    if wanted.mlflow and tracking_uri:
        from pipeline.training.recorders.mlflow import MLflowRecorder

        group.open(MLflowRecorder.name, lambda: MLflowRecorder(settings, tracking_uri))
    try:
        yield group
    finally:
        group.close()
