"""The collection minus what is done → shards, for any number of images.

    listing, live, retry ─ DuckDB: pending, sorted by (partition, uri) ─ shards ─ a file of PLAN
    a plan on its way    ─ minus committed shards ─ a file of PLAN

Batches go in and batches come out. What does not fit in memory lies in temporary files (`TMPDIR`
says where), about 0.4 KB an image.
"""

from pipeline.plan.completeness import Gone, gone_images, missing_images, repeated_uris
from pipeline.plan.grouping import shard_id
from pipeline.plan.plan import Plan
from pipeline.plan.resume import remaining
from pipeline.plan.work import plan_work

__all__ = [
    "Gone",
    "Plan",
    "gone_images",
    "missing_images",
    "plan_work",
    "remaining",
    "repeated_uris",
    "shard_id",
]
