"""What the READMEs tell to type: every command is understood, those of the runbook work."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from jobs import compact, count, predict, verify
from jobs.__main__ import JOBS as LISTED
from jobs.submit import JOBS, divide
from pipeline.config import DemoSettings, JobSettings, SubmitSettings
from pipeline.parsing import load
from tests.conftest import ROOT

READMES = ("README.md", "infra/README.md", "benchmarks/README.md")
WORK = {"predict": predict.work, "verify": verify.work, "compact": compact.work,
        "count": count.work}  # fmt: skip
KINDS: dict[str, type[JobSettings]] = JOBS | {"demo": DemoSettings}


def commands(readme: str) -> list[list[str]]:
    """Words of each `python -m jobs.…` in a block of shell, after its job's name."""
    text = (ROOT / readme).read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        for i, word in enumerate(words):
            if word.startswith("jobs.") and words[i - 1] == "-m":
                found.append([word.removeprefix("jobs."), *words[i + 1 :]])
    return found


ALL = [(readme, words) for readme in READMES for words in commands(readme)]


@pytest.mark.parametrize(("readme", "words"), ALL, ids=lambda x: x if isinstance(x, str) else x[0])
def test_every_command_is_understood(readme: str, words: list[str]) -> None:
    job, *flags = words
    # The README leaves out what was said before: `python -m jobs.predict … --partition …`.
    known = {"input": "i", "model": "m", "output": "o", "address": "a"} if "…" in flags else {}
    flags = [flag for flag in flags if flag != "…"]
    if job == "submit":
        job, *flags = flags
        ours, flags = divide(flags)
        load(SubmitSettings, ours, {})
    load(KINDS[job], flags, {k: v for k, v in known.items() if k in KINDS[job].model_fields})


def test_every_job_can_be_submitted() -> None:
    assert {*JOBS, "demo", "submit"} == set(LISTED)


def test_there_are_commands_to_check() -> None:
    assert len(ALL) > 25
    assert {words[0] for _, words in ALL} >= {"train", "predict", "verify", "compact", "submit"}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_the_runbook_in_its_order(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the first sizing to the new model and the compacted tables; with local paths for URIs,
    and without the submissions, which the tests of a cluster make."""
    from pipeline.synthetic import write_annotated

    write_annotated(str(tmp_path / "data"), [(64, 64)] * 12, ["test"] * 12, seed=9)
    (tmp_path / "images").mkdir()
    for i, path in enumerate(sorted((tmp_path / "data/images").iterdir())):
        shutil.copy(path, tmp_path / f"images/{i:02d}{path.suffix}")
    (tmp_path / "images/00.png").write_bytes(b"nothing like a PNG")
    for name in ("mine", "next"):
        shutil.copytree(trained, tmp_path / f"models/{name}")
    newer = tmp_path / "models/next/bundle.json"
    newer.write_text(re.sub(r'"min_area": \d+', '"min_area": 9', newer.read_text()))
    told = {}
    for job, *flags in commands("infra/README.md"):
        if job == "submit":
            job, *flags = flags
            _, flags = divide(flags)
        here = [flag.replace("s3://bucket", str(tmp_path)) for flag in flags]
        more = ["--max-reject-share", "1"] if job == "predict" else []
        assert WORK[job](load(KINDS[job], [*here, *more], {})) == 0, flags  # type: ignore[operator]
        told[shlex.join([job, *flags])] = capsys.readouterr().out
    dry = next(out for command, out in told.items() if "--dry-run" in command)
    assert "1 done before, 11 to do" in dry or "2 done before, 10 to do" in dry
    assert "at the rate of the last run" in dry
    assert any("rejected: unknown_format 1" in out for c, out in told.items() if "retry" in c)
    assert "nothing is wrong" in next(out for command, out in told.items() if "verify" in command)
