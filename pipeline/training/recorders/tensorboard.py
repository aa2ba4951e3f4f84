"""Event files for TensorBoard in `OUTPUT/tensorboard`: curves, and pictures of the validation."""

import tempfile
import time

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import image, scalar

from pipeline import storage
from pipeline.training.reports import EpochReport, StepReport

FOLDER = "tensorboard"
_COPY_SECONDS = 30.0
"""Between copies to an object store, since each copies the whole file."""


class TensorBoardRecorder:
    """Writes locally; where the output is an object store, the files are copied there.

    Events are written as they come. tensorboardX's own writer leaves that to a thread, which a full
    disk ends with a stack trace, and for which whoever records after that waits for ever.
    """

    name = "TensorBoard"

    def __init__(self, output: str) -> None:
        self.uri = storage.join(storage.absolute(output), FOLDER)
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        if not storage.is_local(output):
            self.scratch = tempfile.TemporaryDirectory(prefix="tensorboard-")
        self.events: EventsWriter | None = None
        self.shown = time.monotonic()

    def step(self, report: StepReport) -> None:
        values = {
            "train/loss": report.loss,
            "train/learning_rate": report.learning_rate,
            "train/megapixels_per_second": report.pixels_per_second / 1e6,
        }
        self._write(values, report)
        if time.monotonic() - self.shown >= _COPY_SECONDS:
            self._show()

    def epoch(self, report: EpochReport) -> None:
        measured = {f"val/{name}": value for name, value in report.metrics.items()}
        self._write({"train/loss_of_epoch": report.loss} | measured, report)
        for one in report.overlays:
            tag = f"image_truth_predicted/{one.name}"
            self._add(report, summary=image(tag, one.picture, dataformats="HWC"))
        self._show()

    def done(self, bundle_uri: str) -> None:
        pass  # curves and pictures are complete with the last epoch

    def close(self) -> None:
        if self.events is not None:
            self.events.close()
            self._copy()
        if self.scratch is not None:
            self.scratch.cleanup()

    def _write(self, values: dict[str, float], report: StepReport | EpochReport) -> None:
        for name, value in values.items():
            self._add(report, summary=scalar(name, value))

    def _add(self, report: StepReport | EpochReport, **content: object) -> None:
        if self.events is None:
            self.events = self._open(report)
        self.events.write_event(Event(wall_time=time.time(), step=report.step, **content))

    def _open(self, report: StepReport | EpochReport) -> EventsWriter:
        if report.epoch == 1:
            storage.remove_folder(self.uri)  # of an earlier training into the same output
        folder = self.scratch.name if self.scratch else storage.make_folder(self.uri)
        events = EventsWriter(storage.join(folder, "events"))
        if report.epoch > 1:
            # What a training that this one resumes had recorded from this step on is hidden.
            again = SessionLog(status=SessionLog.START)
            now = time.time()
            events.write_event(Event(wall_time=now, step=report.step, session_log=again))
        return events

    def _show(self) -> None:
        if self.events is not None:
            self.events.flush()
        self._copy()
        self.shown = time.monotonic()

    def _copy(self) -> None:
        if self.scratch is not None:
            storage.copy_folder(self.scratch.name, self.uri)
