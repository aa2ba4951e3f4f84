"""Run a job on a Ray cluster, through its job server; follow it, and exit as it does."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs._main import DONE, WRONG_USAGE, config_path, fail, run_job
from pipeline.config import (
    CompactSettings,
    CountSettings,
    EvaluateSettings,
    ExportSettings,
    InspectSettings,
    JobSettings,
    OverlaySettings,
    PredictSettings,
    SubmitSettings,
    TrainSettings,
    VerifySettings,
    fingerprint,
)
from pipeline.errors import SettingsError
from pipeline.parsing import load

if TYPE_CHECKING:
    from pipeline.distributed.submission import JobServer, Submission

JOBS: dict[str, type[JobSettings]] = {
    "inspect": InspectSettings,
    "train": TrainSettings,
    "predict": PredictSettings,
    "verify": VerifySettings,
    "compact": CompactSettings,
    "evaluate": EvaluateSettings,
    "count": CountSettings,
    "export": ExportSettings,
    "overlay": OverlaySettings,
}
_OURS = {
    "--" + name.replace("_", "-"): info.annotation is bool
    for name, info in SubmitSettings.model_fields.items()
    if name != "config"
}
"""Flags that are not the job's, and whether they stand alone."""
_HELP = ("-h", "--help")


def main(words: Sequence[str]) -> int:
    """`JOB` and flags of both kinds → exit code."""
    job, *flags = words or [""]
    if job not in JOBS and job not in _HELP:
        wrong = f"; not {job}" if job else ""
        return fail(None, f"the job comes first, one of {', '.join(JOBS)}{wrong}", WRONG_USAGE)
    if job in JOBS and set(_HELP) & set(flags):
        load(JOBS[job], ["--help"], {})
    ours, theirs = divide(flags) if job in JOBS else (list(words), [])
    return run_job(SubmitSettings, lambda settings: _submit(settings, job, theirs), ours)


def divide(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags of the submission, and those of the job."""
    ours, theirs = list[str](), list[str]()
    words = iter(flags)
    for word in words:
        flag, has_value, _ = word.partition("=")
        if flag not in _OURS:
            theirs.append(word)
            continue
        ours.append(word)
        if not has_value and not _OURS[flag]:
            ours += [following for following in [next(words, None)] if following is not None]
    return ours, theirs


def _submit(settings: SubmitSettings, job: str, flags: list[str]) -> int:
    from pipeline.distributed.submission import JobServer, numbered

    _check(settings, job, flags)
    name = settings.submission_id or f"{job}-{fingerprint([job, *flags])}"
    server = JobServer(settings.address)
    attempts = server.attempts(name)
    known = attempts[-1] if attempts else None
    if settings.stop:
        return _stop(server, known, name)
    if known is not None and known.done and not settings.again:
        _say(f"{known.id} is done already; --again runs it once more")
        return known.code
    if known is None or known.over:
        if known is not None:
            _say(f"{known.id} has {known.status.value.lower()}; this is the next attempt")
        environment = {"working_dir": settings.working_dir} if settings.working_dir else {}
        entrypoint = shlex.join(["python", "-m", f"jobs.{job}", *flags])
        submission_id = numbered(name, len(attempts) + 1)
        server.submit(submission_id, entrypoint, environment)
        known = server.look(submission_id)
        _say(f"submitted {known.id} to {settings.address}")
    else:
        _say(f"{known.id} goes on already; following it")
    if settings.detach:
        return DONE
    return _follow(server, known)


def _follow(server: "JobServer", known: "Submission") -> int:
    try:
        over = server.follow(known.id, _write)
    except KeyboardInterrupt:
        _say(f"{known.id} goes on; the same command follows it, and with --stop ends it")
        raise
    if not over.done:
        _say(f"{over.id} has {over.status.value.lower()}: {over.message}")
    return over.code


def _stop(server: "JobServer", known: "Submission | None", name: str) -> int:
    if known is None or known.over:
        _say(f"{name if known is None else known.id} does not run")
        return DONE
    server.stop(known.id)
    over = server.follow(known.id, _write)
    _say(f"{over.id} has {over.status.value.lower()}; the same command without --stop goes on")
    return DONE


def _check(settings: SubmitSettings, job: str, flags: list[str]) -> None:
    """Find here what the cluster would find minutes later."""
    config = config_path(flags)
    if config is None:
        load(JOBS[job], flags, {})
    elif "://" not in config and not settings.working_dir:
        raise SettingsError(
            f"setting config: {config} lies on this machine; give a URI, or --working-dir"
        )


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    """Beside what the job prints, which may be JSON for a program."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
