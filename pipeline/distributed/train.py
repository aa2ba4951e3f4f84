"""Training as one Ray Train graph: Ray Data reads, N workers train under DDP, the best is kept."""

import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from ray.data.dataset import MaterializedDataset
from ray.exceptions import RayActorError
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    DataConfig,
    FailureConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.exceptions import (
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)

from pipeline import storage
from pipeline.config import ConfiguredSettings, TrainSettings
from pipeline.distributed.checkpoints import PATIENCE, uri_of
from pipeline.distributed.loading import load
from pipeline.distributed.mailbox import listening
from pipeline.distributed.notices import without_known_notices
from pipeline.distributed.session import (
    Resources,
    check_fits,
    ray_session,
    unwrapped_errors,
    user_error,
)
from pipeline.distributed.stopping import stop_on_signals
from pipeline.distributed.survey import READ_CPUS, Survey
from pipeline.distributed.train_worker import BUNDLE, TrainJob, train_worker
from pipeline.errors import DataError, SettingsError, StoppedError, StorageError, TesseraError
from pipeline.labels import open_data
from pipeline.models.bundle import BundleSpec, load_spec
from pipeline.parsing import to_yaml
from pipeline.survey.balance import crop_weights
from pipeline.survey.configure import Configuration, decide_method
from pipeline.survey.facts import data_hash
from pipeline.survey.summary import card_rows
from pipeline.tables.lease import check_held
from pipeline.training.card import CARD_NAME, CardFacts, Machine, model_card
from pipeline.training.output import SETTINGS_NAME
from pipeline.training.pretrained import find_pretrained
from pipeline.training.recorders.group import RecorderGroup, recording
from pipeline.training.reports import Notice, OnReport, Validation, load_validation
from pipeline.training.state import load_snapshot
from pipeline.training.unfinished import (
    alone,
    check_unchanged,
    check_writable,
    checkpoints_uri,
    find_unfinished,
    mark_finished,
    mark_unfinished,
    marker_uri,
)
from pipeline.wording import plural

# For the worker's allocators, which read it when the process starts. A step allocates the same
# hundreds of MiB as the step before. By default glibc gives them back to the kernel in between, and
# getting them again, zeroed and in pages of 4 KiB, takes a fifth of the time on a CPU.
_KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "THP_MEM_ALLOC_ENABLE": "1",
}

_LOST = (RayActorError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
"""What Ray tells of a worker that is gone, by who has noticed it first."""

_RESUME = "the same command with --resume goes on from the last checkpoint"

OnConfigured = Callable[[Survey, Configuration], None]
"""Is told what the images say and what was chosen from it."""


@dataclass(frozen=True)
class TrainResult:
    """What a training ended with."""

    bundle_uri: str
    spec: BundleSpec
    validation: Validation
    """Of the weights in the bundle."""
    seconds: float


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
        StoppedError: SIGTERM came; what was trained so far can be resumed.
    """
    began = time.monotonic()
    unfinished = find_unfinished(settings)
    check_writable(settings)
    pretrained = None if unfinished else find_pretrained(settings)
    before = unfinished or pretrained
    filled = before.fill_in(settings) if before else settings
    data = open_data(settings.data, settings.labels, settings.val_fraction)
    if unfinished:
        unfinished.check_classes(data.classes)
    decide_method(settings.method, data)  # before any image is read
    with (
        without_known_notices(),
        ray_session() as resources,
        unwrapped_errors(),
    ):
        fewest, most = settings.worker_range or (resources.gpus or resources.nodes,) * 2
        check_fits(fewest, resources)
        loaded = load(data, filled, resources)
        loaded.survey.findings.check()
        configuration = loaded.survey.configure(filled, most, resources)
        if pretrained:
            configuration = pretrained.explain(configuration, data.classes)
        configured = configuration.settings
        _check_shares(configured, most)
        on_configured(loaded.survey, configuration)
        run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:4]}"
        job = TrainJob(
            settings=configured,
            spec=_spec(configured, loaded.survey),
            streams=loaded.streams(configured),
            crop_weights=_crop_weights(configured, loaded.survey),
            threads=max(1, int(resources.largest_node_cpus) // _per_node(most, resources)),
            started=time.time() - (time.monotonic() - began),
            run_uri=storage.join(checkpoints_uri(settings), run),
            marker=marker_uri(settings),
            resume_from=unfinished.uri if unfinished else None,
            pretrained=pretrained.model if pretrained else None,
        )
        scaling = _scaling((fewest, most), resources)
        found = data_hash(loaded.survey.facts)
        if unfinished and (changed := unfinished.data_changed(found)):
            on_report(Notice(changed))
        # Until here there is nothing to save: a signal ends what goes on, however long it takes.
        with (
            stop_on_signals(signal.SIGTERM) as stop,
            alone(settings, lambda text: on_report(Notice(text))) as lease,
        ):
            check_unchanged(settings, unfinished)
            mark_unfinished(settings, configured, data.classes, run, unfinished, found)
            with recording(configured, on_report) as recorders:
                with listening(recorders, (stop, lease.lost)) as mailbox:
                    checkpoint = _run(job, mailbox, dict(loaded.decoded), scaling, run)
                check_held(lease.hold)
                result = _publish(uri_of(checkpoint, job.run_uri), configured, began)
                if configured.record.card:
                    needs = recorders.needs
                    machine = Machine(most, job.threads, resources.cpus, resources.gpus, needs)
                    _write_card(result, configured, loaded.survey, machine, recorders)
                recorders.done(settings.output)
            mark_finished(settings)
    return result


def _spec(settings: ConfiguredSettings, survey: Survey) -> BundleSpec:
    return BundleSpec(
        network=settings.network,
        channels=settings.channels,
        zoom=settings.zoom,
        classes=survey.data.classes,
        method=settings.method,
        normalize=settings.normalize,
    )


def _crop_weights(settings: ConfiguredSettings, survey: Survey) -> list[float] | None:
    facts = [one for one in survey.facts if one.split == "train"]  # in the order of names
    return crop_weights(facts) if settings.sampling.balance else None


def _check_shares(settings: ConfiguredSettings, workers: int) -> None:
    """Every worker has at least one crop of each part of a batch."""
    if settings.batch_size // settings.accumulate < workers:
        raise SettingsError(
            f"setting batch_size: {settings.batch_size} crops in {settings.accumulate} parts are "
            f"too few for {workers} workers; at least {workers * settings.accumulate} are needed"
        )


def _run(
    job: TrainJob,
    mailbox: Any,
    splits: dict[str, MaterializedDataset[Any]],
    scaling: ScalingConfig,
    run: str,
) -> Checkpoint:
    """Ray Train from its start to the last snapshot, over the deaths of workers."""
    settings = job.settings
    filesystem, path = storage.patient_filesystem(
        storage.make_folder(checkpoints_uri(settings)), PATIENCE
    )
    # Numbers that all workers agree on travel over gloo: they need not wait for the GPU.
    backend = "cpu:gloo,cuda:nccl" if scaling.use_gpu else "gloo"
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job, "mailbox": mailbox},
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
            worker_runtime_env={"env_vars": _KEEP_MEMORY},  # type: ignore[call-arg]  # V2 has it
        ),
    )
    try:
        checkpoint: Checkpoint | None = trainer.fit().checkpoint
    except TrainingFailedError as error:
        found = user_error(error)
        if isinstance(found, StorageError):
            raise type(found)(f"{found}; {_RESUME}") from error
        if not lost_workers(error):
            raise
        times = plural(settings.max_failures + 1, "time")
        raise TesseraError(f"workers of the training were lost {times}; {_RESUME}") from error
    if checkpoint is None:
        raise DataError("the training ended before its first epoch did; give it more time")
    return checkpoint


def lost_workers(error: TrainingFailedError) -> bool:
    """Whether a training has failed because its workers died, not by what they did."""
    failures = getattr(error, "worker_failures", {}).values()
    return any(isinstance(failure, _LOST) for failure in failures)


def _publish(checkpoint: str, settings: ConfiguredSettings, began: float) -> TrainResult:
    """The bundle of a finished training goes to the output, with the settings as run beside it.

    Raises:
        StoppedError: the training has not finished.
    """
    snapshot = load_snapshot(checkpoint)
    if snapshot is None:
        raise StorageError(f"the last checkpoint, {checkpoint}, is damaged")
    if not snapshot.state.finished:
        raise StoppedError(f"stopped after {snapshot.state.progress:.0%} of the training")
    if not snapshot.state.best_validation:
        raise DataError("the training ended before its first step; give it more time")
    storage.copy_folder(storage.join(checkpoint, BUNDLE), settings.output)
    left_out = {"resume": True, "restart": True, "method": settings.method.left_to_learn}
    text = to_yaml(settings, left_out)
    storage.write_bytes(storage.join(settings.output, SETTINGS_NAME), text.encode())
    spec, validation = load_spec(settings.output), load_validation(settings.output)
    return TrainResult(settings.output, spec, validation, time.monotonic() - began)


def _write_card(
    result: TrainResult,
    settings: ConfiguredSettings,
    survey: Survey,
    machine: Machine,
    recorders: RecorderGroup,
) -> None:
    facts = CardFacts(
        spec=result.spec,
        settings=settings,
        validation=result.validation,
        images=dict(Counter(one.split for one in survey.facts)),
        machine=machine,
        seconds=result.seconds,
        epochs=recorders.epochs,
        data_rows=card_rows(survey.fingerprint),
    )
    uri = storage.join(settings.output, CARD_NAME)
    storage.write_bytes(uri, model_card(facts).encode())


def _scaling(workers: tuple[int, int], resources: Resources) -> ScalingConfig:
    """Between the fewest and the most workers, as there is room."""
    fewest, most = workers
    # Ray's annotation is that of its first version, which knew no ranges.
    number = cast(int, most if fewest == most else workers)
    if resources.gpus:
        return ScalingConfig(num_workers=number, use_gpu=True)
    # One core of a node is left to Ray Data, or what it needs to read; the threads of a worker may
    # use all of them.
    spare = max(resources.largest_node_cpus - 1, 1 - READ_CPUS)
    return ScalingConfig(
        num_workers=number, resources_per_worker={"CPU": spare / _per_node(most, resources)}
    )


def _per_node(workers: int, resources: Resources) -> int:
    return -(-workers // resources.nodes)
