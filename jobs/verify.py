"""Check that an output dataset is whole, and mend it."""

import sys
from collections import Counter
from typing import TYPE_CHECKING

from jobs._log import Log, log_to
from jobs._main import DAMAGED, DONE, run_job, watched
from pipeline.config import VerifySettings
from pipeline.tables.check import Finding
from pipeline.tables.dataset import OutputDataset
from pipeline.wording import plural

if TYPE_CHECKING:
    from pipeline.tables.lease import Lease


def work(settings: VerifySettings) -> int:
    """Check, and say what is wrong; with `repair`, mend."""
    return watched("verify", settings.dataset, lambda meter: _verify(settings))


def _verify(settings: VerifySettings) -> int:
    from pipeline.distributed.session import ray_session, unwrapped_errors
    from pipeline.tables.lease import hold_lease, writer

    log = log_to(settings.log)
    dataset = OutputDataset.open(settings.dataset)
    if not settings.repair:
        if who := writer(dataset.uri):
            text = (
                f"{dataset.uri} is being written: {who}; files that are on their way are no finding"
            )
            log.tell("writing", text)
        with ray_session(), unwrapped_errors():
            findings = _findings(log, dataset, settings, files=who is None)
        if _mendable(findings):
            hint = "--repair removes what counts for nothing and plans again what is missing"
            log.tell("hint", hint)
        return DAMAGED if findings else DONE
    with (
        # From before the look: what is found while others write is no base for a repair.
        hold_lease(
            dataset.uri,
            "jobs.verify",
            wait=settings.wait_minutes * 60,
            on_wait=lambda text: log.tell("waiting", text),
        ) as lease,
        ray_session(),
        unwrapped_errors(),
    ):
        findings = _findings(log, dataset, settings)
        mended = _repair(log, dataset, findings, lease) if _mendable(findings) else DONE
        return mended if mended or len(_mendable(findings)) == len(findings) else DAMAGED


def _mendable(findings: list[Finding]) -> list[Finding]:
    """Those but for somebody else's files, which nobody takes away but he."""
    return [finding for finding in findings if finding.kind != "foreign"]


def _findings(
    log: Log, dataset: OutputDataset, settings: VerifySettings, *, files: bool = True
) -> list[Finding]:
    from pipeline.distributed.verifying import verify

    with log.progress("checking") as tell:

        def on_checked(done: int, total: int) -> None:
            tell("progress", f"{done:,}/{total:,} shards", share=done / total)

        findings = list(verify(dataset, on_checked, files=files))
    _tell(log, findings, settings.limit)
    return findings


def _repair(log: Log, dataset: OutputDataset, findings: list[Finding], lease: "Lease") -> int:
    from pipeline.distributed.repairing import repair

    done = repair(dataset, findings, lease)
    log.tell(
        "repaired",
        f"repaired: {plural(done.orphans, 'file')} without use removed, "
        f"{plural(done.swept, 'shard')} swept, "
        f"{plural(done.discarded, 'damaged shard')} discarded",
    )
    if done.planned:
        log.tell(
            "planned",
            f"{plural(done.planned, 'image is', 'images are')} planned again: run jobs.predict to "
            "compute what is missing",
        )
        return DAMAGED
    return DONE


def _tell(log: Log, findings: list[Finding], limit: int) -> None:
    for finding in findings[:limit]:
        says_where = finding.kind == "disagree" or finding.where in finding.what
        text = finding.what if says_where else f"{finding.where} {finding.what}"
        log.warn(finding.kind, text, where=finding.where)
    if len(findings) > limit:
        log.tell("more", f"… and {len(findings) - limit:,} more; --limit N shows more")
    kinds = Counter(finding.kind for finding in findings)
    told = ", ".join(f"{n:,} {kind}" for kind, n in sorted(kinds.items())) or "nothing is wrong"
    log.tell("verdict", f"verified: {told}", **kinds)


if __name__ == "__main__":
    sys.exit(run_job(VerifySettings, work))
