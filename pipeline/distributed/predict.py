"""Prediction as one streaming Ray Data graph: read → network → decode and commit.

Each block is one whole shard, so reads, network and writes of different shards overlap, with
back-pressure between them. The driver sees one small row a shard.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, ExecutionOptions, ExecutionResources

from pipeline import storage
from pipeline.config import MethodSettings, PredictSettings, ReaderSettings
from pipeline.distributed.blocks import ReadImage, images_of, maps_of, shard_of, to_table
from pipeline.distributed.session import Resources, data_context
from pipeline.errors import RejectError, StorageError
from pipeline.images.collection import MISSING
from pipeline.images.reader import decode_image
from pipeline.plan import group_in_order
from pipeline.records import Classes, Maps, Pixels, PredictedImage, Reject, Shard, SourceImage

_RESULT = pa.schema(
    [
        ("shard", pa.string()),
        ("images", pa.int64()),
        ("objects", pa.int64()),
        ("reject_codes", pa.list_(pa.string())),
        ("pixels", pa.int64()),
        ("bytes_read", pa.int64()),
        ("bytes_written", pa.int64()),
    ]
)
_READ_THREADS = 8  # of one task: object stores answer slowly, but many at once
_GROUP_VALUES = 100_000_000  # of four bytes each, that a predicting process holds at once
_NO_PROGRESS_SECONDS = 600


@dataclass(frozen=True)
class ShardResult:
    """What the driver learns of a committed shard."""

    shard: str
    images: int
    objects: int
    reject_codes: list[str]
    """One a reject."""
    pixels: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class GraphSettings:
    """What the stages need, beside the shard."""

    dataset: str
    run: str
    model_uri: str
    model: str
    """Fingerprint of the bundle."""
    classes: Classes
    method: MethodSettings
    """With the thresholds to decode with."""
    predict: PredictSettings


def stream_shards(
    shards: Sequence[Shard], settings: GraphSettings, resources: Resources
) -> Iterator[ShardResult]:
    """Compute and commit every shard; yields each when it is committed."""
    plan = _placement(settings.predict, resources, len(shards))
    _set_context(settings.predict, plan)
    items = [{"shard": s.id, "images": [asdict(image) for image in s.images]} for s in shards]
    rows = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            partial(read_shard, reader=settings.predict.reader),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=plan.read_cpus,
        )
        .map_batches(
            PredictShard,
            fn_constructor_args=(settings, plan.threads),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=plan.workers),
            num_cpus=plan.actor_cpus,
            num_gpus=plan.actor_gpus,
        )
        .map_batches(
            CommitShard,
            fn_constructor_args=(settings,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(min_size=1, max_size=plan.committers),
            num_cpus=plan.commit_cpus,
        )
    )
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in cast(pa.Table, batch).to_pylist():
            yield ShardResult(**row)


def read_shard(batch: pa.Table, reader: ReaderSettings) -> pa.Table:
    """Files → pixels. What can't be read is a reject, and its neighbours don't notice."""
    (item,) = batch.to_pylist()
    sources = [SourceImage(**image) for image in item["images"]]
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        images = list(pool.map(partial(_read_image, reader=reader), sources))
    return to_table(item["shard"], images, [])


class PredictShard:
    """Pixels → the method's maps; loads the model once for its life."""

    def __init__(self, settings: GraphSettings, threads: int) -> None:
        # Heavy imports belong to the processes that need them.
        import cv2
        import torch

        from pipeline.methods import build_method
        from pipeline.models.weights import load_bundle
        from pipeline.predicting.engine import TorchEngine, pick_device, pick_dtype
        from pipeline.predicting.predictor import Predictor

        torch.set_num_threads(threads)
        cv2.setNumThreads(1)
        bundle = load_bundle(settings.model_uri)
        method = build_method(bundle.spec.method, bundle.spec.classes)
        device = pick_device()
        engine = TorchEngine(
            bundle.network,
            method,
            device,
            pick_dtype(settings.predict.precision, device),
            views=settings.predict.views,
        )
        self.predictor = Predictor(
            engine, bundle.spec.channels, bundle.spec.normalize, settings.predict.regions
        )

    def __call__(self, block: pa.Table) -> pa.Table:
        checked: list[ReadImage] = []
        maps: list[Maps | None] = []
        for group in group_in_order(images_of(block), _values, _GROUP_VALUES):
            inputs = []
            for image in group:
                try:
                    if image.pixels is not None:
                        inputs.append(self.predictor.prepare(image.pixels))
                    checked.append(image)
                except RejectError as error:
                    checked.append(_rejected(image.source, "predict", error))
            found = iter(self.predictor.predict(inputs))
            maps += [None if i.pixels is None else next(found) for i in checked[len(maps) :]]
        return to_table(shard_of(block), checked, maps)


class CommitShard:
    """Maps → objects → rows; a shard is committed when its call returns."""

    def __init__(self, settings: GraphSettings) -> None:
        import cv2

        from pipeline.methods import build_method

        cv2.setNumThreads(1)
        self.settings = settings
        self.method = build_method(settings.method, settings.classes)

    def __call__(self, block: pa.Table) -> pa.Table:
        from pipeline.tables.shard import Provenance, commit_shard

        images, rejects = [], []
        for image, maps in zip(images_of(block), maps_of(block), strict=True):
            if image.reject is not None:
                rejects.append(image.reject)
            elif image.pixels is not None:
                images.append(self._decode(image.source, image.pixels, maps))
        settings, shard = self.settings, shard_of(block)
        written = commit_shard(
            settings.dataset,
            images,
            rejects,
            settings.classes,
            Provenance(shard, settings.run, settings.model),
        )
        result = ShardResult(
            shard=shard,
            images=len(images),
            objects=sum(len(image.segmentation.class_ids) for image in images),
            reject_codes=[reject.code for reject in rejects],
            pixels=sum(image.shape[0] * image.shape[1] for image in images),
            bytes_read=sum(max(size, 0) for size in block["size"].to_pylist()),
            bytes_written=written,
        )
        return pa.Table.from_pylist([asdict(result)], _RESULT)

    def _decode(self, source: SourceImage, pixels: Pixels, maps: Maps) -> PredictedImage:
        from pipeline.predicting.objects import measure_objects

        found = self.method.decode(maps)
        measures = measure_objects(found.instances, pixels, len(found.class_ids))
        height, width, channels = pixels.shape
        return PredictedImage(source, (height, width, channels), found, measures)


def _values(image: ReadImage) -> int:
    return 0 if image.pixels is None else image.pixels.size


def _read_image(source: SourceImage, reader: ReaderSettings) -> ReadImage:
    try:
        if source.version == MISSING:
            raise RejectError("not_found", "does not exist")
        data = storage.read_bytes(source.uri)
        if source.size >= 0 and len(data) != source.size:
            raise RejectError("incomplete", f"{len(data)} of {source.size} bytes could be read")
        return ReadImage(source, decode_image(data, source.uri, reader), None)
    except RejectError as error:
        return _rejected(source, "read", error)
    except StorageError as error:
        return _rejected(source, "read", RejectError("unreadable", str(error)))


def _rejected(source: SourceImage, stage: str, error: RejectError) -> ReadImage:
    return ReadImage(source, None, Reject(source, stage, error.code, error.message))


@dataclass(frozen=True)
class _Placement:
    """How the stages share the cluster."""

    workers: int
    threads: int
    """Of a predicting process."""
    actor_cpus: float
    actor_gpus: float
    read_cpus: float
    committers: int
    commit_cpus: float


def _placement(settings: PredictSettings, resources: Resources, shards: int) -> _Placement:
    if resources.gpus:
        workers = min(settings.workers or resources.gpus, shards)
        spare = max(1, int(resources.cpus) - workers)
        return _Placement(workers, 1, 1, 1, 0.5, max(1, spare // 2), 1)
    # The network is nearly all of the work, and a predicting process computes on whole cores.
    # Reading and committing share the cores with it, so of the CPUs that Ray counts half go to
    # the network and a quarter to each of them. (Requests that differ also keep Ray from running
    # two stages in one process, where they could not overlap.)
    workers = settings.workers or max(1, int(resources.cpus))
    threads = max(1, int(resources.cpus) // workers)
    quarter = resources.cpus / 4
    return _Placement(
        workers=min(workers, shards),  # threads stay: they may change the last bit of a sum
        threads=threads,
        actor_cpus=_share(quarter * 2, workers),
        actor_gpus=0,
        read_cpus=min(0.4, quarter),
        committers=max(1, int(quarter / 0.3)),
        commit_cpus=min(0.3, quarter),
    )


def _share(cpus: float, processes: int) -> float:
    """CPUs to ask Ray for, for each of some processes; Ray counts in steps of 0.0001."""
    return min(1.0, int(cpus / processes * 10_000) / 10_000)


def _set_context(settings: PredictSettings, plan: _Placement) -> None:
    context = data_context()
    context.target_max_block_size = None  # blocks stay whole shards
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS  # ends a run that hangs
    context.execution_options = ExecutionOptions(
        resource_limits=ExecutionResources(object_store_memory=settings.memory_in_flight),
        preserve_order=False,
    )
