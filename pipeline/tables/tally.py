"""What committed shards hold, counted from their files."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.tables.files import from_parquet
from pipeline.tables.layout import shard_file
from pipeline.tables.snapshot import Snapshot


@dataclass
class Tally:
    """Sums over rows of the images and rejects tables."""

    images: int = 0
    objects: int = 0
    pixels: int = 0
    reject_codes: Counter[str] = field(default_factory=Counter)

    @property
    def done(self) -> int:
        """Images with a result, good or bad."""
        return self.images + self.reject_codes.total()

    def add_images(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Rows with n_objects, height and width."""
        self.images += rows.num_rows
        self.objects += pc.sum(rows["n_objects"]).as_py() or 0
        area = pc.multiply(rows["height"].cast(pa.int64()), rows["width"].cast(pa.int64()))
        self.pixels += pc.sum(area).as_py() or 0

    def add_rejects(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Rows with code."""
        self.reject_codes.update(rows["code"].to_pylist())


def tally_shard(dataset: str, partition: str, shard: str) -> Tally:
    """What one shard holds."""
    tally = Tally()
    for table, add in (("images", tally.add_images), ("rejects", tally.add_rejects)):
        data = storage.read_bytes(shard_file(dataset, table, partition, shard))
        add(from_parquet(data))
    return tally


def tally_attempts(attempts: Iterable[Mapping[str, Any]]) -> Tally:
    """What the attempts at a plan have told of themselves, together."""
    tally = Tally()
    for attempt in attempts:
        tally.images += attempt["images"]
        tally.objects += attempt["objects"]
        tally.pixels += attempt["pixels"]
        tally.reject_codes.update(attempt["reject_codes"])
    return tally


def tally_snapshot(snapshot: Snapshot) -> Tally:
    """What the shards of a snapshot hold, of the rows that count."""
    tally = Tally()
    for batch in snapshot.scan("images", ["n_objects", "height", "width"]):
        tally.add_images(batch)
    for batch in snapshot.scan("rejects", ["code"]):
        tally.add_rejects(batch)
    return tally
