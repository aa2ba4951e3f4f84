"""Files of the tables: maps survive their tiles, and what killed writers left goes."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.tables import masks
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.masks import decode_tiles, encode_tiles
from pipeline.tables.orphans import remove_orphans
from pipeline.tables.spec import DatasetSpec


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
    remove_orphans(dataset.uri)
    assert not left.exists()
