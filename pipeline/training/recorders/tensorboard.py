"""Event files for TensorBoard in `OUTPUT/tensorboard`: curves, and pictures of the validation."""

import tempfile
import time

from tensorboardX import SummaryWriter

from pipeline import storage
from pipeline.training.reports import EpochReport, StepReport

FOLDER = "tensorboard"
_COPY_SECONDS = 30.0
"""Between copies to an object store, since each copies the whole file."""


class TensorBoardRecorder:
    """Writes locally; where the output is an object store, the files are copied there."""

    name = "TensorBoard"

    def __init__(self, output: str) -> None:
        self.uri = storage.join(storage.absolute(output), FOLDER)
        self.scratch: tempfile.TemporaryDirectory[str] | None = None
        if not storage.is_local(output):
            self.scratch = tempfile.TemporaryDirectory(prefix="tensorboard-")
        self.writer: SummaryWriter | None = None
        self.copied = time.monotonic()

    def step(self, report: StepReport) -> None:
        writer = self._open(report.epoch, report.step)
        writer.add_scalar("train/loss", report.loss, report.step)
        writer.add_scalar("train/learning_rate", report.learning_rate, report.step)
        writer.add_scalar(
            "train/megapixels_per_second", report.pixels_per_second / 1e6, report.step
        )

    def epoch(self, report: EpochReport) -> None:
        writer = self._open(report.epoch, report.step)
        writer.add_scalar("train/loss_of_epoch", report.loss, report.step)
        for name, value in report.metrics.items():
            writer.add_scalar(f"val/{name}", value, report.step)
        for one in report.overlays:
            tag = f"image_truth_predicted/{one.name}"
            writer.add_image(tag, one.picture, report.step, dataformats="HWC")
        writer.flush()
        if time.monotonic() - self.copied >= _COPY_SECONDS:
            self._copy()

    def done(self, bundle_uri: str) -> None:
        pass  # curves and pictures are complete with the last epoch

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self._copy()
        if self.scratch is not None:
            self.scratch.cleanup()

    def _open(self, epoch: int, step: int) -> SummaryWriter:
        if self.writer is None:
            if epoch == 1:
                storage.remove_folder(self.uri)  # of an earlier training into the same output
            folder = self.scratch.name if self.scratch else storage.make_folder(self.uri)
            # What a training that this one resumes had recorded from this step on is hidden.
            self.writer = SummaryWriter(logdir=folder, purge_step=step if epoch > 1 else None)
        return self.writer

    def _copy(self) -> None:
        if self.scratch is not None:
            storage.copy_folder(self.scratch.name, self.uri)
            self.copied = time.monotonic()
