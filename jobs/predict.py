"""Predict a collection of images and write masks, objects and counts as Parquet."""

import sys
from typing import TYPE_CHECKING

from jobs._console import console, human_bytes, live, print_table
from jobs._main import DONE, TOO_MANY_REJECTS, run_job
from pipeline.config import PredictSettings

if TYPE_CHECKING:  # Ray and PyTorch are imported when there is work for them
    from pipeline.distributed.backfill import Progress, Work


def work(settings: PredictSettings) -> int:
    """Plan, run, and print what came of it."""
    from pipeline.distributed.backfill import Backfill, Progress

    job = Backfill(settings)
    planned = job.plan()
    _print_plan(planned)
    if settings.dry_run or not planned.shards:
        console.print("nothing is written" if settings.dry_run else "nothing to do")
        return DONE
    rejects = done = 0
    # An interrupted run's plan goes first; what the collection has gained since then, after it.
    while planned.shards:
        with live("predicting") as show:

            def on_progress(now: Progress) -> None:
                rate = now.pixels / now.seconds / 1e6 if now.seconds else 0.0
                show(
                    now.done / now.total,
                    f"{now.done:,}/{now.total:,} images  {now.objects:,} objects  "
                    f"{now.rejects:,} rejects  {rate:.2f} Mpx/s",
                )

            final = job.execute(planned, on_progress)
        _print_result(final, settings.output)
        rejects, done = rejects + final.rejects, done + final.done
        planned = job.plan()
    share = rejects / done if done else 0.0
    if share > settings.max_reject_share:
        print(
            f"error: {share:.0%} of the images were rejected, over the limit of "
            f"{settings.max_reject_share:.0%}; see {settings.output}/rejects",
            file=sys.stderr,
        )
        return TOO_MANY_REJECTS
    return DONE


def _print_plan(planned: "Work") -> None:
    collection = planned.collection
    notes = []
    if collection.ignored:
        notes.append(f"{collection.ignored:,} other files are no images by their names")
    if collection.repeated:
        notes.append(f"{collection.repeated:,} repeated lines of the manifest count once")
    if planned.resumed:
        notes.append(f"going on with the interrupted run {planned.resumed.id}")
    console.print(
        f"{len(collection.images):,} images, {planned.done:,} done before, {planned.images:,} to "
        f"do: {human_bytes(planned.bytes)} in {len(planned.shards):,} shards",
        highlight=False,
    )
    for note in notes:
        console.print(f"  {note}", highlight=False)


def _print_result(final: "Progress", output: str) -> None:
    print_table(
        ["images", "objects", "rejects", "megapixels", "seconds", "first commit after"],
        [
            [
                final.images,
                final.objects,
                final.rejects,
                round(final.pixels / 1e6, 1),
                round(final.seconds, 1),
                round(final.first_commit_seconds or 0, 1),
            ]
        ],
    )
    if final.rejects:
        codes = ", ".join(f"{code} {n:,}" for code, n in sorted(final.reject_codes.items()))
        console.print(f"\nrejected: {codes}; the reasons are in {output}/rejects", highlight=False)
    console.print(f"\noutput dataset: {output}", highlight=False)


if __name__ == "__main__":
    sys.exit(run_job(PredictSettings, work))
