"""Turn many small files of an output dataset into few large sorted ones."""

import sys

from jobs._log import log_to
from jobs._main import DONE, run_job, watched
from pipeline.config import CompactSettings
from pipeline.wording import plural


def work(settings: CompactSettings) -> int:
    """Plan, rewrite, and say what came of it."""
    return watched("compact", settings.dataset, lambda meter: _compact(settings))


def _compact(settings: CompactSettings) -> int:
    from pipeline.distributed.compacting import compact, plan_compaction, settle
    from pipeline.distributed.session import ray_session, unwrapped_errors
    from pipeline.tables.dataset import OutputDataset
    from pipeline.tables.lease import hold_lease

    log = log_to(settings.log)
    dataset = OutputDataset.open(settings.dataset)
    if settings.dry_run:
        planned = plan_compaction(dataset, settings.target_bytes)
        log.tell("plan", f"{plural(planned.old, 'shard')} would become {len(planned.works):,}")
        return DONE
    with (
        hold_lease(
            dataset.uri,
            "jobs.compact",
            wait=settings.wait_minutes * 60,
            on_wait=lambda text: log.tell("waiting", text),
        ) as lease,
        ray_session(),
        unwrapped_errors(),
    ):
        settle(dataset, lease)
        planned = plan_compaction(dataset, settings.target_bytes)
        if not planned.works:
            log.tell("done", "nothing to do")
            return DONE
        total = len(planned.works)
        with log.progress("compacting") as tell:
            compact(
                dataset,
                planned,
                lease,
                lambda done: tell("progress", f"{done:,}/{total:,} shards", share=done / total),
            )
    now = planned.shards - planned.old + len(planned.works)
    log.tell(
        "done",
        f"{plural(planned.shards, 'shard')} became {now:,}",
        before=planned.shards,
        after=now,
    )
    return DONE


if __name__ == "__main__":
    sys.exit(run_job(CompactSettings, work))
