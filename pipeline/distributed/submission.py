"""Jobs on a cluster, by Ray's job server: submitted once, followed to their end, stopped.

A submission has a name that follows from its command. A further attempt at the same command, after
one that failed, has the name with a number behind it: Ray never takes a name twice.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import requests
from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from pipeline.errors import SettingsError, TesseraError

STOPPED = 143
"""Exit code of a job that was stopped, as of a process that SIGTERM has ended."""
_PAUSE_SECONDS = 1.0
_SILENT_SECONDS = 300.0  # without an answer of the job server, before following is given up


@dataclass(frozen=True)
class Submission:
    """One attempt at a command."""

    id: str
    status: JobStatus
    exit_code: int | None
    message: str
    """Why it ended, without its log."""

    @property
    def over(self) -> bool:
        return bool(self.status.is_terminal())

    @property
    def done(self) -> bool:
        return bool(self.status == JobStatus.SUCCEEDED)

    @property
    def code(self) -> int:
        """What `jobs.submit` exits with, once it is over."""
        if self.done:
            return 0
        return STOPPED if self.status == JobStatus.STOPPED else self.exit_code or 1


class JobServer:
    """The job server of a cluster.

    Raises:
        TesseraError: it does not answer, or wants another token.
    """

    def __init__(self, address: str) -> None:
        if "://" not in address:
            raise SettingsError(f"setting address: takes a URL such as http://{address}")
        # Ray would follow these rather than what it is told.
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            os.environ.pop(name, None)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.ERROR)
        self.address = address.rstrip("/")
        with self._told():
            self.client = JobSubmissionClient(self.address)

    def attempts(self, name: str) -> list[Submission]:
        """All at the command of that name, the first one first."""
        with self._told():
            known = {job.submission_id: job for job in self.client.list_jobs()}
        ids = takewhile(known.__contains__, (numbered(name, n) for n in count(1)))
        return [_submission(known[each]) for each in ids]

    def submit(self, submission_id: str, entrypoint: str, environment: dict[str, Any]) -> None:
        """Begin it, unless another process has just done so."""
        with self._told():
            try:
                self.client.submit_job(
                    entrypoint=entrypoint, submission_id=submission_id, runtime_env=environment
                )
            except RuntimeError:
                if all(job.submission_id != submission_id for job in self.client.list_jobs()):
                    raise

    def look(self, submission_id: str) -> Submission:
        """How it is."""
        with self._told():
            return _submission(self.client.get_job_info(submission_id))

    def stop(self, submission_id: str) -> None:
        """Ask it to end."""
        with self._told():
            self.client.stop_job(submission_id)

    def follow(self, submission_id: str, write: Callable[[str], None]) -> Submission:
        """Pass on what it prints until it is over; lost connections are taken up again."""
        written, lost_since = 0, None
        while True:
            passing = 0

            def take(text: str) -> None:
                """What comes after what was written before the connection was lost."""
                nonlocal passing, written
                begin, passing = passing, passing + len(text)
                if passing > written:
                    write(text[max(written - begin, 0) :])
                    written = passing

            with contextlib.suppress(ClientError, RuntimeError, OSError):  # it is taken up again
                asyncio.run(self._tail(submission_id, take))
            try:
                now = self.look(submission_id)
            except TesseraError as error:
                if self._has_forgotten(submission_id):
                    raise TesseraError(
                        f"the job server at {self.address} does not know {submission_id} any more: "
                        "the cluster's head was started anew; give the same command again"
                    ) from error
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > _SILENT_SECONDS:
                    raise TesseraError(
                        f"the job server at {self.address} has not answered for "
                        f"{_SILENT_SECONDS:.0f} s; the job may go on: give the same command again"
                    ) from error
            else:
                if now.over:
                    return now
                lost_since = None
            time.sleep(_PAUSE_SECONDS)

    def _has_forgotten(self, submission_id: str) -> bool:
        """Whether it answers, and knows no such job: a head that dies takes its jobs with it."""
        try:
            with self._told():
                jobs = self.client.list_jobs()
        except TesseraError:
            return False
        return all(job.submission_id != submission_id for job in jobs)

    async def _tail(self, submission_id: str, take: Callable[[str], None]) -> None:
        async for text in self.client.tail_job_logs(submission_id):
            take(text)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Ray's many words for what can go wrong, in one line."""
        try:
            yield
        except AuthenticationError as error:
            reason = str(error).partition("\n")[0].partition(". ")[0]
            raise TesseraError(
                f"the job server at {self.address} wants its token: set RAY_AUTH_MODE=token, and "
                f"RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH ({reason})"
            ) from error
        except (ConnectionError, requests.exceptions.RequestException) as error:
            raise TesseraError(
                f"no job server answers at {self.address}: is the cluster up, its port forwarded?"
            ) from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise TesseraError(f"the job server at {self.address} refused: {reason}") from error


def numbered(name: str, attempt: int) -> str:
    """The id of an attempt, counted from 1."""
    return name if attempt == 1 else f"{name}-{attempt}"


def _submission(job: JobDetails) -> Submission:
    message = (job.message or "").partition(", last available logs")[0].partition("\n")[0]
    return Submission(job.submission_id or "", job.status, job.driver_exit_code, message)
