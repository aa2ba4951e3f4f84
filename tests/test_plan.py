"""Planning: every listed image once or done, in shards that depend only on what they hold."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.errors import SettingsError, StorageError
from pipeline.images.collection import image_identity, listing_schema
from pipeline.images.lookup import UNKNOWN
from pipeline.plan import Plan, plan_work, remaining, shard_id
from pipeline.plan.grouping import shard_ends
from pipeline.tables.schema import PLAN

Row = dict[str, Any]
LIVE = pa.schema([(name, pa.string()) for name in ("uri", "version", "image_id", "shard")])


def image(uri: str, version: str = "v", size: int = 10, **partitions: str | None) -> Row:
    return {
        "image_id": image_identity(uri, version),
        "uri": uri,
        "version": version,
        "size": size,
        **partitions,
    }


def images(n: int, version: str = "v") -> list[Row]:
    return [image(f"s3://b/{i:04d}.png", version) for i in range(n)]


def batches(rows: list[Row], schema: pa.Schema, length: int = 7) -> Iterator[pa.RecordBatch]:
    """In small batches, so that every law is also about their borders."""
    for start in range(0, len(rows), length):
        yield pa.RecordBatch.from_pylist(rows[start : start + length], schema)


def live_in(shard: str, rows: Iterable[Row]) -> list[Row]:
    return [{**row, "shard": shard} for row in rows]


def made(
    listed: list[Row],
    live: list[Row] | None = None,
    *,
    columns: tuple[str, ...] = (),
    retry: list[str] | None = None,
    **settings: Any,
) -> tuple[Plan, list[Row]]:
    settings = {"images_per_shard": 3, "bytes_per_shard": 1000, "results": "r"} | settings
    retried = None if retry is None else [pa.record_batch({"uri": pa.array(retry, pa.string())})]
    with plan_work(
        batches(listed, listing_schema(columns)),
        batches(live or [], LIVE),
        partition_columns=columns,
        retry=retried,
        **settings,
    ) as plan:
        return plan, rows_of(plan)


def left(plan: list[Row], committed: set[str]) -> tuple[Plan, list[Row]]:
    with remaining(batches(plan, PLAN), committed) as after:
        return after, rows_of(after)


def rows_of(plan: Plan) -> list[Row]:
    """All rows, checked against the plan's own numbers."""
    rows: list[Row] = []
    for batch in plan.batches():
        assert batch.schema == PLAN
        rows += batch.to_pylist()
    assert [row for batch in plan.batches() for row in batch.to_pylist()] == rows
    assert plan.images == len(rows)
    assert plan.bytes == sum(max(row["size"], 0) for row in rows)
    assert plan.shards == len(shards_of(rows))
    assert plan.listed == plan.images + plan.done
    return rows


def shards_of(rows: list[Row]) -> list[list[str]]:
    """URIs a shard; a shard's rows follow one another."""
    found: dict[str, list[str]] = {}
    last = None
    for row in rows:
        assert row["shard"] == last or row["shard"] not in found
        last = row["shard"]
        found.setdefault(last, []).append(row["uri"])
    return list(found.values())


def names(rows: list[Row]) -> list[str]:
    return [row["uri"] for row in rows]


def test_shards_hold_every_image_once_within_both_limits() -> None:
    _, rows = made(images(8))
    assert [len(s) for s in shards_of(rows)] == [3, 3, 2]
    assert names(rows) == names(images(8))
    assert [len(s) for s in shards_of(made(images(8), bytes_per_shard=25)[1])] == [2, 2, 2, 2]
    assert [len(s) for s in shards_of(made(images(2), bytes_per_shard=5)[1])] == [1, 1]
    assert [len(s) for s in shards_of(made(images(20), images_per_shard=20)[1])] == [20]
    assert made([])[1] == []


def test_unknown_sizes_count_as_none() -> None:
    listed = [image(f"s3://b/{i}.png", size=size) for i, size in enumerate([-1, -1, 9, -1, 9])]
    plan, rows = made(listed, bytes_per_shard=10, images_per_shard=9)
    assert [len(s) for s in shards_of(rows)] == [4, 1]
    assert plan.bytes == 18


def test_grouping_equals_one_by_one() -> None:
    """The borders found by arithmetic are those that a walk over the images finds."""
    import numpy as np

    draw = random.Random(0)
    for _ in range(200):
        n = draw.randint(1, 40)
        sizes = [draw.choice([-1, 0, 1, 5, 30]) for _ in range(n)]
        partitions = sorted(draw.randint(0, 3) for _ in range(n))
        most, weight = draw.randint(1, 6), draw.randint(1, 20)
        expected, count, total = [], 0, 0
        for i in range(n):
            size = max(sizes[i], 0)
            new = i and partitions[i] != partitions[i - 1]
            if count and (new or count == most or total + size > weight):
                expected.append(i)
                count = total = 0
            count, total = count + 1, total + size
        found = shard_ends(np.array(partitions), np.array(sizes), most, weight)
        assert found == [*expected, n]


def test_partitions_are_never_crossed() -> None:
    draw = random.Random(1)
    listed = [
        image(f"s3://b/{i:03d}.png", date=draw.choice(["2026-10-01", "x/y", None]), site=site)
        for i, site in enumerate(draw.choices(["a", "b"], k=50))
    ]
    draw.shuffle(listed)
    _, rows = made(listed, columns=("date", "site"), images_per_shard=4)
    assert sorted(names(rows)) == sorted(names(listed))
    of_shard: dict[str, set[str]] = {}
    for row in rows:
        of_shard.setdefault(row["shard"], set()).add(row["partition"])
    assert all(len(folders) == 1 for folders in of_shard.values())
    assert [(r["partition"], r["uri"]) for r in rows] == sorted(
        (r["partition"], r["uri"]) for r in rows
    )
    assert {r["partition"] for r in rows} == {
        f"date={date}/site={site}"
        for date in ("2026-10-01", "x%2Fy", "__HIVE_DEFAULT_PARTITION__")
        for site in "ab"
    }
    by_uri = {row["uri"]: row for row in listed}
    assert all(by_uri[r["uri"]]["site"] == r["partition"][-1] for r in rows)


def test_the_order_of_the_listing_changes_nothing() -> None:
    listed = images(30)
    _, first = made(listed)
    random.Random(2).shuffle(listed)
    assert made(listed)[1] == first


def test_a_shards_id_is_of_its_content() -> None:
    ids = [{row["shard"] for row in made(images(3), results=results)[1]} for results in "rrs"]
    assert ids[0] == ids[1] != ids[2]
    members = [row["image_id"] for row in images(3)]
    assert ids[0] == {shard_id("r", members, [])}
    different = {shard_id("r", members, old) for old in ([], ["a"], ["a", "b"])}
    assert len(different) == 3
    assert shard_id("r", members, ["b", "a", "b"]) == shard_id("r", members, ["a", "b"])
    assert ids[0] != {row["shard"] for row in made(images(3, "other"))[1]}
    placed = [
        made([image("s3://b/a.png", site=site)], columns=("site",))[1][0]["shard"] for site in "aab"
    ]
    assert placed[0] == placed[1] != placed[2]


def test_what_is_done_is_not_planned() -> None:
    plan, rows = made(images(10), live_in("s", images(10)[2:5]))
    assert (plan.listed, plan.done, plan.changed) == (10, 3, 0)
    assert names(rows) == names(images(10)[:2] + images(10)[5:])
    assert {row["old_shard"] for row in rows} == {None}
    assert made(images(10), live_in("s", images(12)))[1] == []


def test_a_changed_image_says_what_it_replaces() -> None:
    plan, rows = made(images(4, "new"), live_in("s", images(2, "old")))
    assert (plan.done, plan.changed) == (0, 2)
    assert [(r["old_shard"], r["old_image"]) for r in rows] == [
        ("s", image_identity("s3://b/0000.png", "old")),
        ("s", image_identity("s3://b/0001.png", "old")),
        (None, None),
        (None, None),
    ]
    assert rows[0]["image_id"] == image_identity("s3://b/0000.png", "new")
    assert rows[0]["shard"] != made(images(4, "new"))[1][0]["shard"]


def test_an_image_that_can_not_be_looked_up_keeps_its_rows() -> None:
    live = live_in("s", images(2, "old"))
    uris = [row["uri"] for row in images(4)]
    plan, rows = made(images(4, UNKNOWN), live)
    assert (plan.done, names(rows)) == (2, uris[2:])
    assert names(made(images(4, UNKNOWN), live, retry=uris[:1])[1]) == [uris[0], *uris[2:]]
    assert names(made(images(4, UNKNOWN), live_in("s", images(4, UNKNOWN)))[1]) == []
    assert len(made(images(4, UNKNOWN), live, replace=True)[1]) == 4


def test_an_image_of_another_partition_moves_there() -> None:
    listed = [image(f"s3://b/{i}.png", site="a" if i < 2 else "b") for i in range(4)]
    live = [*live_in("s", listed[:3]), *live_in("t", listed[3:])]
    places = {"s": "site=a", "t": "site=b", "u": "site=b"}
    plan, rows = made(listed, live, columns=("site",), places=places)
    assert [(r["uri"], r["partition"], r["old_shard"]) for r in rows] == [
        ("s3://b/2.png", "site=b", "s")
    ]
    assert rows[0]["old_image"] == rows[0]["image_id"]
    assert (plan.done, plan.changed) == (3, 0)


def test_replace_does_all_again() -> None:
    plan, rows = made(images(4), live_in("s", images(3)), replace=True)
    assert names(rows) == names(images(4))
    assert [r["old_shard"] for r in rows] == ["s", "s", "s", None]
    assert [r["old_image"] for r in rows[:3]] == [r["image_id"] for r in rows[:3]]
    assert plan.changed == 0


def test_retry_does_these_again_where_they_are_listed() -> None:
    retry = ["s3://b/0001.png", "s3://b/0001.png", "s3://elsewhere.png"]
    plan, rows = made(images(3), live_in("s", images(3)), retry=retry)
    assert [(r["uri"], r["old_shard"]) for r in rows] == [("s3://b/0001.png", "s")]
    assert (plan.listed, plan.done) == (3, 2)


def test_a_repeated_image_counts_once_as_its_last_row_says() -> None:
    listed = [*images(9, "a"), *images(9, "b")[:4], *images(9, "c")[3:4]]
    plan, rows = made(listed)
    assert (plan.listed, plan.repeated) == (9, 5)
    assert [r["version"] for r in rows] == ["b"] * 3 + ["c"] + ["a"] * 5


def test_where_chooses_images() -> None:
    listed = [image(f"s3://b/{i}.png", size=i, site="ab"[i % 2]) for i in range(6)]
    for where, chosen in [
        ("site = 'a'", [0, 2, 4]),
        ("site = 'a' and size > 1", [2, 4]),
        ("uri like '%/3.png'", [3]),
        ("version = 'v' -- and so on", [0, 1, 2, 3, 4, 5]),
        ("SITE in ('b')", [1, 3, 5]),
        ("false", []),
        ("null", []),
    ]:
        plan, rows = made(listed, columns=("site",), where=where)
        assert sorted(names(rows)) == [f"s3://b/{i}.png" for i in chosen], where
        assert plan.listed == len(chosen)


@pytest.mark.parametrize(
    "where",
    [
        "",
        "site =",
        "nowhere = 'a'",
        "uri",
        "size / 'x' > 1",
        "sum(size) > 1",
        "true, false",
        "true; drop table listed",
        "true) or (true",
        "true order by 1",
        "true union select 1",
        "error('x')",
        "(select count(*) from read_text('{secret}')) > 0",
        "exists (from read_csv('{secret}'))",
        "exists (from glob('/*'))",
        "exists (from '{secret}')",
        "exists (from listed)",
        "uri::date > '2026-01-01'",
    ],
)
def test_a_wrong_condition_is_one_line(where: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    where = where.replace("{secret}", str(secret))
    listed = [image(f"s3://b/{i}.png", site="a") for i in range(3)]
    with pytest.raises(SettingsError) as caught:
        made(listed, columns=("site",), where=where)
    text = str(caught.value)
    assert text.startswith(f"where {where!r}: ")
    assert text.endswith("the columns are uri, version, size, site")
    assert "\n" not in text


def test_a_condition_can_neither_write_nor_change_settings(tmp_path: Path) -> None:
    for statement in (f"copy listed to '{tmp_path}/x'", "set enable_external_access = true"):
        with pytest.raises(SettingsError):
            made(images(1), where=statement)
        with pytest.raises(SettingsError):
            made(images(1), where=f"true; {statement}")
    assert list(tmp_path.iterdir()) == []


def test_what_the_listing_raises_comes_out_as_it_is() -> None:
    def broken() -> Iterator[pa.RecordBatch]:
        yield from batches(live_in("s", images(3)), pa.schema([*listing_schema(), LIVE.field(3)]))
        raise StorageError("cannot list s3://b: no")

    with (
        pytest.raises(StorageError, match="cannot list"),
        plan_work(broken(), [], images_per_shard=3, bytes_per_shard=9, results="r"),
    ):
        pass
    with (
        pytest.raises(StorageError, match="cannot list"),
        plan_work([], broken(), images_per_shard=3, bytes_per_shard=9, results="r", where="true"),
    ):
        pass


def test_nothing_is_left_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with plan_work(
        batches(images(9), listing_schema()), [], images_per_shard=3, bytes_per_shard=9, results="r"
    ) as plan:
        assert list(tmp_path.iterdir())
        first = plan.batches()
        next(first)
    assert list(tmp_path.iterdir()) == []


def test_more_than_fits_in_memory_spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.plan.database.MEMORY", "80MB")
    rows = 200_000
    uris = pa.array([f"s3://bucket/{i:0100d}.png" for i in range(rows)])
    table = pa.table(
        {
            "image_id": [f"{i:024x}" for i in range(rows)],
            "uri": uris,
            "version": uris,
            "size": pa.array([1] * rows, pa.int64()),
        }
    )
    with plan_work(
        table.to_batches(5000), [], images_per_shard=64, bytes_per_shard=1 << 20, results="r"
    ) as plan:
        assert plan.images == rows
        found = pa.Table.from_batches(plan.batches())["uri"]
    assert found.combine_chunks().equals(uris)


def test_an_interrupted_plan_goes_on_without_what_is_committed() -> None:
    _, planned = made(images(9), live_in("s", images(9, "old")[:4]))
    ids = list(dict.fromkeys(row["shard"] for row in planned))
    after, rows = left(planned, {ids[1]})
    assert rows == planned[:3] + planned[6:]
    assert (after.listed, after.done) == (9, 3)
    assert left(planned, set(ids))[1] == []
    assert left(planned, {"of another plan"})[1] == planned


def test_what_is_committed_and_what_is_left_are_the_plan() -> None:
    """Killed at any place."""
    draw = random.Random(3)
    _, planned = made(images(40), live_in("s", images(40, "old")[:15]))
    ids = list(dict.fromkeys(row["shard"] for row in planned))
    for _ in range(10):
        committed = {shard for shard in ids if draw.random() < 0.4}
        rows = left(planned, committed)[1]
        assert rows == [row for row in planned if row["shard"] not in committed]
