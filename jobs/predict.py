"""Predict a collection of images and write masks, objects and counts as Parquet."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from jobs._console import human_bytes, human_seconds, in_one_line
from jobs._log import Log, log_to
from jobs._main import DONE, TOO_MANY_REJECTS, fail, run_job, stopped_by, watched
from pipeline.config import PredictSettings
from pipeline.errors import StoppedError
from pipeline.wording import plural

if TYPE_CHECKING:  # Ray and PyTorch are imported when there is work for them
    from pipeline.distributed.backfill import Backfill, Work
    from pipeline.distributed.metering import Meter
    from pipeline.distributed.story import Progress
    from pipeline.tables.lease import Lease


_SHOWN_REJECTS = 5
_MAY_PASS = ("forbidden", "incomplete", "not_found", "unreadable")
"""Codes of rejects that may be the store's or the credentials' doing, and no image's."""


def work(settings: PredictSettings) -> int:
    """Plan, run, and print what came of it."""
    log = log_to(settings.log)
    if settings.dry_run:
        return _dry_run(log, settings)
    return watched("predict", settings.output, partial(_predict, log, settings))


def _dry_run(log: Log, settings: PredictSettings) -> int:
    from pipeline.distributed.backfill import Backfill

    job = Backfill(settings)
    with job.plan() as planned:
        _tell_plan(log, job, planned)
    if number := job.superseded:
        text = f"{plural(number, 'interrupted run')} of other commands would be closed"
        log.tell("note", text, number=number)
    if settings.prune:
        number = job.gone().number
        text = f"{plural(number, 'image is', 'images are')} gone: their rows would go, too"
        log.tell("prune", text, number=number)
    log.tell("done", "nothing is written")
    return DONE


def _predict(log: Log, settings: PredictSettings, meter: "Meter") -> int:
    from pipeline.distributed.backfill import Backfill

    job = Backfill(settings)
    meter.last_success(job.last_success)

    def on_closed(number: int) -> None:
        text = f"{plural(number, 'interrupted run')} of other commands closed"
        log.tell("note", text, number=number)

    with job.lease(lambda text: log.tell("waiting", text), on_closed) as lease:
        return _work(log, meter, job, lease, settings)


def _work(
    log: Log, meter: "Meter", job: "Backfill", lease: "Lease", settings: PredictSettings
) -> int:
    rejects = done = 0
    renew = going_on = True
    # An interrupted run's plan goes first; what the collection has gained since then, after it.
    while going_on:
        with job.plan(renew=renew) as planned:
            if not (done and planned.nothing):
                _tell_plan(log, job, planned)
            if planned.nothing:
                break
            try:
                final = _execute(log, meter, job, planned, lease)
            except StoppedError as stopped:
                log.warn("stopped", f"{stopped}; the same command goes on where this one ended")
                return stopped_by(stopped.signal)
            _tell_result(log, job, final)
            rejects, done = rejects + final.rejects, done + final.done
            renew = renew and not planned.renews_enough
            going_on = planned.resumed is not None
    pruned = _prune(log, job, lease) if settings.prune else 0
    if not done and not pruned:
        log.tell("done", "nothing to do")
        _tell_what_may_pass(log, job.reject_codes)
    # Of all attempts of a run; and a failure is none the less one when nothing is left to do.
    share = max(rejects / done if done else 0.0, job.reject_share)
    if share > settings.max_reject_share:
        text = (
            f"{share:.0%} of the images of the last run were rejected, over the limit of "
            f"{settings.max_reject_share:.0%}; see {settings.output}/rejects; --retry-rejects "
            "tries them again, a larger --max-reject-share takes them as they are"
        )
        return fail(settings, text, TOO_MANY_REJECTS)
    return DONE


def _prune(log: Log, job: "Backfill", lease: "Lease") -> int:
    """Looks anew at what is done, and at what there is."""
    gone = job.gone()
    if gone.number:
        job.prune(gone, lease)
        text = f"{plural(gone.number, 'image is', 'images are')} gone, and their rows with them"
        log.tell("pruned", text, number=gone.number)
    return gone.number


def _execute(
    log: Log, meter: "Meter", job: "Backfill", planned: "Work", lease: "Lease"
) -> "Progress":
    with log.progress("predicting") as tell:

        def on_progress(now: "Progress") -> None:
            meter.update(now)
            rate = now.pixels / now.seconds / 1e6 if now.seconds else 0.0
            large = "" if now.parts is None else f"  {now.parts[0]:,}/{now.parts[1]:,} parts"
            tell(
                "progress",
                f"{now.done:,}/{now.total:,} images{large}  {plural(now.objects, 'object')}  "
                f"{plural(now.rejects, 'reject')}  {rate:.2f} Mpx/s",
                share=now.done / now.total if now.total else 1.0,
                images=now.images,
                objects=now.objects,
                rejects=now.rejects,
                total=now.total,
                megapixels_per_second=round(rate, 3),
            )

        return job.execute(planned, lease, on_progress, lambda text: log.warn("trouble", text))


def _tell_plan(log: Log, job: "Backfill", planned: "Work") -> None:
    collection, plan = job.collection, planned.plan
    if planned.resumed is not None:
        log.tell(
            "plan",
            f"going on with the interrupted run {planned.resumed.id}: "
            f"{plural(plan.images, 'image')} left, "
            f"{human_bytes(plan.bytes)} in {plural(plan.shards, 'shard')}{_how_long(planned)}",
            run=planned.resumed.id,
            images=plan.images,
            bytes=plan.bytes,
            shards=plan.shards,
        )
        return
    log.tell(
        "plan",
        f"{plural(plan.listed, 'image')}, {plan.done:,} done before, {plan.images:,} to do: "
        f"{human_bytes(plan.bytes)} in {plural(plan.shards, 'shard')}{_how_long(planned)}",
        listed=plan.listed,
        done=plan.done,
        images=plan.images,
        bytes=plan.bytes,
        shards=plan.shards,
        seconds=planned.seconds,
    )
    suffixes = f": {collection.ignored_suffixes}" if collection.ignored_suffixes else ""
    notes = [
        (collection.ignored, f"other file is no image by its name{suffixes}",
         f"other files are no images by their names{suffixes}"),
        (plan.repeated, "repeated line of the manifest counts once",
         "repeated lines of the manifest count once"),
        (plan.changed, "image has changed since it was done",
         "images have changed since they were done"),
        (collection.unknown, "image can't be looked up: rows that it has stay",
         "images can't be looked up: rows that they have stay"),
        (collection.unpartitioned, "image has no value for a partition",
         "images have no value for a partition"),
    ]  # fmt: skip
    for number, one, many in notes:
        if number:
            log.tell("note", f"  {plural(number, one, many)}", number=number)


def _how_long(planned: "Work") -> str:
    if planned.seconds is None or not planned.plan.images:
        return ""
    return f", about {human_seconds(planned.seconds)} at the rate of the last run with its start"


def _tell_result(log: Log, job: "Backfill", final: "Progress") -> None:
    output = job.settings.output
    log.table(
        "result",
        ["images", "objects", "rejects", "megapixels", "seconds", "images/s", "first commit after"],
        [
            [
                final.images,
                final.objects,
                final.rejects,
                round(final.pixels / 1e6, 3),
                round(final.seconds, 3),
                round(final.done / final.seconds, 3) if final.seconds else 0,
                round(final.first_commit_seconds or 0, 3),
            ]
        ],
    )
    if final.rejects:
        codes = ", ".join(f"{code} {n:,}" for code, n in sorted(final.reject_codes.items()))
        log.tell(
            "rejects",
            f"rejected: {codes}; the reasons are in {output}/rejects, such as",
            **dict(final.reject_codes),
        )
        for one in job.some_rejects(min(len(final.reject_codes), _SHOWN_REJECTS)):
            text = in_one_line(f"  {one['uri']}: {one['code']}: {one['message']}")
            log.tell("reject", text, **one)
        _tell_what_may_pass(log, final.reject_codes)
    log.tell("output", f"output dataset: {output}", output=output)


def _tell_what_may_pass(log: Log, codes: Mapping[str, int]) -> None:
    """Nothing tries rejects again of itself, so whoever had the store away is to know."""
    number = sum(codes.get(code, 0) for code in _MAY_PASS)
    if number:
        text = (
            f"{plural(number, 'reject')} of the last run may be due to the store or the "
            f"credentials ({', '.join(code for code in _MAY_PASS if code in codes)}): once that "
            "is mended, --retry-rejects tries again"
        )
        log.warn("rejects_may_pass", text, number=number)


if __name__ == "__main__":
    sys.exit(run_job(PredictSettings, work))
