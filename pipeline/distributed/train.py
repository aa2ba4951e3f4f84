"""Training as one Ray Train graph: Ray Data reads, N workers train under DDP, the best is kept."""

import time
import uuid
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
import ray.train
from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayActorError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    WorkerGroupError,
)
from ray.train.torch import TorchConfig, TorchTrainer

from pipeline import storage
from pipeline.config import MethodSettings, TrainSettings
from pipeline.distributed.mailbox import listening
from pipeline.distributed.samples import to_table
from pipeline.distributed.session import (
    Resources,
    check_fits,
    data_context,
    ray_session,
    unwrapped_errors,
)
from pipeline.distributed.stopping import stop_on_sigterm
from pipeline.distributed.streaming import StreamedSamples, decoded_bytes, open_stream
from pipeline.distributed.train_worker import BUNDLE, SPLITS, TrainJob, train_worker
from pipeline.errors import DataError, SettingsError, StoppedError, StorageError, TesseraError
from pipeline.labels import AnnotatedData, open_data, read_sample
from pipeline.models.bundle import BundleSpec, load_spec
from pipeline.parsing import to_yaml
from pipeline.records import AnnotatedImage, thing_ids
from pipeline.training.card import CARD_NAME, CardFacts, Machine, model_card
from pipeline.training.recorders.group import recording
from pipeline.training.reports import OnReport, Validation, load_validation
from pipeline.training.state import load_snapshot
from pipeline.training.unfinished import (
    checkpoints_uri,
    find_unfinished,
    mark_finished,
    mark_unfinished,
)

_READ_TOGETHER = 8  # images a task; small, so that progress shows and memory stays low


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with."""

    bundle_uri: str
    spec: BundleSpec
    validation: Validation
    seconds: float


def train_bundle(settings: TrainSettings, on_report: OnReport) -> TrainResult:
    """Train on annotated images and write the best model of all epochs to the output.

    Raises:
        DataProblems: with a line for each thing that is wrong with the data.
        TesseraError: the data or the settings can't be used.
        StoppedError: SIGTERM came; what was trained so far can be resumed.
    """
    began = time.time()
    unfinished = find_unfinished(settings)
    started = began - (unfinished.state.elapsed if unfinished else 0.0)
    data = open_data(settings.data, settings.labels, settings.val_fraction).check()
    method = decide_method(settings.method, data)
    with ray_session() as resources, unwrapped_errors(), stop_on_sigterm() as stop:
        fewest, most = settings.worker_range or (resources.gpus or resources.nodes,) * 2
        check_fits(fewest, resources)
        _check_shares(settings, most)
        splits, streams = _load(data, settings, resources)
        found = [s.channels for s in streams.values()] or [
            cast(int, dataset.max("channels")) for dataset in splits.values()
        ]
        channels = settings.channels or max(found)
        spec = BundleSpec(
            network=settings.network,
            channels=channels,
            classes=data.classes,
            method=method,
            normalize=settings.normalize,
        )
        if stop.is_set():
            raise StoppedError("stopped before the first step")
        run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:4]}"
        mark_unfinished(settings, run, unfinished)
        threads = max(1, int(resources.largest_node_cpus) // _per_node(most, resources))
        with recording(settings, on_report) as recorders:
            with listening(recorders, stop) as mailbox:
                job = TrainJob(
                    settings=settings,
                    spec=spec,
                    streams={name: s.with_channels(channels) for name, s in streams.items()},
                    threads=threads,
                    started=started,
                    mailbox=mailbox,
                    resume_from=unfinished.uri if unfinished else None,
                )
                checkpoint = _run(job, splits, _scaling((fewest, most), resources), run)
            best = _publish(checkpoint, settings)
            validation = load_validation(settings.output)
            seconds = time.time() - began
            if settings.record.card:
                machine = Machine(most, threads, resources.cpus, resources.gpus, recorders.device)
                facts = CardFacts(
                    best, settings, validation, _sizes(data), machine, seconds, recorders.epochs
                )
                text = model_card(facts)
                storage.write_bytes(storage.join(settings.output, CARD_NAME), text.encode())
            recorders.done(settings.output)
            mark_finished(settings)
    return TrainResult(settings.output, best, validation, seconds)


def _check_shares(settings: TrainSettings, workers: int) -> None:
    """Every worker has at least one crop of each part of a batch."""
    if settings.batch_size // settings.accumulate < workers:
        raise SettingsError(
            f"setting batch_size: {settings.batch_size} crops in {settings.accumulate} parts are "
            f"too few for {workers} workers; at least {workers * settings.accumulate} are needed"
        )


def decide_method(settings: MethodSettings, data: AnnotatedData) -> MethodSettings:
    """The method that the labels call for where the settings leave it open.

    Raises:
        SettingsError: the settings ask for what the labels don't hold.
    """
    things = thing_ids(data.classes)
    if settings.name == "instance" and not (data.has_instances and things):
        raise SettingsError(
            f"setting method.name: instance needs labelled objects of a class of kind thing in "
            f"{data.uri}"
        )
    weights = settings.class_weights
    if weights is not None and len(weights) != len(data.classes):
        raise SettingsError(
            f"setting method.class_weights takes {len(data.classes)} weights, one a class of "
            f"{data.uri}, not {len(weights)}"
        )
    if settings.name != "auto":
        return settings
    name = "instance" if data.has_instances and things else "semantic"
    return settings.model_copy(update={"name": name})


def _load(
    data: AnnotatedData, settings: TrainSettings, resources: Resources
) -> tuple[dict[str, MaterializedDataset[Any]], dict[str, StreamedSamples]]:
    """Each split decoded in the object store or, where that is too small, as a stream."""
    for split in SPLITS:
        if not data.split(split):
            raise DataError(f"{data.uri} has no image of the split {split}")
    budget = settings.cache_bytes
    if budget is None:
        budget = resources.store_bytes // 2
    if decoded_bytes(data) <= budget:
        return {split: _read(data, split) for split in SPLITS}, {}
    return {}, {split: open_stream(data, split, settings.normalize) for split in SPLITS}


def _read(data: AnnotatedData, split: str) -> MaterializedDataset[Any]:
    """The decoded images of a split, in the object store that all workers share."""
    data_context()
    items = [{"image": asdict(image)} for image in data.split(split)]
    decoded: MaterializedDataset[Any] = (
        ray.data.from_items(items, override_num_blocks=-(-len(items) // _READ_TOGETHER))
        .map_batches(
            partial(_read_samples, classes=data.classes, void=data.void),
            batch_size=_READ_TOGETHER,
            batch_format="pyarrow",
        )
        .materialize()
    )
    return decoded


def _read_samples(batch: pa.Table, classes: Any, void: int) -> pa.Table:
    images = [_annotated(item) for item in batch["image"].to_pylist()]
    return to_table([read_sample(image, classes, void) for image in images])


def _annotated(item: dict[str, Any]) -> AnnotatedImage:
    # Where it lies is all that reading needs; an empty mapping is not a type that Arrow knows.
    return AnnotatedImage(**{**item, "attributes": {}})


def _run(
    job: TrainJob, splits: dict[str, MaterializedDataset[Any]], scaling: ScalingConfig, run: str
) -> Checkpoint:
    """Ray Train from its start to the last snapshot, over the deaths of workers."""
    settings = job.settings
    filesystem, path = storage.arrow_filesystem(storage.make_folder(checkpoints_uri(settings)))
    # Numbers that all workers agree on travel over gloo: they need not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if scaling.use_gpu else "gloo"
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        datasets=dict(splits),
        dataset_config=DataConfig(datasets_to_split=[]),  # workers share out crops, not images
        scaling_config=scaling,
        torch_config=TorchConfig(backend=backend),
        run_config=RunConfig(
            name=run,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        checkpoint: Checkpoint | None = trainer.fit().checkpoint
    except WorkerGroupError as error:
        if not any(isinstance(e, RayActorError) for e in error.worker_failures.values()):
            raise
        raise TesseraError(
            f"workers of the training were lost {settings.max_failures + 1} times; the same "
            "command with --resume goes on from the last checkpoint"
        ) from error
    if checkpoint is None:
        raise DataError("the training ended before its first epoch did; give it more time")
    return checkpoint


def _publish(checkpoint: Checkpoint, settings: TrainSettings) -> BundleSpec:
    """The bundle of a finished training goes to the output, with the settings as run beside it.

    Raises:
        StoppedError: the training has not finished.
    """
    with checkpoint.as_directory() as folder:
        snapshot = load_snapshot(folder)
        if snapshot is None:
            raise StorageError(f"the last checkpoint of {settings.output} could not be read back")
        if not snapshot.state.finished:
            raise StoppedError(f"stopped after {snapshot.state.progress:.0%} of the training")
        if not snapshot.state.best_validation:
            raise DataError("the training ended before its first step; give it more time")
        storage.copy_folder(storage.join(folder, BUNDLE), settings.output)
    text = to_yaml(settings)
    storage.write_bytes(storage.join(settings.output, "settings.yaml"), text.encode())
    return load_spec(settings.output)


def _sizes(data: AnnotatedData) -> dict[str, int]:
    """Images of each split."""
    return dict(Counter(image.split for image in data.images))


def _scaling(workers: tuple[int, int], resources: Resources) -> ScalingConfig:
    """Between the fewest and the most workers, as there is room."""
    fewest, most = workers
    # Ray's annotation is that of its first version, which knew no ranges.
    number = cast(int, most if fewest == most else workers)
    if resources.gpus:
        return ScalingConfig(num_workers=number, use_gpu=True)
    # One core of a node is left to Ray Data; the threads of a worker may use all of them.
    spare = max(resources.largest_node_cpus - 1, 0.5)
    return ScalingConfig(
        num_workers=number, resources_per_worker={"CPU": spare / _per_node(most, resources)}
    )


def _per_node(workers: int, resources: Resources) -> int:
    return -(-workers // resources.nodes)
