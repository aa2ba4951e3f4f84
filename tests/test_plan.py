"""Listing and planning: every image once, in shards that depend on nothing but what they hold."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DataError
from pipeline.images.collection import MISSING, list_collection
from pipeline.plan import make_shard, plan_shards, remaining_shards
from pipeline.records import SourceImage


def images(n: int, size: int = 10) -> list[SourceImage]:
    return [SourceImage(f"id{i}", f"/i/{i}.png", "v", size) for i in range(n)]


def plan(found: list[SourceImage], **limits: int) -> list[list[str]]:
    limits = {"images_per_shard": 3, "bytes_per_shard": 1000} | limits
    shards = plan_shards(found, set(), results="r", **limits)
    return [[image.image_id for image in shard.images] for shard in shards]


def test_shards_hold_every_image_once_within_both_limits() -> None:
    assert [len(s) for s in plan(images(8))] == [3, 3, 2]
    assert [len(s) for s in plan(images(8), bytes_per_shard=25)] == [2, 2, 2, 2]
    assert [len(s) for s in plan(images(2), bytes_per_shard=5)] == [1, 1]
    assert [name for s in plan(images(8)) for name in s] == [f"id{i}" for i in range(8)]
    assert plan([]) == []


def test_a_shards_id_is_of_its_content() -> None:
    same, other = make_shard(images(3), "r"), make_shard(images(3), "r")
    assert same.id == other.id
    assert len({same.id, make_shard(images(2), "r").id, make_shard(images(3), "s").id}) == 3


def test_what_another_run_did_is_not_done_again() -> None:
    first, second, third = (make_shard(images(9)[i : i + 3], "r") for i in (0, 3, 6))
    done = {*first.images, second.images[0], *third.images}
    left, given_up = remaining_shards([first, second, third], {first.id}, done, "r")
    assert [[i.image_id for i in shard.images] for shard in left] == [["id4", "id5"]]
    assert given_up == [second.id, third.id]
    assert left[0].id not in (first.id, second.id, third.id)


def test_a_prefix_lists_images_and_counts_the_rest(tmp_path: Path) -> None:
    for name in ("b.png", "a.TIF", "sub/c.jpeg", "notes.txt", ".hidden.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    found = list_collection(str(tmp_path))
    names = [image.uri.removeprefix(f"{tmp_path}/") for image in found.images]
    assert names == ["a.TIF", "b.png", "link.png", "sub/c.jpeg"]
    assert found.ignored == 1
    assert len({image.image_id for image in found.images}) == 4
    assert [image.size for image in found.images] == [1] * 4


def test_a_changed_file_is_another_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"x")
    before = list_collection(str(tmp_path)).images[0]
    path.write_bytes(b"xy")
    after = list_collection(str(tmp_path)).images[0]
    assert before.uri == after.uri
    assert before.image_id != after.image_id


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_manifest_is_a_collection(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    table = pa.table({"uri": ["a.png", str(tmp_path / "a.png"), "gone.png"], "more": [1, 2, 3]})
    path = tmp_path / f"list.{kind}"
    if kind == "csv":
        path.write_text("uri,more\n" + "".join(f"{r['uri']},1\n" for r in table.to_pylist()))
    else:
        pq.write_table(table, path)
    found = list_collection(str(path))
    assert [i.uri for i in found.images] == [str(tmp_path / "a.png"), str(tmp_path / "gone.png")]
    assert found.images[1].version == MISSING
    assert found.repeated == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("path\na.png\n", "has no column named uri, but path"),
        ("uri,b\na.png,1\n,2\n", "row 2 has no uri"),
        ("", "is not a readable manifest"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=line):
        list_collection(str(path))
    with pytest.raises(DataError, match="does not exist"):
        list_collection(str(tmp_path / "nowhere"))
