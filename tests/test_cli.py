"""The command line from outside: exit codes, one line of error, a list of jobs."""

import os
import signal
import time
from pathlib import Path

import pytest

from jobs import _console
from jobs.__main__ import JOBS
from jobs._console import print_table
from jobs._main import run_job
from pipeline.config import CountSettings
from tests.conftest import run_cli


def test_the_jobs_are_listed_with_a_line_each() -> None:
    result = run_cli("jobs")
    assert result.returncode == 0
    for job in JOBS:
        assert f"python -m jobs.{job}" in result.stdout
    assert run_cli("jobs", "--help").stdout == result.stdout


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("count", "a job is called as python -m jobs.count"),
        ("jobs.count", "a job is called as python -m jobs.count"),
        ("predct", "there is no job predct; a job is called as python -m jobs.predict"),
        ("segment", "there is no job segment; a job is called as python -m jobs.JOB"),
    ],
)
def test_how_a_job_is_called_is_told(word: str, line: str) -> None:
    result = run_cli("jobs", word, "--by", "class")
    assert result.returncode == 2
    assert result.stderr == f"error: {line}\n"


@pytest.mark.parametrize("job", [job for job in JOBS if job != "submit"])
def test_help_and_wrong_usage(job: str) -> None:
    helped = run_cli(f"jobs.{job}", "--help")
    assert helped.returncode == 0
    assert f"usage: python -m jobs.{job}" in helped.stdout
    wrong = run_cli(f"jobs.{job}", "--nonsense", "1")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: ")
    assert wrong.stderr.count("\n") == 1


def test_away_from_a_terminal_a_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """However long its texts are: a program cuts lines, and a person scrolls."""
    uri = f"s3://bucket/{'long/' * 40}name with spaces.png"
    print_table(["uri", "n objects"], [[uri, 7], ["b", 12]], "title of the table")
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title.strip() == "title of the table"
    assert header.split() == ["uri", "n", "objects"]
    assert [row.rsplit(maxsplit=1) for row in rows] == [[uri, "7"], ["b", "12"]]


def test_progress_away_from_a_terminal_is_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_console, "_LINE_SECONDS", 0.0)
    with _console.live("predicting") as show:
        show(0.5, "images " * 30)
    assert capsys.readouterr().out.count("\n") == 1


def test_a_name_that_would_steer_the_terminal_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["uri", "n"], [["a\nb\x1b[31m é😀.png", 7], ["[red]c", 12]])
    _, *rows = capsys.readouterr().out.splitlines()
    assert [row.rsplit(maxsplit=1)[0].strip() for row in rows] == [
        r"a\nb\x1b[31m é😀.png",
        "[red]c",
    ]


def test_sigterm_is_one_line_and_exit_143(capsys: pytest.CaptureFixture[str]) -> None:
    released = list[bool]()

    def work(settings: CountSettings) -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        finally:
            released.append(True)
        return 0

    assert run_job(CountSettings, work, ["nowhere"]) == 143
    assert released
    assert capsys.readouterr().err == "error: stopped by SIGTERM\n"


def test_failure_is_one_line_and_exit_1(tmp_path: Path) -> None:
    for words in (
        ["jobs.count", str(tmp_path)],
        ["jobs.evaluate", "--predictions", str(tmp_path), "--data", str(tmp_path)],
        ["jobs.train", "--data", str(tmp_path), "--output", str(tmp_path / "m")],
        ["jobs.predict", "--input", str(tmp_path), "--model", "s4://x", "--output", "o"],
        [
            "jobs.predict",
            "--input",
            str(tmp_path),
            "--model",
            "ftp://127.0.0.1:1/x",
            "--output",
            "o",
        ],
    ):
        result = run_cli(*words)
        assert result.returncode == 1, result.stderr
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
