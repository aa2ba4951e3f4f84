"""Check that an output dataset is whole, and mend it."""

import sys
from collections import Counter

from jobs._log import Log, log_to
from jobs._main import DAMAGED, DONE, run_job, watched
from pipeline.config import VerifySettings
from pipeline.tables.check import Finding
from pipeline.tables.dataset import OutputDataset


def work(settings: VerifySettings) -> int:
    """Check, and say what is wrong; with `repair`, mend."""
    return watched("verify", settings.dataset, lambda meter: _verify(settings))


def _verify(settings: VerifySettings) -> int:
    from pipeline.distributed.session import ray_session, unwrapped_errors
    from pipeline.distributed.verifying import verify

    log = log_to(settings.log)
    dataset = OutputDataset.open(settings.dataset)
    with ray_session(), unwrapped_errors(), log.progress("checking") as tell:
        findings = list(
            verify(
                dataset,
                lambda done, total: tell(
                    "progress", f"{done:,}/{total:,} shards", share=done / total
                ),
            )
        )
    _tell(log, findings, settings.limit)
    if not findings:
        return DONE
    if not settings.repair:
        log.tell("hint", "--repair removes what counts for nothing and plans again what is missing")
        return DAMAGED
    return _repair(log, dataset, findings, settings)


def _repair(
    log: Log, dataset: OutputDataset, findings: list[Finding], settings: VerifySettings
) -> int:
    from pipeline.distributed.repairing import repair
    from pipeline.distributed.session import ray_session, unwrapped_errors
    from pipeline.tables.lease import hold_lease

    with (
        hold_lease(
            dataset.uri,
            "jobs.verify",
            wait=settings.wait_minutes * 60,
            on_wait=lambda text: log.tell("waiting", text),
        ) as lease,
        ray_session(),
        unwrapped_errors(),
    ):
        done = repair(dataset, findings, lease)
    log.tell(
        "repaired",
        f"repaired: {done.orphans:,} files without use removed, {done.swept:,} shards swept, "
        f"{done.discarded:,} damaged shards discarded",
    )
    if done.planned:
        log.tell(
            "planned",
            f"{done.planned:,} images are planned again: run jobs.predict to compute them",
        )
        return DAMAGED
    return DONE


def _tell(log: Log, findings: list[Finding], limit: int) -> None:
    for finding in findings[:limit]:
        log.warn(
            finding.kind,
            f"{finding.where} {finding.what}" if finding.kind != "disagree" else finding.what,
            where=finding.where,
        )
    if len(findings) > limit:
        log.tell("more", f"… and {len(findings) - limit:,} more; --limit N shows more")
    kinds = Counter(finding.kind for finding in findings)
    told = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items())) or "nothing is wrong"
    log.tell("verdict", f"verified: {told}", **kinds)


if __name__ == "__main__":
    sys.exit(run_job(VerifySettings, work))
