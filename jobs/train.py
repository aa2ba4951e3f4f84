"""Train a U-Net from annotated images and write a model bundle."""

import sys

from jobs._console import console, live, print_table
from jobs._main import DONE, run_job
from jobs._survey import print_choices, print_notes
from pipeline.config import TrainSettings


def work(settings: TrainSettings) -> int:
    """Train, and print what the best epoch reached."""
    from pipeline.distributed.mailbox import Report
    from pipeline.distributed.survey import Survey
    from pipeline.distributed.train import train_bundle
    from pipeline.survey.configure import Configuration
    from pipeline.training.reports import StepReport

    share, text, score = 0.0, "reading images", ""
    with live("training") as show:
        show(share, text)

        def on_report(report: Report) -> None:
            nonlocal share, text, score
            if isinstance(report, StepReport):
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

        result = train_bundle(settings, on_report, on_configured)
    metrics = [[name, value] for name, value in result.spec.metrics.items()]
    print_table(["on validation images", "best epoch"], metrics)
    console.print(f"\nmodel bundle: {result.bundle_uri}  ({result.seconds / 60:.1f} minutes)")
    return DONE


if __name__ == "__main__":
    sys.exit(run_job(TrainSettings, work))
