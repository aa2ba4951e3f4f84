"""Train a U-Net from annotated images and write a model bundle."""

import sys
from functools import partial
from typing import TYPE_CHECKING

from jobs._command import command
from jobs._log import Log, Tell, log_to
from jobs._main import DONE, SAVED, Terminated, run_job, watched
from jobs._survey import tell_choices, tell_notes
from pipeline import storage
from pipeline.config import TrainSettings
from pipeline.errors import StoppedError
from pipeline.wording import plural

if TYPE_CHECKING:
    from pipeline.distributed.metering import Meter
    from pipeline.distributed.survey import Survey
    from pipeline.survey.configure import Configuration
    from pipeline.training.reports import Report, Validation


_FEW_STEPS = 200


def work(settings: TrainSettings) -> int:
    """Train, and print what the best epoch reached."""
    return watched("train", settings.output, partial(_train, log_to(settings.log), settings))


def _train(log: Log, settings: TrainSettings, meter: "Meter") -> int:
    from pipeline.distributed.train import train_bundle
    from pipeline.training.unfinished import last_run

    def on_configured(found: "Survey", configuration: "Configuration") -> None:
        tell_notes(log, found.findings)
        tell_choices(log, configuration.choices, "setting")

    before = last_run(settings)
    try:
        with log.progress("training") as tell:
            tell("progress", "reading images", share=0.0)
            course = _Course(log, tell, meter)
            result = train_bundle(settings, course, on_configured)
    except (StoppedError, Terminated) as stopped:
        run = last_run(settings)  # that of before is still there where --restart had not begun
        kept = run is not None and (settings.resume or run != before)
        again = {"resume": True, "restart": False} if kept else {}
        text = "this goes on with it" if kept else "this begins anew"
        log.tell(
            "stopped",
            f"{str(stopped) or 'stopped'}; {text}:\n{command(settings.model_copy(update=again))}",
        )
        return SAVED
    _tell_figures(log, result.validation)
    if settings.max_minutes and course.steps < _FEW_STEPS:
        log.warn(
            "few_steps",
            f"only {plural(course.steps, 'step')} fitted in "
            f"{plural(settings.max_minutes, 'minute')}, "
            "too few to learn much: give it more time, more workers, or a machine with less other "
            "work",
        )
    minutes = result.seconds / 60
    log.tell("output", f"model bundle: {result.bundle_uri}  ({minutes:.1f} minutes)",
             output=result.bundle_uri, minutes=round(minutes, 1))  # fmt: skip
    if settings.record.tensorboard:
        folder = storage.join(settings.output, "tensorboard")
        log.tell("hint", f"to look back: tensorboard --logdir {folder}")
    return DONE


class _Course:
    """Tells of a training while it goes on."""

    def __init__(self, log: Log, tell: Tell, meter: "Meter") -> None:
        self.log = log
        self.tell = tell
        self.meter = meter
        self.share, self.text, self.score = 0.0, "reading images", ""
        self.steps = 0

    def __call__(self, report: "Report") -> None:
        from pipeline.training.reports import Notice, StepReport

        event, fields = "progress", dict[str, object]()
        if isinstance(report, Notice):
            self.log.warn("notice", report.text)
            return
        if isinstance(report, StepReport):
            self.share = report.progress
            rate = report.pixels_per_second / 1e6
            self.text = f"epoch {report.epoch}  loss {report.loss:.3f}  {rate:.2f} Mpx/s"
            fields = {"epoch": report.epoch, "step": report.step, "loss": report.loss,
                      "megapixels_per_second": round(rate, 3)}  # fmt: skip
        else:
            self.steps = report.step
            self.score = f"  val {report.score:.3f}"
            event, fields = "validation", {"epoch": report.epoch, "score": report.score}
        self.meter.share(self.share)
        self.tell(event, self.text + self.score, share=self.share, **fields)


def _tell_figures(log: Log, validation: "Validation") -> None:
    from pipeline.training.card import class_table

    figures = validation.figures
    if figures.ap_mean:
        thresholds = [f"IoU {threshold}" for threshold in figures.ap_mean]
        rows: list[list[object]] = [
            ["mean over images", *figures.ap_mean.values()],
            ["all objects together", *figures.ap_pooled.values()],
        ]
        log.table("precision", ["AP on validation images", *thresholds], rows)
    rows = [[name, value] for name, value in validation.metrics.items() if "/" not in name]
    log.table("figures", ["on validation images", "best epoch"], rows)
    log.table("classes", *class_table(figures.classes))


if __name__ == "__main__":
    sys.exit(run_job(TrainSettings, work))
