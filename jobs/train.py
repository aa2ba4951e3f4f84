"""Train a U-Net from annotated images and write a model bundle."""

import shlex
import sys
from typing import TYPE_CHECKING

from jobs._console import console, live, print_table
from jobs._main import DONE, run_job
from jobs._survey import print_choices, print_notes
from pipeline import storage
from pipeline.config import TrainSettings
from pipeline.errors import StoppedError

if TYPE_CHECKING:
    from pipeline.training.reports import Validation


def work(settings: TrainSettings) -> int:
    """Train, and print what the best epoch reached."""
    from pipeline.distributed.survey import Survey
    from pipeline.distributed.train import train_bundle
    from pipeline.survey.configure import Configuration
    from pipeline.training.reports import Notice, Report, StepReport

    share, text, score = 0.0, "reading images", ""
    with live("training") as show:
        show(share, text)

        def on_report(report: Report) -> None:
            nonlocal share, text, score
            if isinstance(report, Notice):
                console.print(f"note: {report.text}", highlight=False, markup=False)
            elif isinstance(report, StepReport):
                share = report.progress
                text = (
                    f"epoch {report.epoch}  loss {report.loss:.3f}  "
                    f"{report.pixels_per_second / 1e6:.2f} Mpx/s"
                )
            else:
                score = f"  val {report.score:.3f}"
            show(share, text + score)

        def on_configured(found: Survey, configuration: Configuration) -> None:
            print_notes(found.findings)
            print_choices(configuration.choices, "setting")
            console.print()

        try:
            result = train_bundle(settings, on_report, on_configured)
        except StoppedError as stopped:
            print(f"{stopped}; this goes on with it:\n{_resuming(sys.argv[1:])}")
            return DONE
    _print_figures(result.validation)
    console.print(f"\nmodel bundle: {result.bundle_uri}  ({result.seconds / 60:.1f} minutes)")
    if settings.record.tensorboard:
        folder = storage.join(settings.output, "tensorboard")
        console.print(f"to look back: tensorboard --logdir {folder}", highlight=False)
    return DONE


def _resuming(flags: list[str]) -> str:
    """The command line as it was typed, to resume with."""
    kept = [flag for flag in flags if flag not in ("--restart", "--resume")]
    return shlex.join(["python", "-m", "jobs.train", *kept, "--resume"])


def _print_figures(validation: "Validation") -> None:
    from pipeline.training.card import class_table

    figures = validation.figures
    if figures.ap_mean:
        thresholds = [f"IoU {threshold}" for threshold in figures.ap_mean]
        rows: list[list[object]] = [
            ["mean over images", *figures.ap_mean.values()],
            ["all objects together", *figures.ap_pooled.values()],
        ]
        print_table(["AP on validation images", *thresholds], rows)
        console.print()
    rows = [[name, value] for name, value in validation.metrics.items() if "/" not in name]
    print_table(["on validation images", "best epoch"], rows)
    console.print()
    print_table(*class_table(figures.classes))


if __name__ == "__main__":
    sys.exit(run_job(TrainSettings, work))
