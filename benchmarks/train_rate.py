"""Crops a second of a training job against a bare loop's, and of two workers against one.

    python -m benchmarks.train_rate [--data ANNOTATED] [--minutes 1] [--crop 128] [--batch-size 4]

The bare loop has its batches in memory, made beforehand, and runs the same network, batch, loss,
precision and optimiser with all cores. The job makes its crops, averages its weights, reports and
saves as it always does; its rate is that of its steps, between the first epoch's end and the last,
without validation. Two workers have one thread each where one worker has two.
"""

import argparse
import tempfile
import time
from itertools import cycle, islice

import torch

from benchmarks._bare import bare_step
from pipeline.config import MethodSettings, NetworkSettings, NormalizeSettings, TrainSettings
from pipeline.distributed.session import ray_session
from pipeline.distributed.train import train_bundle
from pipeline.labels import open_data, read_sample
from pipeline.methods import build_method
from pipeline.models.unet import UNet
from pipeline.predicting.engine import pick_device, pick_dtype
from pipeline.synthetic import write_annotated
from pipeline.training.crops import CropSource
from pipeline.training.optimizer import build_optimizer
from pipeline.training.reports import EpochReport
from pipeline.training.samples import CachedSamples

_IN_MEMORY = 8  # batches of the bare loop, each in turn
_WARM_UP = 3  # steps


def run_loop(settings: TrainSettings) -> float:
    """Megapixels a second of a bare loop in one process."""
    torch.manual_seed(0)
    device = pick_device()
    data = open_data(settings.data, val_fraction=settings.val_fraction)
    samples = [read_sample(image, data.classes, data.void) for image in data.split("train")]
    channels = settings.channels
    method = build_method(settings.method, data.classes)
    source = CropSource(
        CachedSamples(samples, channels, settings.normalize),
        method,
        channels=channels,
        crop=settings.crop,
        augment=settings.augment,
        sampling=settings.sampling,
        seed=settings.seed,
        device=device,
    )
    batches = list(source.batches(1, _IN_MEMORY, settings.batch_size, 0, 1))
    dtype = pick_dtype(settings.precision, device)
    network = UNet(settings.network, channels, method.heads).to(device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, settings.optimizer)
    assert settings.max_minutes is not None
    steps, started = 0, time.perf_counter()
    for batch in islice(cycle(batches), 1_000_000):
        if steps == _WARM_UP:
            started = time.perf_counter()
        bare_step(network, optimizer, method, batch, dtype)
        steps += 1
        if time.perf_counter() - started > settings.max_minutes * 60 and steps > _WARM_UP:
            break
    seconds = time.perf_counter() - started
    return (steps - _WARM_UP) * settings.batch_size * settings.crop**2 / seconds / 1e6


def run_job(settings: TrainSettings) -> float:
    """Megapixels a second of the job's steps, over all workers, from the second epoch on."""
    reports: list[EpochReport] = []
    train_bundle(
        settings, lambda report: reports.append(report) if isinstance(report, EpochReport) else None
    )
    late = reports[1:] or reports
    pixels = sum(report.pixels_per_second * report.seconds for report in late)
    return pixels / sum(report.seconds for report in late) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="annotated images; synthetic ones by default")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ray_session():
        data = given.data
        if data is None:
            data = f"{folder}/annotated"
            write_annotated(data, [(256, 256)] * 20, ["train"] * 18 + ["val"] * 2, seed=0)
        for n in range(given.rounds):

            def settings(workers: int, n: int = n) -> TrainSettings:
                return TrainSettings(
                    data=data,
                    output=f"{folder}/{n}-{workers}",
                    max_minutes=given.minutes,
                    crop=given.crop,
                    batch_size=given.batch_size,
                    channels=3,
                    method=MethodSettings(name="instance", reach=64),
                    network=NetworkSettings(depth=4, width=16, full_resolution="light"),
                    normalize=NormalizeSettings(kind="percentile"),
                    workers=workers,
                )

            loop = run_loop(settings(1))
            one, two = run_job(settings(1)), run_job(settings(2))
            print(
                f"bare loop {loop:.2f} Mpx/s ({torch.get_num_threads()} threads), "
                f"job {one:.2f}, ratio {one / loop:.2f}; two workers {two:.2f}, "
                f"ratio to one {two / one:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
