"""Training as one Ray Train graph: Ray Data reads, N workers train under DDP, the best is kept."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
import ray.train
import torch
from ray.data.dataset import MaterializedDataset
from ray.train import Checkpoint, CheckpointConfig, DataConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model

from pipeline import storage
from pipeline.config import ConfiguredSettings, TrainSettings
from pipeline.distributed.mailbox import OnReport, listening, throttled
from pipeline.distributed.samples import from_table
from pipeline.distributed.session import (
    Resources,
    check_fits,
    ray_session,
    unwrapped_errors,
)
from pipeline.distributed.survey import Survey, read_images, summarise
from pipeline.errors import DataError
from pipeline.labels.folder import AnnotatedData, open_folder
from pipeline.methods import build_method
from pipeline.models.bundle import BundleSpec, load_spec
from pipeline.models.weights import build_network, save_bundle
from pipeline.parsing import to_yaml
from pipeline.predicting.engine import pick_device, pick_dtype
from pipeline.records import Sample
from pipeline.survey.configure import Configuration, decide_method
from pipeline.training.crops import CropSource
from pipeline.training.loop import fit
from pipeline.training.samples import CachedSamples

OnConfigured = Callable[[Survey, Configuration], None]
"""Is told what the images say and what was chosen from it."""


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with."""

    bundle_uri: str
    spec: BundleSpec
    seconds: float


@dataclass(frozen=True)
class _Job:
    """What a worker needs, beside the data."""

    settings: ConfiguredSettings
    spec: BundleSpec
    threads: int
    started: float
    mailbox: Any


def train_bundle(
    settings: TrainSettings,
    on_report: OnReport,
    on_configured: OnConfigured = lambda survey, configuration: None,
) -> TrainResult:
    """Train on annotated images and write the best model of all epochs to the output.

    Args:
        settings: as the user gave them; what they leave open is chosen from the data.
        on_report: is told how the training goes.
        on_configured: is told what was found and chosen, before any worker starts.

    Raises:
        DataProblems: the data can't be trained on; one line a problem.
        TesseraError: the settings can't be used.
    """
    started = time.time()
    data = open_folder(settings.data, settings.val_fraction)
    decide_method(settings.method, data)  # before any image is read
    with ray_session() as resources, unwrapped_errors():
        workers = settings.workers or resources.gpus or resources.nodes
        check_fits(workers, resources)
        splits, found = _read(data, settings.channels)
        found.findings.check()
        configuration = found.configure(settings, workers, resources)
        on_configured(found, configuration)
        configured = configuration.settings
        spec = BundleSpec(
            network=configured.network,
            channels=configured.channels,
            classes=data.classes,
            method=configured.method,
            normalize=configured.normalize,
        )
        with listening(on_report) as mailbox:
            checkpoint = _run(
                configured,
                spec,
                splits,
                _scaling(workers, resources),
                max(1, int(resources.largest_node_cpus) // _per_node(workers, resources)),
                started,
                mailbox,
            )
        best = _publish(checkpoint, configured)
    return TrainResult(settings.output, best, time.time() - started)


def _read(
    data: AnnotatedData, channels: int | None
) -> tuple[dict[str, MaterializedDataset[Any]], Survey]:
    """The decoded images of each split, in the object store that all workers share.

    And what they say, measured in the same pass.
    """
    images = {split: data.split(split) for split in ("train", "val")}
    decoded: dict[str, MaterializedDataset[Any]] = {
        split: read_images(data, members, keep_pixels=True).materialize()
        for split, members in images.items()
        if members
    }
    facts = [
        table
        for split in decoded.values()
        for table in split.select_columns(["facts", "problem"]).iter_batches(
            batch_size=None, batch_format="pyarrow"
        )
    ]
    return decoded, summarise(data, [*images["train"], *images["val"]], facts, channels)


def _run(
    settings: ConfiguredSettings,
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
        CachedSamples(_samples("train"), spec.channels, settings.normalize),
        method,
        channels=spec.channels,
        crop=settings.crop,
        augment=settings.augment,
        sampling=settings.sampling,
        seed=settings.seed,
        device=device,
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
                job.mailbox.put.remote(report)
                if improved:
                    save_bundle(
                        spec.model_copy(update={"metrics": report.metrics}), network, folder
                    )
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


def _publish(checkpoint: Checkpoint, settings: ConfiguredSettings) -> BundleSpec:
    """The best checkpoint becomes the bundle, with the settings as run beside it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.to_directory(folder)
        storage.copy_folder(folder, settings.output)
    text = to_yaml(settings)
    storage.write_bytes(storage.join(settings.output, "settings.yaml"), text.encode())
    if settings.checkpoints is None:
        storage.remove_folder(_checkpoints(settings))
    return load_spec(settings.output)


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
