"""A plan: how much there is to do, and the shards of it, in a temporary file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.tables.schema import PLAN


@dataclass(frozen=True)
class Plan:
    """What is to be done. `batches` works for as long as the context that made it is open."""

    listed: int
    """Distinct images that were asked for."""
    repeated: int
    """Further lines of a manifest that name one of them again."""
    images: int
    """Images to do."""
    bytes: int
    """Of them, where sizes are known."""
    shards: int
    changed: int
    """Images to do that replace the results of an older version."""
    spool: "Spool"

    @property
    def done(self) -> int:
        """Images that need not be done again."""
        return self.listed - self.images

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Rows of the PLAN schema, the rows of a shard consecutive."""
        return self.spool.batches()


class Spool:
    """Rows of PLAN in a local file, written once and read any number of times."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.images = self.bytes = self.shards = self.changed = 0
        self._last_shard: str | None = None
        self._fs, self._key = storage.arrow_filesystem(path)
        self._writer: Any = None

    def __enter__(self) -> "Spool":
        # Files of the Arrow format are read a batch at a time, without decoding.
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        self._writer = pa.ipc.new_file(
            self._fs.open_output_stream(self._key), PLAN, options=options
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; the rows of a shard follow one another, over batches too."""
        if not batch.num_rows:
            return
        self._writer.write_batch(batch)
        self.images += batch.num_rows
        self.bytes += int(np.maximum(batch["size"].to_numpy(), 0).sum())
        self.changed += int(
            pc.sum(pc.not_equal(batch["old_image"], batch["image_id"])).as_py() or 0
        )
        starts = run_starts(batch["shard"])
        self.shards += len(starts) - (batch["shard"][0].as_py() == self._last_shard)
        self._last_shard = batch["shard"][-1].as_py()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """What was written."""
        with pa.ipc.open_file(self._fs.open_input_file(self._key)) as reader:
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)


def run_starts(column: pa.Array) -> list[int]:
    """The rows of a string column at which another value begins, the first row included."""
    if not len(column):
        return []
    differs = pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    return [0, *(np.flatnonzero(differs) + 1).tolist()]
