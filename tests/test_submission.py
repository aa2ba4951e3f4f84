"""Following a job over connections that are lost: each line once, and patience that has an end."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
from aiohttp import ClientError
from ray.job_submission import JobStatus

from pipeline.distributed import submission
from pipeline.distributed.submission import JobServer
from pipeline.errors import TesseraError

LINES = ["one\n", "two\n", "three\n", "four\n"]


class Client:
    """A job server whose connections are cut after some lines; each begins with the first line."""

    def __init__(self, cuts: list[int], away: int = 0, forgotten: bool = False) -> None:
        self.cuts = cuts
        self.away = away
        self.forgotten = forgotten

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        end = self.cuts.pop(0) if self.cuts else len(LINES)
        for line in LINES[:end]:
            yield line
        if end < len(LINES):
            raise ClientError("cut")

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if self.away:
            self.away -= 1
            raise ConnectionError("nobody answers")
        if self.forgotten:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist")
        status = JobStatus.RUNNING if self.cuts else JobStatus.SUCCEEDED
        return SimpleNamespace(submission_id=job_id, status=status, driver_exit_code=0, message="")

    def list_jobs(self) -> list[SimpleNamespace]:
        if self.away:
            raise ConnectionError("nobody answers")
        return [] if self.forgotten else [SimpleNamespace(submission_id="job")]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> JobServer:
    monkeypatch.setattr(submission, "_PAUSE_SECONDS", 0)
    monkeypatch.setattr(submission, "JobSubmissionClient", lambda address: None)
    return JobServer("http://127.0.0.1:1")


@pytest.mark.parametrize("cuts", [[], [0, 2, 1, 3], [3, 3, 4]])
def test_each_line_is_written_once(server: JobServer, cuts: list[int]) -> None:
    server.client = Client([*cuts, 4], away=3)
    written: list[str] = []
    assert server.follow("job", written.append).done
    assert "".join(written) == "".join(LINES)


def test_a_server_that_stays_away_is_told(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submission, "_SILENT_SECONDS", 0.2)
    server.client = Client([1], away=1 << 30)
    with pytest.raises(TesseraError, match="the job may go on: give the same command again"):
        server.follow("job", lambda text: None)


def test_a_head_that_was_started_anew_is_told_at_once(server: JobServer) -> None:
    server.client = Client([1], away=3, forgotten=True)
    with pytest.raises(
        TesseraError, match=r"does not know job any more: .* the same command again"
    ):
        server.follow("job", lambda text: None)
