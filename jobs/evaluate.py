"""Compare an output dataset with annotated images."""

import json
import sys
from dataclasses import asdict

from jobs._console import console, live, print_table
from jobs._main import DONE, run_job
from pipeline.config import EvaluateSettings


def work(settings: EvaluateSettings) -> int:
    """Measure, and print tables or JSON."""
    from pipeline.evaluation import evaluate
    from pipeline.labels import open_data
    from pipeline.tables.dataset import OutputDataset

    dataset = OutputDataset.open(settings.predictions)
    data = open_data(settings.data, settings.labels, settings.val_fraction)
    with live("evaluating", quiet=settings.json_output) as show:
        groups = evaluate(
            dataset,
            data,
            split=settings.split,
            by=settings.by,
            calibrate=settings.calibrate,
            on_progress=lambda done, total: show(done / total, f"{done:,}/{total:,} images"),
        )
    if settings.json_output:
        print(json.dumps([asdict(group) for group in groups], indent=2))
        return DONE
    thresholds = list(groups[0].ap_mean)
    for title, key in (("AP, mean over images", "ap_mean"), ("AP, pooled", "ap_pooled")):
        if not thresholds:
            break  # no class of things, so no objects
        rows = [[g.group, g.images, *getattr(g, key).values()] for g in groups]
        print_table(["images of", "n", *(f"IoU {t}" for t in thresholds)], rows, title)
        console.print()
    if not thresholds and any(one.kind == "thing" for one in groups[0].classes):
        console.print("the labels are class maps alone: no objects to judge found ones by\n")
    print_table(
        ["images of", "panoptic quality", "count error", "count bias", "mean IoU"],
        [[g.group, g.pq, g.count_error, g.count_bias, g.mean_iou] for g in groups],
    )
    judged: list[list[object]] = [
        [g.group, s.total, s.error, s.gap] for g in groups if (s := g.scores) and s.total
    ]
    if judged:
        console.print()
        print_table(
            ["images of", "objects", "calibration error", "overconfident by"],
            judged,
            "Scores of objects, against being right",
        )
    console.print()
    print_table(
        ["class", "kind", "Dice", "IoU", "PQ", "AP@.5", "true", "predicted", "error", "bias"],
        [list(asdict(one).values()) for one in groups[0].classes],
    )
    if settings.calibrate:
        console.print()
        console.print(f"the counts of {dataset.uri} are told with the error that they have here")
    return DONE


if __name__ == "__main__":
    sys.exit(run_job(EvaluateSettings, work))
