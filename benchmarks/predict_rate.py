"""The job's steady rate against a plain loop's, in one process, in turn.

    python -m benchmarks.predict_rate --data ANNOTATED --model BUNDLE [--images 1590] [--rounds 2]

The loop reads, decodes and normalises a shard's images, runs the same network at the same
precision and batch with all cores, and extracts and measures the objects; it writes nothing. The
job does that and commits every table. Its steady rate is that of what it commits after its first
commit; the first commit itself is told in seconds.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import torch

from benchmarks._collections import link_images
from pipeline import storage
from pipeline.config import PredictSettings
from pipeline.distributed.backfill import Backfill, Progress, Work
from pipeline.distributed.session import ray_session
from pipeline.images.reader import decode_image
from pipeline.methods import build_method
from pipeline.models.weights import load_bundle
from pipeline.predicting.engine import TorchEngine, pick_device, pick_dtype
from pipeline.predicting.objects import measure_objects
from pipeline.predicting.predictor import Predictor


def run_loop(settings: PredictSettings, work: Work) -> float:
    """Megapixels a second of a plain loop, after one shard to warm up."""
    bundle = load_bundle(settings.model)
    method = build_method(bundle.spec.method, bundle.spec.classes)
    device = pick_device()
    engine = TorchEngine(bundle.network, method, device, pick_dtype(settings.precision, device))
    predictor = Predictor(engine, bundle.spec.channels, bundle.spec.normalize, settings.regions)
    cv2.setNumThreads(1)
    pixels, started = 0, 0.0
    for i, shard in enumerate(work.shards):
        if i == 1:
            pixels, started = 0, time.perf_counter()
        images = [
            decode_image(storage.read_bytes(s.uri), s.uri, settings.reader) for s in shard.images
        ]
        maps = predictor.predict([predictor.prepare(image) for image in images])
        for image, planes in zip(images, maps, strict=True):
            found = method.decode(planes)
            measure_objects(found.instances, image, len(found.class_ids))
            pixels += image.shape[0] * image.shape[1]
    return pixels / (time.perf_counter() - started) / 1e6


def run_job(settings: PredictSettings) -> tuple[float, float]:
    """Megapixels a second between the first commit and the last, and seconds to the first."""
    seen: list[Progress] = []
    job = Backfill(settings)
    job.execute(job.plan(), seen.append)
    first, last = seen[1], seen[-1]
    rate = (last.pixels - first.pixels) / (last.seconds - first.seconds) / 1e6
    return rate, first.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", type=int, default=1590)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = link_images(given.data, Path(folder) / "images", given.images)
        for n in range(given.rounds):
            settings = PredictSettings(
                input=str(images),
                model=given.model,
                output=f"{folder}/out{n}",
                images_per_shard=32,
                workers=given.workers,
            )
            loop = run_loop(settings, Backfill(settings).plan())
            with ray_session():
                job, first = run_job(settings)
            print(
                f"loop {loop:.2f} Mpx/s ({torch.get_num_threads()} threads), job {job:.2f} Mpx/s, "
                f"ratio {job / loop:.2f}; first commit {first:.1f} s after Ray had started",
                flush=True,
            )


if __name__ == "__main__":
    main()
