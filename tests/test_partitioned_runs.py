"""Partitions as users meet them: folders, columns that prune, a range at a time, counts."""

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import count, predict, verify
from jobs._main import run_job
from pipeline.config import CountSettings, PredictSettings, VerifySettings
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.schema import SCHEMAS
from tests.laws import settings, sql, write_image

pytestmark = pytest.mark.usefixtures("ray_cluster")

BY_DATE = (r"day=(\d{4}-\d{2}-\d{2})",)


def hive(output: Path, query: str) -> list[tuple[object, ...]]:
    for table in SCHEMAS:
        files = f"'{output}/{table}/**/*.parquet'"
        query = query.replace(f"${table}", f"read_parquet({files}, hive_partitioning = true)")
    return duckdb.sql(query).fetchall()


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three days, two images each, a bad one on the last; one image is of no day."""
    folder = tmp_path_factory.mktemp("dated")
    for n, day in enumerate(("2026-10-01", "2026-10-02", "2026-10-03")):
        for i in range(2):
            write_image(folder / f"{day}/{i}.png", 10 * n + i)
    (folder / "2026-10-03/bad.png").write_bytes(b"nothing like a PNG")
    write_image(folder / "undated.png", 99)
    return folder


@pytest.fixture(scope="module")
def output(dated: Path, trained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One range first, then everything."""
    output = tmp_path_factory.mktemp("dated-out") / "out"
    given = settings(dated, trained, output, partition=BY_DATE, where="day >= '2026-10-02'")
    assert predict.work(given) == 0
    found = hive(output, "select day::text, count(*) from $images group by 1 order by 1")
    assert found == [("2026-10-02", 2), ("2026-10-03", 2)]
    assert predict.work(settings(dated, trained, output, partition=BY_DATE)) == 0
    return output


def test_every_table_has_a_folder_for_each_value(output: Path) -> None:
    days = ["2026-10-01", "2026-10-02", "2026-10-03", "__HIVE_DEFAULT_PARTITION__"]
    for table in SCHEMAS:
        assert sorted(p.name for p in (output / table).iterdir()) == [f"day={d}" for d in days]
    assert verify.work(VerifySettings(dataset=str(output))) == 0


def test_a_range_alone_is_computed_and_the_rest_later(output: Path) -> None:
    rows = hive(output, "select day, uri, run from $images order by uri")
    assert len(rows) == 7
    assert len({run for day, _, run in rows if str(day) >= "2026-10-02" and day}) == 1
    assert len({run for _, _, run in rows}) == 2
    for day, uri, _ in rows:
        assert str(day) == Path(str(uri)).parent.name or (day is None and "undated" in str(uri))
    assert hive(output, "select day::text, code from $rejects") == [
        ("2026-10-03", "unknown_format")
    ]


@pytest.mark.slow
def test_an_image_whose_value_was_wrong_moves(trained: str, tmp_path: Path) -> None:
    for n in range(3):
        write_image(tmp_path / f"{n}.png", n)
    manifest = tmp_path / "list.csv"
    given = settings(manifest, trained, tmp_path / "out", partition=("site",))
    for sites in ("aab", "abb", "abb"):
        lines = [f"{n}.png,{site}" for n, site in enumerate(sites)]
        manifest.write_text("\n".join(["uri,site", *lines]))
        assert predict.work(given) == 0
        found = hive(tmp_path / "out", "select uri, site from $images order by uri")
        assert found == [(f"{tmp_path}/{n}.png", site) for n, site in enumerate(sites)]
        assert verify.work(VerifySettings(dataset=str(tmp_path / "out"))) == 0
    assert len(list((tmp_path / "out/_runs").iterdir())) == 3  # two commands and a sweep


def test_duckdb_opens_only_the_files_of_the_partition(output: Path) -> None:
    files = f"read_parquet('{output}/counts/**/*.parquet', hive_partitioning = true)"
    plan = duckdb.sql(
        f"explain analyze select sum(pixels) from {files} where day = '2026-10-02'"
    ).fetchall()
    scanned = [line for line in str(plan[0][1]).splitlines() if "iles" in line]
    every = len(list((output / "counts").rglob("*.parquet")))
    here = len(list((output / "counts/day=2026-10-02").glob("*.parquet")))
    assert here < every
    assert any(f"{here}/{every}" in line for line in scanned), scanned


def test_the_reader_has_the_column_too(output: Path) -> None:
    dataset = OutputDataset.open(str(output))
    rows = dataset.read("images", ["uri", "day"], pa.compute.field("day") == "2026-10-01")
    assert [Path(uri).name for uri in sorted(rows["uri"].to_pylist())] == ["0.png", "1.png"]
    assert set(rows["day"].to_pylist()) == {"2026-10-01"}


def test_counts_by_partition_agree_with_sql(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert count.work(CountSettings(dataset=str(output), by="partition", json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    expected = hive(
        output,
        "select day::text, class_name, sum(n_objects), sum(pixels) from $counts "
        "group by 1, 2 order by 1, 2",
    )
    assert [(r["day"], r["class_name"], r["n_objects"], r["pixels"]) for r in rows] == expected
    assert len(rows) == 4 * 3
    assert sum(r["n_objects"] or 0 for r in rows) > 0


def test_images_without_a_value_are_told(
    dated: Path, trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(dated, trained, tmp_path / "out", partition=BY_DATE, dry_run=True)
    assert predict.work(given) == 0
    assert "1 image has no value for a partition" in capsys.readouterr().out


def test_other_partitions_are_refused(
    output: Path, dated: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", str(dated), "--model", trained, "--output", str(output)]
    for partition, told in (([], "none"), (["--partition", r"year=(\d{4})"], "year")):
        for replace in ([], ["--replace"]):
            assert run_job(PredictSettings, predict.work, [*flags, *partition, *replace]) == 1
            line = capsys.readouterr().err
            assert f"has partitions day, not {told}: give another --output" in line


def test_a_where_that_is_no_condition_is_one_line(
    output: Path, dated: Path, trained: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--input", str(dated), "--model", trained, "--output", str(output)]
    flags += ["--partition", *BY_DATE, "--where", "dya > '2026'"]
    assert run_job(PredictSettings, predict.work, flags) == 2
    assert "the columns are uri, version, size, day" in capsys.readouterr().err


@pytest.mark.slow
def test_partitions_from_columns_of_a_manifest(trained: str, tmp_path: Path) -> None:
    """A value may be anything; as a folder it is quoted, as a column it is what it was."""
    values = ["a/b", "ü = 1", None, "plain"]
    for n in range(4):
        write_image(tmp_path / f"{n}.png", n)
    table = pa.table({"uri": [f"{n}.png" for n in range(4)], "plate": values, "well": [1, 2, 3, 1]})
    pq.write_table(table, tmp_path / "list.parquet")
    output = tmp_path / "out"
    given = settings(tmp_path / "list.parquet", trained, output, partition=("plate", "well"))
    assert predict.work(given) == 0
    rows = hive(output, "select plate, well::text, uri from $images order by uri")
    assert [row[:2] for row in rows] == [
        (plate, str(well)) for plate, well in zip(values, [1, 2, 3, 1], strict=True)
    ]
    dataset = OutputDataset.open(str(output))
    read = dataset.read("images", ["uri", "plate", "well"]).sort_by("uri").to_pylist()
    assert [(row["plate"], row["well"]) for row in read] == [row[:2] for row in rows]
    assert len(list((output / "images").glob("plate=*/well=*/*.parquet"))) == 4
    assert sql(output, "select count(*) from $images") == [(4,)]
    assert verify.work(VerifySettings(dataset=str(output))) == 0
