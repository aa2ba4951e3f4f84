"""The three stages of a prediction, each a block in and a block out: read, predict, commit.

What goes wrong with one image is its reject. What goes wrong with the shard as a whole travels on
as its failure, which the driver judges (see `rounds`). Only a process that dies says nothing.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.config import MethodSettings, PredictSettings
from pipeline.distributed.blocks import (
    Block,
    PackedMaps,
    ReadImage,
    block_of,
    maps_of,
    packed,
    to_table,
)
from pipeline.distributed.failures import Failure
from pipeline.distributed.reading import read_images, rejected
from pipeline.distributed.timing import NO_SECONDS, SECONDS, Stage, StageSeconds, timed
from pipeline.errors import BundleError, RejectError
from pipeline.grouping import group_in_order
from pipeline.memory import peak_memory
from pipeline.models.bundle import BundleSpec
from pipeline.models.context import network_context
from pipeline.predicting.regions import Cutting
from pipeline.predicting.zoom import Zoom
from pipeline.records import Classes, Maps, Pixels, PredictedImage, Reject, SourceImage
from pipeline.tables.lease import Hold

if TYPE_CHECKING:  # imported by the processes that need it
    from pipeline.predicting.predictor import Predictor

_GROUP_BYTES = 400_000_000  # of inputs and maps, that a predicting process holds at once
_MAP_BYTES, _OVERLAPPING_MAP_BYTES = 8, 40  # about as many a pixel


@dataclass(frozen=True)
class GraphSettings:
    """What the stages need, beside the shard."""

    dataset: str
    run: str
    lease: Hold
    """The lease under which shards may be committed."""
    model_uri: str
    model: str
    """Fingerprint of the bundle."""
    classes: Classes
    method: MethodSettings
    """With the thresholds to decode with."""
    predict: PredictSettings
    bundle: BundleSpec

    @property
    def cutting(self) -> Cutting:
        """How the network walks over images."""
        depth = self.bundle.network.depth
        assert depth is not None
        return Cutting.of(self.predict.regions, 2**depth, network_context(depth), self.zoom)

    @property
    def zoom(self) -> Zoom:
        """The job's, on top of the model's."""
        return Zoom.of(self.bundle.zoom * self.predict.zoom)


@dataclass(frozen=True)
class ShardResult:
    """What the driver learns of a shard: it is committed, or it failed."""

    shard: str
    images: int = 0
    objects: int = 0
    reject_codes: tuple[str, ...] = ()
    """One a reject."""
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    peak_memory: int = 0
    """Most bytes that one of the processes held that worked on it."""
    seconds: StageSeconds = NO_SECONDS
    failure_kind: str | None = None
    failure_message: str = ""

    @property
    def failure(self) -> Failure | None:
        """Why it failed; None where it is committed."""
        kind = self.failure_kind
        return None if kind is None else Failure(kind, self.failure_message)


RESULT = pa.schema(
    [
        ("shard", pa.string()),
        ("images", pa.int64()),
        ("objects", pa.int64()),
        ("reject_codes", pa.list_(pa.string())),
        ("pixels", pa.int64()),
        ("bytes_read", pa.int64()),
        ("bytes_written", pa.int64()),
        ("peak_memory", pa.int64()),
        ("seconds", SECONDS),
        ("failure_kind", pa.string()),
        ("failure_message", pa.string()),
    ]
)


def read_shard(table: pa.Table, settings: PredictSettings) -> pa.Table:
    """Files → pixels. What can't be read is a reject, and its neighbours don't notice.

    A shard with a large image, or with too many pixels for one process, fails as `too_large`.
    """

    def work(block: Block, table: pa.Table) -> pa.Table:
        images = read_images(block.images, settings)
        return to_table(
            replace(block, images=images, peak_memory=max(block.peak_memory, peak_memory()))
        )

    return _stage("read", table, work)


def load_predictor(settings: GraphSettings, threads: int) -> Callable[[], "Predictor"]:
    """The model, ready to be used by this process.

    One that can't be used is told when it is asked for, as what fails the work: where it was told
    at once, Ray would only start the process again, and again.
    """
    try:
        predictor = _load_predictor(settings, threads)
    except BundleError as error:
        told = error

        def refuse() -> "Predictor":
            raise told

        return refuse
    return lambda: predictor


def _load_predictor(settings: GraphSettings, threads: int) -> "Predictor":
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
    if bundle.spec.fingerprint != settings.model:
        raise BundleError(
            f"{settings.model_uri} is not the model any more that this run began with: put that "
            "one back to go on, or --replace what is done by the new one"
        )
    method = build_method(bundle.spec.method, bundle.spec.classes)
    device = pick_device()
    engine = TorchEngine(
        bundle.network,
        method,
        device,
        pick_dtype(settings.predict.precision, device),
        views=settings.predict.views,
        zoom=settings.zoom,
    )
    spec, predict = bundle.spec, settings.predict
    return Predictor(engine, spec.channels, spec.normalize, predict.regions, predict.channel)


class PredictShard:
    """Pixels → the method's maps; loads the model once for its life."""

    def __init__(self, settings: GraphSettings, threads: int) -> None:
        self.predictor = load_predictor(settings, threads)
        overlapping = settings.method.overlapping
        self.map_bytes = _OVERLAPPING_MAP_BYTES if overlapping else _MAP_BYTES

    def __call__(self, table: pa.Table) -> pa.Table:
        return _stage("predict", table, self._predict)

    def _predict(self, block: Block, table: pa.Table) -> pa.Table:
        predictor = self.predictor()
        checked: list[ReadImage] = []
        maps: list[PackedMaps | None] = []
        for group in group_in_order(block.images, self._bytes, _GROUP_BYTES):
            inputs = []
            for image in group:
                try:
                    if image.pixels is not None:
                        inputs.append(predictor.prepare(image.pixels))
                    checked.append(image)
                except RejectError as error:
                    checked.append(rejected(image.source, "predict", error))
            found = map(packed, predictor.predict(inputs))
            maps += [None if i.pixels is None else next(found) for i in checked[len(maps) :]]
        return to_table(replace(block, images=tuple(checked)), maps)

    def _bytes(self, image: ReadImage) -> int:
        if image.pixels is None:
            return 0
        height, width, channels = image.pixels.shape
        return int(height * width * (4 * channels + self.map_bytes))


class CommitShard:
    """Maps → objects → rows; a shard is committed when its call returns without a failure."""

    def __init__(self, settings: GraphSettings) -> None:
        import cv2

        from pipeline.methods import build_method

        cv2.setNumThreads(1)
        self.settings = settings
        self.method = build_method(settings.method, settings.classes)

    def __call__(self, table: pa.Table) -> pa.Table:
        done = _stage("commit", table, self._commit)
        if done.schema.equals(RESULT):
            return done
        block = block_of(done)
        assert block.failure is not None
        kind, message = block.failure.kind, block.failure.message
        return _row(ShardResult(block.shard, failure_kind=kind, failure_message=message))

    def decode(self, block: Block, table: pa.Table) -> tuple[list[PredictedImage], list[Reject]]:
        """The images with their objects, and the rejects."""
        images, rejects = [], []
        for image, maps in zip(block.images, maps_of(table), strict=True):
            if image.reject is not None:
                rejects.append(image.reject)
            elif image.pixels is not None:
                images.append(self._decode(image.source, image.pixels, maps))
        return images, rejects

    def _commit(self, block: Block, table: pa.Table) -> pa.Table:
        from pipeline.tables.lease import check_held
        from pipeline.tables.shard import Provenance, commit_shard

        settings = self.settings
        images, rejects = self.decode(block, table)
        written = commit_shard(
            settings.dataset,
            images,
            rejects,
            settings.classes,
            Provenance(block.shard, settings.run, settings.model, block.partition),
            before_commit=partial(check_held, settings.lease),
        )
        return _row(
            ShardResult(
                shard=block.shard,
                images=len(images),
                objects=sum(len(image.segmentation.class_ids) for image in images),
                reject_codes=tuple(reject.code for reject in rejects),
                pixels=sum(image.shape[0] * image.shape[1] for image in images),
                bytes_read=sum(max(image.source.size, 0) for image in block.images),
                bytes_written=written,
                peak_memory=max(block.peak_memory, peak_memory()),
                seconds=block.seconds,
            )
        )

    def _decode(self, source: SourceImage, pixels: Pixels, maps: Maps) -> PredictedImage:
        from pipeline.predicting.objects import measure_objects, measure_whole

        found = self.method.decode(maps)
        if found.objects is None:
            measures = measure_objects(found.instances, pixels, len(found.class_ids))
        else:
            measures = measure_whole(found.objects, pixels)
        height, width, channels = pixels.shape
        return PredictedImage(source, (height, width, channels), found, measures)


def _stage(stage: Stage, table: pa.Table, work: Callable[[Block, pa.Table], pa.Table]) -> pa.Table:
    """One stage's work on a block; a block that has failed goes through untouched."""
    block = block_of(table)
    if block.failure is not None:
        return table
    try:
        return timed(stage, lambda: work(block, table))
    except Exception as error:  # the driver judges it: see `rounds`
        bare = tuple(ReadImage(image.source) for image in block.images)
        return to_table(replace(block, images=bare, failure=Failure.of(error)))


def _row(result: ShardResult) -> pa.Table:
    return pa.Table.from_pylist([asdict(result)], RESULT)
