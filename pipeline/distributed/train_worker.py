"""One of the processes that train: runs in a Ray Train worker, on its share of each batch."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
import torch
from ray.train.torch import prepare_model

from pipeline import storage
from pipeline.config import ConfiguredSettings, MethodSettings
from pipeline.distributed.checkpoints import Content, Uploads, uri_of
from pipeline.distributed.mailbox import StepReporter, deliver
from pipeline.distributed.samples import from_table
from pipeline.distributed.streaming import StreamedSamples
from pipeline.errors import SettingsError
from pipeline.methods import build_method
from pipeline.methods.base import Method
from pipeline.models.bundle import BundleSpec
from pipeline.models.unet import UNet
from pipeline.models.weights import ModelBundle, build_network, round_weights, save_bundle
from pipeline.predicting.engine import pick_device, pick_dtype
from pipeline.records import Sample
from pipeline.training.crops import CropSource
from pipeline.training.loop import SaveDue, Training
from pipeline.training.pretrained import begin_with
from pipeline.training.reports import Notice, Validation, save_validation
from pipeline.training.samples import CachedSamples
from pipeline.training.spread import Some
from pipeline.training.state import Snapshot, load_whole_snapshot, save_snapshot
from pipeline.training.tuning import decodings, images_to_tune_on, tune_decoding
from pipeline.training.validation import look, validate
from pipeline.training.world import from_first

_PUBLISHING = 1.0  # validations that it takes to measure the bundle once more, and to save it
_SAVING = 0.25  # and to save alone what has been measured
BUNDLE = "bundle"
"""Folder of the finished model in the last checkpoint."""


@dataclass(frozen=True)
class TrainJob:
    """What a worker needs, beside the data that it finds in the object store."""

    settings: ConfiguredSettings
    spec: BundleSpec
    streams: Mapping[str, StreamedSamples]
    """The splits that are read again and again; the others are in memory."""
    crop_weights: Sequence[float] | None
    """Of the training images, in the order of names."""
    threads: int
    started: float
    run_uri: str
    """Where the checkpoints of this run go."""
    marker: str
    """A file in the output, which the worker that writes there has to see."""
    resume_from: str | None
    """Snapshot to go on from, as long as this run has none of its own."""
    pretrained: ModelBundle | None
    """Whose weights to begin with, where there is no snapshot."""


def train_worker(config: dict[str, Any]) -> None:
    """Train to the end, or until told to stop."""
    job: TrainJob = config["job"]
    with explained_memory(job.settings):
        _train(job, config["mailbox"])


@contextlib.contextmanager
def explained_memory(settings: ConfiguredSettings) -> Iterator[None]:
    """Say what to do where a GPU's memory is too small for a step.

    Raises:
        SettingsError: instead of PyTorch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"setting batch_size: {settings.batch_size} crops of {settings.crop} pixels a step, in "
            f"{settings.accumulate} parts, are too many for the memory of the GPU: give fewer, or "
            "a larger --accumulate"
        ) from error


def check_shared(marker: str) -> None:
    """Find out before the first step that what is written here would be lost.

    Raises:
        SettingsError: the file is on another machine's disk.
    """
    if not storage.exists(marker):
        folder = marker.rpartition("/")[0]
        raise SettingsError(
            f"setting output: {folder} is not the same folder on all machines of the cluster; give "
            "a shared one, or the URI of an object store"
        )


def _train(job: TrainJob, mailbox: Any) -> None:
    settings, spec = job.settings, job.spec
    is_first = ray.train.get_context().get_world_rank() == 0
    if is_first:
        check_shared(job.marker)
    torch.set_num_threads(job.threads)
    torch.manual_seed(settings.seed)
    device = pick_device()
    if device.type == "cuda":
        # The optimiser's own matrices: of the ten bits that TF32 keeps it needs fewer.
        torch.backends.cuda.matmul.allow_tf32 = True
    method = build_method(spec.method, spec.classes)
    network = build_network(spec)
    if job.pretrained:
        begin_with(network, method, job.pretrained)
    source = CropSource(
        job.streams.get("train")
        or CachedSamples(_samples("train"), spec.channels, settings.normalize, spec.zoom),
        method,
        channels=spec.channels,
        crop=settings.crop,
        augment=settings.augment,
        sampling=settings.sampling,
        seed=settings.seed,
        device=device,
        weights=job.crop_weights,
    )
    validation = job.streams.get("val") or _samples("val")
    at_the_end = _PUBLISHING if _changes_at_the_end(method, settings) else _SAVING
    tuned_on = len(images_to_tune_on(method, _sizes(validation))) / len(validation)
    uploads = Uploads(job.run_uri, lambda text: deliver(mailbox, Notice(text)))
    training = Training(
        network,
        method,
        source,
        validation,
        settings,
        device=device,
        dtype=pick_dtype(settings.precision, device),
        started=job.started,
        # All workers keep the same statistics: there is nothing to send before each step.
        wrap=partial(prepare_model, parallel_strategy_kwargs={"broadcast_buffers": False}),
        on_step=StepReporter(mailbox) if is_first else lambda report: False,
        snapshot=_snapshot_to_resume(job),
        can_save=lambda: not uploads.busy,
        end_validations=1 + at_the_end,
        end_decodings=decodings(method) * tuned_on / job.threads,
    )
    if is_first and ray.train.get_checkpoint() is not None:
        deliver(mailbox, Notice(_replaced(training.state.progress)))
    for event in training.run():
        if isinstance(event, SaveDue):
            bundle = _finish(training, spec) if training.state.finished else None
            content = _content(training.snapshot(), bundle) if is_first else None
            uploads.report(training.state.progress, content, last=event.last)
        elif is_first:
            deliver(mailbox, event)


@dataclass(frozen=True)
class _Finished:
    """The best network, with what its validation says once its thresholds are tuned."""

    spec: BundleSpec
    network: UNet
    validation: Validation


def _finish(training: Training, spec: BundleSpec) -> _Finished | None:
    """Tune the decoding of the best weights; all workers take part. None if none were validated."""
    if not training.best:
        return None
    network = build_network(spec)
    network.load_state_dict(training.best)
    if training.settings.bundle_weights == "bfloat16":
        round_weights(network)
    if not _changes_at_the_end(training.method, training.settings):
        assert training.state.best_validation
        return _finished(spec, spec.method, network, training.state.best_validation)
    predictor, samples = training.predictor(network), training.validation
    (share,) = from_first([training.end_share])
    chosen = images_to_tune_on(training.decoder, _sizes(samples), share)
    seen = look(predictor, samples, chosen)
    tuned = tune_decoding(training.decoder, seen, training.settings.method.model_fields_set)
    decoder = build_method(tuned, spec.classes)
    validation = validate(predictor, decoder, samples, seen=seen).validation
    return _finished(spec, spec.method.with_learned(tuned), network, validation)


def _finished(
    spec: BundleSpec, method: MethodSettings, network: UNet, validation: Validation
) -> _Finished:
    said = {"metrics": validation.metrics, "counts": validation.figures.counts}
    return _Finished(spec.model_copy(update={"method": method, **said}), network, validation)


def _changes_at_the_end(method: Method, settings: ConfiguredSettings) -> bool:
    """Whether a bundle is measured once more, since it is not just what was validated."""
    return settings.bundle_weights != "float32" or decodings(method) > 0


def _content(snapshot: Snapshot, finished: _Finished | None) -> Content:
    """What a checkpoint holds; the last one of a finished training has the bundle beside it."""

    def write(uri: str) -> None:
        if finished:
            save_bundle(finished.spec, finished.network, storage.join(uri, BUNDLE))
            save_validation(finished.validation, storage.join(uri, BUNDLE))
        save_snapshot(snapshot, uri)

    return write


def _replaced(progress: float) -> str:
    return f"workers were lost or added; the training goes on from its checkpoint at {progress:.0%}"


def _snapshot_to_resume(job: TrainJob) -> Snapshot | None:
    """The newest snapshot of this run, or the one that the run goes on from."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        return load_whole_snapshot(uri_of(checkpoint, job.run_uri))
    return load_whole_snapshot(job.resume_from) if job.resume_from else None


def _samples(split: str) -> Sequence[Sample]:
    """All samples of a split, in the order of names; views into the object store."""
    batches = ray.train.get_dataset_shard(split).iter_batches(
        batch_size=None, batch_format="pyarrow"
    )
    return sorted(
        (sample for table in batches for sample in from_table(table)), key=lambda s: s.name
    )


def _sizes(samples: Sequence[Sample]) -> Sequence[tuple[int, ...]]:
    """Height and width of each; those that are read again and again are not read for it."""
    if isinstance(samples, Some):
        sizes = _sizes(samples.samples)
        return [sizes[number] for number in samples.numbers]
    if isinstance(samples, StreamedSamples):
        return samples.shapes
    return [sample.label.semantic.shape for sample in samples]
