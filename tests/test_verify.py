"""The fsck of a dataset: it names each kind of damage, and what it mends is as if never broken."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs import count, predict, verify
from jobs._main import run_job
from pipeline import storage
from pipeline.config import CountSettings, VerifySettings
from pipeline.errors import (
    ChangedError,
    CredentialsError,
    ForbiddenError,
    StorageError,
    UnavailableError,
)
from pipeline.records import Shard
from pipeline.tables.check import check_shard
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import hold_lease
from pipeline.tables.replacing import record_of_shards, write_record
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.shard import discard_shards
from tests.laws import assert_same_rows, settings, table_files, write_sites

pytestmark = pytest.mark.usefixtures("ray_cluster")

Damage = Callable[[Path, str], None]
"""Hurts the dataset at a path, in the shard of that name, which is of site a."""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verified")
    write_sites(folder, a=10, b=2, bad=1)
    return folder


@pytest.fixture(scope="module")
def good(images: Path, trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("verified-out") / "out"
    assert predict.work(settings(images, trained, output)) == 0
    return output


@pytest.fixture
def output(good: Path, tmp_path: Path) -> Path:
    return shutil.copytree(good, tmp_path / "out")


def file_of(output: Path, table: str, shard: str) -> Path:
    return output / table / "site=a" / f"{shard}.parquet"


def change(file: Path, work: Callable[[pa.Table], pa.Table]) -> None:
    table = work(pq.ParquetFile(file).read())
    pq.write_table(table, file)


def set_value(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    return table.set_column(place, column, pa.array(values, table.schema.field(column).type))


def remove_objects(output: Path, shard: str) -> None:
    file_of(output, "objects", shard).unlink()


def truncate_masks(output: Path, shard: str) -> None:
    file = file_of(output, "masks", shard)
    file.write_bytes(file.read_bytes()[:-20])


def flip_a_byte(output: Path, shard: str) -> None:
    """Deep in the data: the footer still reads well, and a reader would take it as it is."""
    file = file_of(output, "masks", shard)
    group = pq.ParquetFile(file).metadata.row_group(0)
    (column,) = (
        group.column(i)
        for i in range(group.num_columns)
        if group.column(i).path_in_schema == "semantic"
    )
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size * 3 // 4] ^= 0x01
    file.write_bytes(data)


def flip_a_count(output: Path, shard: str) -> None:
    def flip(table: pa.Table) -> pa.Table:
        (row, *_) = [i for i, n in enumerate(table["n_objects"].to_pylist()) if n is not None]
        return set_value(table, "n_objects", row, table["n_objects"][row].as_py() + 1)

    change(file_of(output, "counts", shard), flip)


def flip_a_pixel_sum(output: Path, shard: str) -> None:
    change(
        file_of(output, "counts", shard),
        lambda table: set_value(table, "pixels", 0, table["pixels"][0].as_py() + 1),
    )


def remove_an_object(output: Path, shard: str) -> None:
    change(file_of(output, "objects", shard), lambda table: table.slice(1))


def remove_an_image(output: Path, shard: str) -> None:
    """From every table, as if it had never been there: only the plan knows."""
    image = pq.ParquetFile(file_of(output, "images", shard)).read()["image_id"][0]
    for table in ("images", "objects", "counts", "masks"):
        change(
            file_of(output, table, shard),
            lambda rows: rows.filter(pc.not_equal(rows["image_id"], image)),
        )


def change_a_label(output: Path, shard: str) -> None:
    def relabel(table: pa.Table) -> pa.Table:
        png = np.frombuffer(table["instances"][0].as_py(), np.uint8)
        labels = cv2.imdecode(png, cv2.IMREAD_UNCHANGED)
        place = np.argwhere(labels)[0]
        labels[tuple(place)] = 0
        return set_value(table, "instances", 0, cv2.imencode(".png", labels)[1].tobytes())

    change(file_of(output, "masks", shard), relabel)


def copy_under_another_name(output: Path, shard: str) -> None:
    for table in SCHEMAS:
        shutil.copy(file_of(output, table, shard), file_of(output, table, "alien"))


def copy_with_its_own_name(output: Path, shard: str) -> None:
    """As a tool would that knows the layout: in itself the copy is right."""
    for table in SCHEMAS:
        shutil.copy(file_of(output, table, shard), file_of(output, table, "copy"))
        change(
            file_of(output, table, "copy"),
            lambda rows: rows.set_column(
                rows.column_names.index("shard"),
                "shard",
                pa.array(["copy"] * len(rows), pa.string()),
            ),
        )


def copy_its_images_file(output: Path, shard: str) -> None:
    """As a file manager does: now there seems to be a shard that has nothing else."""
    shutil.copy(file_of(output, "images", shard), file_of(output, "images", f"{shard} (1)"))


def copy_into_another_partition(output: Path, shard: str) -> None:
    for table in SCHEMAS:
        shutil.copy(file_of(output, table, shard), output / table / "site=b")


def leave_an_orphan(output: Path, shard: str) -> None:
    shutil.copy(file_of(output, "masks", shard), file_of(output, "masks", "0" * 16))


def leave_a_temporary_file(output: Path, shard: str) -> None:
    file_of(output, "masks", shard).with_name(".x.parquet.tessera-0123abcd").write_bytes(b"half")


def leave_temporary_files_elsewhere(output: Path, shard: str) -> None:
    (output / "_replaced").mkdir(exist_ok=True)
    (output / "_replaced/.x.parquet.tessera-0123abcd").write_bytes(b"half")
    (next((output / "_runs").iterdir()) / ".run.json.tessera-0123abcd").write_bytes(b"half")
    (output / ".dataset.json.tessera-0123abcd").write_bytes(b"half")


def remove_images(output: Path, shard: str) -> None:
    file_of(output, "images", shard).unlink()


def remove_a_shard(output: Path, shard: str) -> None:
    for table in SCHEMAS:
        file_of(output, table, shard).unlink()


def leave_a_record(output: Path, shard: str) -> None:
    """Of something that is gone: it costs every later run a look."""
    write_record(str(output), shard, record_of_shards(["0123456789abcdef"]))


def leave_a_record_of_nobody(output: Path, shard: str) -> None:
    write_record(str(output), "0123456789abcdef", record_of_shards([shard]))


GROUPS: dict[str, list[tuple[Damage, str, str]]] = {
    "files": [
        (remove_objects, "unreadable", "objects/site=a/SHARD.parquet"),
        (truncate_masks, "unreadable", "masks/site=a/SHARD.parquet"),
        (flip_a_byte, "unreadable", "masks/site=a/SHARD.parquet"),
        (remove_images, "orphan", "objects/site=a/SHARD.parquet"),
        (remove_a_shard, "missing", "was planned and done, and is in no table"),
    ],
    "rows": [
        (flip_a_count, "disagree", "counts has"),
        (flip_a_pixel_sum, "disagree", "pixels of"),
        (remove_an_object, "disagree", "n_objects is"),
        (remove_an_image, "disagree", "was planned and has neither a row nor a reject"),
        (change_a_label, "disagree", "1 object differs from the masks"),
    ],
    "copies": [
        (copy_under_another_name, "unreadable", "images/site=a/alien.parquet holds rows of"),
        (copy_with_its_own_name, "twice", "counts 2 times"),
        (copy_its_images_file, "unreadable", "images/site=a/SHARD (1).parquet holds rows of"),
        (copy_into_another_partition, "orphan", "images/site=a/SHARD.parquet"),
        (copy_into_another_partition, "disagree", "SHARD lies in site=b, and was planned for"),
    ],
    "litter": [
        (leave_an_orphan, "orphan", "masks/site=a/0000000000000000.parquet"),
        (leave_a_temporary_file, "orphan", "masks/site=a/.x.parquet.tessera-0123abcd"),
        (leave_temporary_files_elsewhere, "orphan", "_replaced/.x.parquet.tessera-0123abcd"),
        (leave_a_record, "unswept", "_replaced/SHARD.parquet names no shard"),
        (leave_a_record_of_nobody, "orphan", "is of no committed shard"),
    ],
}
"""Damages that one dataset can have at once, each in a shard of its own; what names them."""


def check(output: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, list[dict]]:
    """Exit code and the lines of the log, each of which must parse."""
    capsys.readouterr()
    code = run_job(VerifySettings, verify.work, [str(output), "--log", "json", *flags])
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = [json.loads(line) for line in captured.out.splitlines()]
    return code, [line for line in lines if line["event"] != "progress"]


def test_a_good_dataset_is_clean(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = table_files(output)
    code, lines = check(output, capsys)
    assert code == 0
    assert [line["message"] for line in lines] == ["verified: nothing is wrong"]
    code, lines = check(output, capsys, "--repair")
    assert code == 0
    assert table_files(output) == before


@pytest.mark.parametrize("group", GROUPS)
def test_damage_is_found_and_mended(
    group: str,
    good: Path,
    output: Path,
    images: Path,
    trained: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    placed = OutputDataset.open(str(output)).snapshot().shards.items()
    shards = sorted(shard for shard, partition in placed if partition == "site=a")
    hurt = {damage: shards[n] for n, (damage, _, _) in enumerate(GROUPS[group])}
    for damage, shard in hurt.items():
        damage(output, shard)
    code, lines = check(output, capsys)
    assert code == 4
    found = [line for line in lines if line["level"] == "warning"]
    for damage, kind, named in GROUPS[group]:
        wanted = named.replace("SHARD", hurt[damage])
        mine = [line for line in found if line["event"] == kind and wanted in line["message"]]
        assert mine, (damage.__name__, [line["message"] for line in found])
    (verdict,) = [line for line in lines if line["event"] == "verdict"]
    kinds = {kind for _, kind, _ in GROUPS[group]}
    assert all(verdict[kind] >= 1 for kind in kinds)

    planned = group != "litter"
    assert check(output, capsys, "--repair")[0] == (4 if planned else 0)
    if group == "files":  # once more changes nothing
        before = table_files(output)
        assert check(output, capsys, "--repair")[0] == 4
        assert table_files(output) == before
    assert predict.work(settings(images, trained, output)) == 0
    assert planned != ("nothing to do" in capsys.readouterr().out)
    assert_same_rows(output, good)
    code, lines = check(output, capsys)
    assert code == 0, lines


def test_a_copy_that_a_plain_glob_would_read_is_told_and_left_alone(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = min((output / "counts/site=a").glob("*.parquet"))
    copy = file.with_name(f"{file.stem} (1).parquet")
    shutil.copy(file, copy)
    for flags in ([], ["--repair"]):
        code, lines = check(output, capsys, *flags)
        assert code == 4
        (found,) = [line for line in lines if line["event"] == "foreign"]
        assert str(copy) in found["message"]
        assert copy.exists()
    copy.unlink()
    assert check(output, capsys)[0] == 0


def test_more_findings_than_are_shown_are_counted(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for shard in list((output / "objects/site=a").glob("*.parquet")):
        shard.unlink()
    code, lines = check(output, capsys, "--limit", "1")
    assert code == 4
    assert [line["event"] for line in lines] == ["unreadable", "more", "verdict", "hint"]
    assert lines[2]["unreadable"] == 5


@pytest.mark.parametrize("error", [UnavailableError, CredentialsError, ForbiddenError])
def test_a_store_that_does_not_answer_is_no_damage(
    error: type[StorageError], good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(uri: str) -> bytes:
        raise error(f"cannot read {uri}")

    snapshot = OutputDataset.open(str(good)).snapshot()
    monkeypatch.setattr(storage, "read_bytes", refuse)
    with pytest.raises(error):
        check_shard(snapshot, Shard(min(snapshot.shards), ()))


def test_what_a_run_is_writing_is_no_damage(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_an_orphan(output, min((output / "masks/site=a").iterdir()).stem)
    with hold_lease(str(output), "jobs.predict", ttl=3, renew=0.2):
        code, lines = check(output, capsys)
        assert code == 0, lines
        assert "is being written: jobs.predict" in lines[0]["message"]
        assert run_job(VerifySettings, verify.work, [str(output), "--repair"]) == 1
    assert check(output, capsys)[0] == 4


def test_a_shard_that_was_replaced_meanwhile_is_no_damage(output: Path) -> None:
    dataset = OutputDataset.open(str(output))
    before = dataset.snapshot()
    shard = min(before.shards)
    discard_shards(dataset.uri, {shard: before.shards[shard]})
    assert check_shard(before, Shard(shard, ())) == []


def test_what_can_not_be_read_now_is_not_discarded(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = min((output / "masks/site=a").glob("*.parquet"))
    file.rename(output / "kept")
    file.mkdir()  # read, it is an error of the disk's, not a file that is missing or damaged
    before = table_files(output)
    assert run_job(VerifySettings, verify.work, [str(output), "--repair"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot read {file}" in line
    assert table_files(output) == before
    file.rmdir()
    (output / "kept").rename(file)
    assert check(output, capsys)[0] == 0


def test_what_is_no_dataset_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_job(VerifySettings, verify.work, [str(tmp_path)]) == 1
    assert "is not an output dataset" in capsys.readouterr().err


def test_who_reads_a_damaged_table_is_sent_to_the_fsck(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = min((output / "counts/site=a").iterdir())
    file.write_bytes(file.read_bytes()[:-30])
    assert run_job(CountSettings, count.work, [str(output)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "the table counts has a damaged file; jobs.verify tells which" in line
    file.unlink()
    with pytest.raises(ChangedError, match="or lacks files"):
        OutputDataset.open(str(output)).read("counts", ["uri"])


def test_a_damaged_plan_is_one_line_and_can_be_done_without(
    good: Path, output: Path, images: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = (output / "_runs").iterdir()
    plan = run / "plan/00000.parquet"
    plan.write_bytes(plan.read_bytes()[:-30])
    assert run_job(VerifySettings, verify.work, [str(output)]) == 1
    assert f"{plan} is damaged: remove {run}; what" in capsys.readouterr().err
    shutil.rmtree(run)
    assert check(output, capsys)[0] == 0
    assert predict.work(settings(images, trained, output)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert_same_rows(output, good)


def test_a_damaged_record_is_one_line_and_can_be_done_without(
    good: Path, output: Path, images: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = min(OutputDataset.open(str(output)).snapshot().shards)
    write_record(str(output), shard, record_of_shards(["0123456789abcdef"]))
    record = output / "_replaced" / f"{shard}.parquet"
    record.write_bytes(record.read_bytes()[:-30])
    assert run_job(VerifySettings, verify.work, [str(output)]) == 1
    assert "remove that shard's file of the images table" in capsys.readouterr().err
    next((output / "images").rglob(f"{shard}.parquet")).unlink()
    check(output, capsys, "--repair")
    assert predict.work(settings(images, trained, output)) == 0
    assert_same_rows(output, good)
    assert check(output, capsys)[0] == 0
