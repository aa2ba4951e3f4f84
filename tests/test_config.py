"""Settings: file then flags, and one clear line for each mistake."""

import shlex
from pathlib import Path

import pytest
import yaml

from jobs._command import command
from jobs._main import read_settings, run_job
from pipeline.config import (
    CountSettings,
    DemoSettings,
    EvaluateSettings,
    ExportSettings,
    InspectSettings,
    JobSettings,
    OverlaySettings,
    PredictSettings,
    TrainSettings,
)
from pipeline.errors import SettingsError, TesseraError
from pipeline.parsing import to_yaml

NEEDED = ["--data", "d", "--output", "o"]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = write(
        tmp_path / "s.yaml", "max-minutes: 3\nnetwork: {depth: 2, width: 8}\nbatch_size: 4\n"
    )
    settings = read_settings(
        TrainSettings, [*NEEDED, "--config", path, "--network.depth", "5", "--max-minutes=7"]
    )
    assert (settings.network.depth, settings.network.width) == (5, 8)
    assert (settings.max_minutes, settings.batch_size, settings.crop) == (7, 4, None)


def test_required_settings_may_stand_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "data: here\noutput: there\n")
    assert read_settings(TrainSettings, [f"--config={path}"]).data == "here"


def test_settings_as_run_can_be_run_again(tmp_path: Path) -> None:
    first = read_settings(TrainSettings, [*NEEDED, "--network.depth", "2", "--no-augment.flip"])
    path = write(tmp_path / "s.yaml", to_yaml(first))
    again = read_settings(TrainSettings, ["--config", path])
    assert again.model_copy(update={"config": None}) == first
    assert again.augment.flip is False


def test_what_a_training_learned_is_not_given_to_the_next(tmp_path: Path) -> None:
    first = read_settings(TrainSettings, [*NEEDED, "--method.overlap", "0.5", "--restart"])
    left_out = {"restart": True, "method": first.method.left_to_learn}
    path = write(tmp_path / "s.yaml", to_yaml(first, left_out))
    again = read_settings(TrainSettings, ["--config", path, "--resume"])
    assert again.method.left_to_learn == first.method.left_to_learn
    assert "overlap" not in again.method.left_to_learn
    assert "vote_blur" in again.method.left_to_learn


def test_a_command_line_says_what_was_given(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "workers: 1:4\nnetwork.depth: 2\nnetwork: {width: 8}\n")
    words = [*NEEDED, "--no-augment.flip", "--method.class-weights", "1", "--method.class-weights"]
    words += ["2.5", "--notes", "two words", "--resume", "--config", path]
    settings = read_settings(TrainSettings, words)
    assert (settings.workers, settings.network.depth, settings.network.width) == ("1:4", 2, 8)
    program, *said = shlex.split(command(settings).removeprefix("python -m "))
    assert program == "jobs.train"
    assert read_settings(TrainSettings, said) == settings.model_copy(update={"config": None})
    again = settings.model_copy(update={"resume": True, "restart": False})
    assert command(again) == command(settings), "what is off is not said to be"
    kept = read_settings(TrainSettings, [*NEEDED, "--method.vote-blur", "0.3"])
    assert command(kept).endswith("--method.vote-blur 0.3"), "else it would be learned"
    parts = ["--partition", "site", "--partition", r"date=(\d{4}),x"]
    predict = read_settings(
        PredictSettings, ["--input", "i", "--model", "m", "--output", "o", *parts]
    )
    assert read_settings(PredictSettings, shlex.split(command(predict))[3:]) == predict
    count = read_settings(CountSettings, ["out", "--json"])
    assert command(count) == "python -m jobs.count out --json"


def test_what_stands_without_a_flag_may_stand_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", "dataset: out\n")
    assert read_settings(CountSettings, ["--config", path]).dataset == "out"
    assert read_settings(CountSettings, ["other", "--config", path]).dataset == "other"
    with pytest.raises(SettingsError, match="dataset stands without a flag, and is missing"):
        read_settings(CountSettings, [])
    with pytest.raises(SettingsError, match="dataset stands without a flag: leave out --dataset"):
        read_settings(CountSettings, ["--dataset", "out"])


@pytest.mark.parametrize(
    ("flags", "text", "line"),
    [
        (["--batchsize", "3"], "", "unknown flag --batchsize; did you mean --batch-size?"),
        (["--epochs", "many"], "", "setting epochs: takes a whole number, not 'many'"),
        (["--max-minutes", "5min"], "", "setting max_minutes: takes a number, not '5min'"),
        (["--max-minutes", "inf"], "", "setting max_minutes: takes a finite number, not 'inf'"),
        (["--optimizer.learning-rate", "nan"], "", "learning_rate: takes a finite number"),
        (["--method.score-shift=-inf"], "", "setting method.score_shift: takes a finite number"),
        (["--method.class-weights", "0,0"], "", "class_weights: takes a weight above 0"),
        (["--method.class-weights=-1,1"], "", "class_weights.0: should be greater .* to 0, not -1"),
        (["--method.class-weights", "nan,1"], "", "class_weights: takes a finite number for each"),
        ([], "method: {class_weights: [1, .inf]}", "class_weights.1: takes a finite number"),
        (["--output", ""], "", "setting output: is empty"),
        (["stray"], "", "stray stands without a flag, and nothing is expected there"),
        (["--resume=yes"], "", "flag --resume takes no value, not 'yes'; --no-resume is its opp"),
        (["--epochs", "0"], "", "setting epochs: should be greater than or equal to 1"),
        (["--network.norm", "layer"], "", "setting network.norm: .*'batch'.*'group'"),
        (["--epochs"], "", "--epochs: expected one argument"),
        ([], "netwrok: {depth: 3}", "unknown setting netwrok; did you mean network"),
        ([], "network: {depht: 3}", "unknown setting network.depht; did you mean network.depth"),
        ([], "network: 3", "setting network: is a section of settings, not 3"),
        ([], "epochs: 3\nseed: 1\nepochs: 4", "yaml at line 3 gives epochs a second time"),
        ([], "max-minutes: 2\nmax_minutes: 4", "setting max_minutes: is given twice"),
        ([], "network.depth: 4\nnetwork: {depth: 3}", "setting network.depth: is given twice"),
        ([], "network: 3\nnetwork.depth: 2", "setting network: is a section of settings, not 3"),
        ([], "network:\nnetwork.depth: 2", "setting network: is a section with nothing in it"),
        ([], "labels:\nepochs: 2", "setting labels: is a section with nothing in it"),
        ([], "{network: {depth: 4}, crop: 100}", "crop takes a multiple of 16 at depth 4"),
        ([], "a: [1", "is not valid YAML"),
        ([], "- 1", "takes settings as 'key: value' lines"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, flags: list[str], text: str, line: str) -> None:
    path = write(tmp_path / "s.yaml", text)
    with pytest.raises(SettingsError, match=line) as error:
        read_settings(TrainSettings, [*NEEDED, "--config", path, *flags])
    assert "\n" not in str(error.value)


def test_a_level_is_chosen_in_one_way() -> None:
    given = ["--input", "i", "--model", "m", "--output", "o", "--mpp", "0.5"]
    assert read_settings(PredictSettings, given).mpp == 0.5
    with pytest.raises(SettingsError, match="level and mpp each choose a level"):
        read_settings(PredictSettings, [*given, "--level", "1"])


@pytest.mark.parametrize("kind", [OverlaySettings, InspectSettings])
def test_a_picture_is_a_png(kind: type[JobSettings]) -> None:
    line = r"setting picture: takes a name that ends in \.png, not 'o\.jpg'"
    with pytest.raises(SettingsError, match=line):
        read_settings(kind, ["where", "--picture", "o.jpg"])


def test_a_flag_of_another_job_leads_to_this_ones() -> None:
    for kind, flag, meant in (
        (ExportSettings, "--output", "--target"),
        (OverlaySettings, "--output", "--picture"),
        (EvaluateSettings, "--input", "--predictions"),
        (TrainSettings, "--input", "--data"),
    ):
        with pytest.raises(SettingsError, match=f"unknown flag {flag}; did you mean {meant}?"):
            read_settings(kind, [flag, "x"])


def test_a_job_may_need_no_flag_at_all() -> None:
    assert read_settings(DemoSettings, []).output == "demo"


def test_what_is_missing_is_named_with_its_flag() -> None:
    with pytest.raises(SettingsError, match="setting output is missing: give --output"):
        read_settings(TrainSettings, ["--data", "d"])
    with pytest.raises(
        SettingsError, match="settings data, output are missing: give --data, --output"
    ):
        read_settings(TrainSettings, [])
    with pytest.raises(SettingsError, match=r"settings file: cannot read nowhere\.yaml"):
        read_settings(TrainSettings, [*NEEDED, "--config", "nowhere.yaml"])


def test_a_settings_file_cannot_execute(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = write(tmp_path / "s.yaml", f"data: !!python/object/apply:os.mkdir ['{marker}']\n")
    with pytest.raises(SettingsError):
        read_settings(TrainSettings, [*NEEDED, "--config", path])
    assert not marker.exists()


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(settings: JobSettings) -> int:
        raise TesseraError("the reason")

    assert run_job(TrainSettings, lambda settings: 0, NEEDED) == 0
    assert run_job(TrainSettings, fail, NEEDED) == 1
    assert run_job(TrainSettings, fail, ["--nonsense"]) == 2
    assert capsys.readouterr().err.splitlines()[0] == "error: the reason"


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        read_settings(PredictSettings, ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0
    for flag in ("--input", "--dry-run", "--regions.size", "--reader.max-pixels", "--config"):
        assert flag in text
    assert "[--partition str]" in text
    assert "[--channel int,…]" in text
    assert (
        yaml.safe_load(to_yaml(PredictSettings(input="a", model="b", output="c")))["input"] == "a"
    )
