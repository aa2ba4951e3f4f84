"""Files of the tables: maps survive their tiles, and what killed writers left goes."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import DatasetError
from pipeline.records import Reject, SourceImage
from pipeline.synthetic import CLASSES
from pipeline.tables import masks
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tiles, encode_tiles
from pipeline.tables.orphans import remove_orphans
from pipeline.tables.rewrite import Rewrite, rewrite
from pipeline.tables.schema import SCHEMAS
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec
from tests.conftest import ROOT
from tests.test_true_counts import counted_image


@pytest.mark.parametrize(("tile", "shape"), [(2048, (50, 70)), (32, (100, 75)), (32, (32, 33))])
def test_maps_survive_their_tiles(
    monkeypatch: pytest.MonkeyPatch, tile: int, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(masks, "TILE", tile)
    rng = np.random.default_rng(0)
    instances = rng.integers(0, 90, shape).astype(np.int32)
    semantic = rng.integers(0, 5, shape).astype(np.uint8)
    n = 89
    rows = list(encode_tiles(semantic, instances, n))
    assert sum((r["y1"] - r["y0"]) * (r["x1"] - r["x0"]) for r in rows) == shape[0] * shape[1]
    found = decode_tiles(rows, *shape)
    assert np.array_equal(found[0], semantic)
    assert np.array_equal(found[1], instances)


def test_more_objects_than_16_bits_hold() -> None:
    n = 100_000
    instances = np.zeros((700, 700), np.int32)
    y, x = np.divmod(np.arange(n), 350)
    instances[2 * y, 2 * x] = np.arange(1, n + 1)
    semantic = (instances > 0).astype(np.uint8)
    rows = list(encode_tiles(semantic, instances, n))
    assert len(rows) == 4
    assert np.array_equal(decode_tiles(rows, 700, 700)[1], instances)


def test_what_a_killed_writer_left_goes_however_the_output_is_spelled(tmp_path: Path) -> None:
    dataset = OutputDataset.accepting(
        f"file://{tmp_path}/out/", DatasetSpec(classes=(), model="m", settings={})
    )
    dataset.create()
    left = tmp_path / "out/objects/.0123456789abcdef.parquet.tessera-0123abcd"
    left.parent.mkdir()
    left.write_bytes(b"half")
    remove_orphans(dataset.uri, lambda: None)
    assert not left.exists()


def test_every_column_says_what_it_holds(tmp_path: Path) -> None:
    """In the files themselves, also once rows were moved, and by its name in README."""
    dataset = OutputDataset(str(tmp_path), DatasetSpec(classes=CLASSES, model="m", settings={}))
    dataset.create()
    reject = Reject(SourceImage("i", "mem://i", "1", 1), "read", "corrupt", "is cut short")
    commit_shard(dataset.uri, [], [reject], CLASSES, Provenance("one", "run", "m"))
    rewrite(dataset.snapshot(), Rewrite(("one",), ""), lambda: None)
    lines = (ROOT / "README.md").read_text().partition("## Ask SQL")[2].splitlines()
    for table in SCHEMAS:
        (line,) = [line for line in lines if line.startswith(f"| `{table}` | ")]
        for file in (tmp_path / table).glob("*.parquet"):
            for column in pq.read_schema(file):
                assert column.metadata[b"description"], (table, column.name)
                assert column.name in line.replace("(", ",").replace(" ", ",").split(",")
    assert len(list((tmp_path / "rejects").iterdir())) == 2


def test_the_queries_of_the_readme_are_answered(tmp_path: Path) -> None:
    """Of an image with two objects, another with none, and a reject."""
    dataset = OutputDataset(str(tmp_path), DatasetSpec(classes=CLASSES, model="m", settings={}))
    dataset.create()
    images = [counted_image("two", 2, 0), counted_image("none", 0, 0)]
    reject = Reject(SourceImage("bad", "mem://bad", "1", 1), "read", "corrupt", "is cut short")
    commit_shard(dataset.uri, images, [reject], CLASSES, Provenance("one", "run", "m"))
    text = (ROOT / "README.md").read_text().replace("'results/", f"'{tmp_path}/")
    (block,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    sums, most, codes, density = [
        duckdb.sql(query).fetchall() for query in block.split(";") if query.strip()
    ]
    assert sums == [("cell", 2, 1.0)]
    assert most == [("mem://two", 2), ("mem://none", 0)]
    assert codes == [("corrupt", 1)]
    assert sorted(density) == [("mem://none", 0.0), ("mem://two", 2 * 1e6 / 80)]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    given = {"duckdb": duckdb}
    exec(code, given)
    assert {row[0] for row in given["maps"]} == {"mem://two", "mem://none"}


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ('"schema_version": 99', "is of schema version 99, which this Tessera does not read"),
        ('"schema_version": 1, "more": 1', "is damaged, or of another version: more: "),
        ('"schema_version"', "is damaged, .*: Invalid JSON"),
    ],
)
def test_a_dataset_of_another_version_or_damaged_is_told(
    tmp_path: Path, changed: str, line: str
) -> None:
    OutputDataset(str(tmp_path), DatasetSpec(classes=CLASSES, model="m", settings={})).create()
    file = tmp_path / "dataset.json"
    file.write_text(file.read_text().replace('"schema_version": 1', changed))
    with pytest.raises(DatasetError, match=line):
        OutputDataset.open(str(tmp_path))
