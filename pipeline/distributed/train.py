"""Training as one Ray Train graph: Ray Data reads, N workers train under DDP, the best is kept."""

import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
import ray.train
import torch
from ray.data.dataset import MaterializedDataset
from ray.train import Checkpoint, CheckpointConfig, DataConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from pipeline import storage
from pipeline.config import MethodSettings, TrainSettings
from pipeline.distributed.mailbox import deliver, listening, throttled
from pipeline.distributed.samples import from_table, to_table
from pipeline.distributed.session import (
    Resources,
    check_fits,
    data_context,
    ray_session,
    unwrapped_errors,
)
from pipeline.errors import DataError, SettingsError
from pipeline.labels.folder import AnnotatedData, open_folder, read_sample
from pipeline.methods import build_method
from pipeline.models.bundle import BundleSpec, load_spec
from pipeline.models.weights import build_network, save_bundle
from pipeline.parsing import to_yaml
from pipeline.predicting.engine import pick_device, pick_dtype
from pipeline.records import AnnotatedImage, Sample, thing_ids
from pipeline.training.card import CARD_NAME, CardFacts, Machine, model_card
from pipeline.training.crops import CropSource
from pipeline.training.loop import fit
from pipeline.training.recorders.group import recording
from pipeline.training.reports import OnReport, Validation, load_validation, save_validation

_READ_TOGETHER = 8  # images a task; small, so that progress shows and memory stays low


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with."""

    bundle_uri: str
    spec: BundleSpec
    validation: Validation
    seconds: float


@dataclass(frozen=True)
class _Job:
    """What a worker needs, beside the data."""

    settings: TrainSettings
    spec: BundleSpec
    threads: int
    started: float
    mailbox: Any


def train_bundle(settings: TrainSettings, on_report: OnReport) -> TrainResult:
    """Train on annotated images and write the best model of all epochs to the output.

    Raises:
        TesseraError: the data or the settings can't be used.
    """
    started = time.time()
    data = open_folder(settings.data, settings.val_fraction)
    method = decide_method(settings.method, data)
    with ray_session() as resources, unwrapped_errors():
        workers = settings.workers or resources.gpus or resources.nodes
        check_fits(workers, resources)
        splits = {split: _read(data, split) for split in ("train", "val")}
        channels = settings.channels or max(cast(int, ds.max("channels")) for ds in splits.values())
        spec = BundleSpec(
            network=settings.network,
            channels=channels,
            classes=data.classes,
            method=method,
            normalize=settings.normalize,
        )
        threads = max(1, int(resources.largest_node_cpus) // _per_node(workers, resources))
        scaling = _scaling(workers, resources)
        with recording(settings, on_report) as recorders:
            with listening(recorders) as mailbox:
                checkpoint = _run(settings, spec, splits, scaling, threads, started, mailbox)
            best = _publish(checkpoint, settings)
            validation = load_validation(settings.output)
            seconds = time.time() - started
            if settings.record.card:
                machine = Machine(
                    workers, threads, resources.cpus, resources.gpus, recorders.device
                )
                facts = CardFacts(
                    best, settings, validation, _sizes(data), machine, seconds, recorders.epochs
                )
                text = model_card(facts)
                storage.write_bytes(storage.join(settings.output, CARD_NAME), text.encode())
            recorders.done(settings.output)
    return TrainResult(settings.output, best, validation, seconds)


def decide_method(settings: MethodSettings, data: AnnotatedData) -> MethodSettings:
    """The method that the labels call for where the settings leave it open.

    Raises:
        SettingsError: the settings ask for what the labels don't hold.
    """
    things = thing_ids(data.classes)
    if settings.name == "instance" and not (data.has_instances and things):
        raise SettingsError(
            f"setting method.name: instance needs labels/ and a class of kind thing in {data.uri}"
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


def _read(data: AnnotatedData, split: str) -> MaterializedDataset[Any]:
    """The decoded images of a split, in the object store that all workers share."""
    images = data.split(split)
    if not images:
        raise DataError(f"{data.uri} has no image of the split {split}")
    data_context()
    items = [{"image": asdict(image)} for image in images]
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
    settings: TrainSettings,
    spec: BundleSpec,
    splits: dict[str, MaterializedDataset[Any]],
    scaling: ScalingConfig,
    threads: int,
    started: float,
    mailbox: Any,
) -> Checkpoint:
    filesystem, path = storage.arrow_filesystem(storage.make_folder(_checkpoints(settings)))
    result = TorchTrainer(
        _train_worker,
        train_loop_config={"job": _Job(settings, spec, threads, started, mailbox)},
        datasets=dict(splits),
        dataset_config=DataConfig(datasets_to_split=[]),  # workers share out crops, not images
        scaling_config=scaling,
        run_config=RunConfig(
            name=time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(started)),
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    ).fit()
    checkpoint: Checkpoint | None = result.checkpoint
    if checkpoint is None:
        raise DataError("the training ended before its first epoch did; give it more time")
    return checkpoint


def _train_worker(config: dict[str, Any]) -> None:
    """One of the processes that train; runs in a Ray Train worker."""
    job: _Job = config["job"]
    settings, spec = job.settings, job.spec
    torch.set_num_threads(job.threads)
    torch.manual_seed(settings.seed)
    device = pick_device()
    method = build_method(spec.method, spec.classes)
    network = build_network(spec)
    source = CropSource(
        _samples("train"),
        method,
        channels=spec.channels,
        crop=settings.crop,
        augment=settings.augment,
        normalization=settings.normalize,
        seed=settings.seed,
    )
    is_first = ray.train.get_context().get_world_rank() == 0
    reports = fit(
        network,
        method,
        source,
        _samples("val"),
        settings,
        device=device,
        dtype=pick_dtype(settings.precision, device),
        started=job.started,
        wrap=prepare_model,
        on_step=throttled(job.mailbox) if is_first else lambda report: None,
    )
    best = float("-inf")
    for report in reports:
        improved, best = report.score > best, max(best, report.score)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if is_first:
                deliver(job.mailbox, report)
                if improved:
                    save_bundle(
                        spec.model_copy(update={"metrics": report.metrics}), network, folder
                    )
                    save_validation(report.validation, folder)
                    checkpoint = Checkpoint.from_directory(folder)
            ray.train.report(report.metrics, checkpoint=checkpoint)


def _samples(split: str) -> list[Sample]:
    """All samples of a split, in the order of names; views into the object store."""
    batches = ray.train.get_dataset_shard(split).iter_batches(
        batch_size=None, batch_format="pyarrow"
    )
    return sorted(
        (sample for table in batches for sample in from_table(table)), key=lambda s: s.name
    )


def _publish(checkpoint: Checkpoint, settings: TrainSettings) -> BundleSpec:
    """The best checkpoint becomes the bundle, with the settings as run beside it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.to_directory(folder)
        storage.copy_folder(folder, settings.output)
    text = to_yaml(settings)
    storage.write_bytes(storage.join(settings.output, "settings.yaml"), text.encode())
    if settings.checkpoints is None:
        storage.remove_folder(_checkpoints(settings))
    return load_spec(settings.output)


def _sizes(data: AnnotatedData) -> dict[str, int]:
    """Images of each split."""
    return dict(Counter(image.split for image in data.images))


def _checkpoints(settings: TrainSettings) -> str:
    return storage.absolute(settings.checkpoints or storage.join(settings.output, "checkpoints"))


def _scaling(workers: int, resources: Resources) -> ScalingConfig:
    if resources.gpus:
        return ScalingConfig(num_workers=workers, use_gpu=True)
    # One core of a node is left to Ray Data; the threads of a worker may use all of them.
    spare = max(resources.largest_node_cpus - 1, 0.5)
    return ScalingConfig(
        num_workers=workers, resources_per_worker={"CPU": spare / _per_node(workers, resources)}
    )


def _per_node(workers: int, resources: Resources) -> int:
    return -(-workers // resources.nodes)
