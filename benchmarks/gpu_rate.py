"""Images a second on one GPU: of a bare loop, of the crops alone, and of the training's own loop.

    python -m benchmarks.gpu_rate [--data ANNOTATED] [--width 32] [--crop 256] [--batch-size 64]

The bare loop has its batches in the GPU's memory, made beforehand, and runs the same network,
batch, loss, precision and optimiser, order by order. The share of the GPU's bf16 peak counts the
floating-point operations of the network alone; the peak is that of a product of two matrices of
8192 by 8192, measured here.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._bare import bare_step
from pipeline.config import ConfiguredSettings
from pipeline.labels import open_data, read_sample
from pipeline.methods import build_method
from pipeline.models.unet import UNet
from pipeline.predicting.engine import device_name
from pipeline.synthetic import write_annotated
from pipeline.training.crops import Batch, CropSource
from pipeline.training.loop import Training
from pipeline.training.optimizer import build_optimizer
from pipeline.training.prefetch import prefetch
from pipeline.training.recorded import Recorded
from pipeline.training.samples import CachedSamples

_GPU = torch.device("cuda")
_IN_MEMORY = 8  # batches of the bare loop, each in turn
_STEPS, _WARM_UP = 60, 10


def seconds_each(work: Callable[[], object], times: int) -> float:
    """Once the GPU is done with all of it."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(times):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / times


def peak_flops() -> float:
    """Floating-point operations a second of a large bf16 product."""
    side = 8192
    a, b = (torch.randn(side, side, device=_GPU, dtype=torch.bfloat16) for _ in range(2))
    seconds_each(lambda: a @ b, 5)
    return 2 * side**3 / seconds_each(lambda: a @ b, 30)


def loop_seconds(
    settings: ConfiguredSettings, source: CropSource, batches: list[Batch], *, recorded: bool
) -> tuple[float, float]:
    """Of a step of the bare loop; and the operations of its network, there and back."""
    torch.manual_seed(0)
    method = source.method
    plain = UNet(settings.network, source.channels, method.heads).to(_GPU)
    plain = plain.to(memory_format=torch.channels_last)
    shape = (settings.batch_size, source.channels, settings.crop, settings.crop)
    network = Recorded(plain, shape, torch.bfloat16) if recorded else plain
    optimizer = build_optimizer(network, settings.optimizer)
    turns = cycle(batches)

    def step() -> None:
        bare_step(network, optimizer, method, next(turns), torch.bfloat16)

    seconds_each(step, _WARM_UP)
    found = seconds_each(step, _STEPS)
    with FlopCounterMode(display=False) as counter, torch.autocast("cuda", torch.bfloat16):
        sum(out.float().sum() for out in plain(batches[0].images).values()).backward()
    return found, counter.get_total_flops()


def crops_seconds(settings: ConfiguredSettings, source: CropSource) -> float:
    """Of making a batch, with nothing else to do."""
    batches = source.batches(1, _STEPS + _WARM_UP, settings.batch_size, 0, 1)
    ready = prefetch(batches, device=_GPU)
    list(islice(ready, _WARM_UP))
    return seconds_each(lambda: next(ready), _STEPS)


def training_seconds(settings: ConfiguredSettings, source: CropSource) -> float:
    """Of a step of the training's loop, without its validation."""
    times: list[float] = []

    def on_step(_: object) -> bool:
        times.append(time.perf_counter())
        return len(times) > _STEPS + _WARM_UP

    network = UNet(settings.network, source.channels, source.method.heads)
    training = Training(
        network, source.method, source, [], settings, device=_GPU, dtype=torch.bfloat16,
        started=time.time(), on_step=on_step,
    )  # fmt: skip
    training.steps = 10 * _STEPS
    for _ in training.run():
        pass
    return (times[-1] - times[_WARM_UP]) / (len(times) - 1 - _WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="annotated images; synthetic ones by default")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--full-resolution", default="full")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    with tempfile.TemporaryDirectory() as folder:
        uri = given.data or f"{folder}/annotated"
        if given.data is None:
            write_annotated(uri, [(360, 360)] * 40, ["train"] * 36 + ["val"] * 4, seed=0)
        data = open_data(uri, val_fraction=0.15)
        samples = [read_sample(image, data.classes, data.void) for image in data.split("train")]
    settings = ConfiguredSettings(
        data=uri, output="unused", crop=given.crop, batch_size=given.batch_size, channels=3,
        zoom=1,
        network={"depth": given.depth, "width": given.width,
                 "full_resolution": given.full_resolution},
        method={"name": "instance", "reach": 64}, normalize={"kind": "percentile"},
    )  # fmt: skip
    source = CropSource(
        CachedSamples(samples, 3, settings.normalize),
        build_method(settings.method, data.classes),
        channels=3, crop=settings.crop, augment=settings.augment, sampling=settings.sampling,
        seed=0, device=_GPU,
    )  # fmt: skip
    print(device_name(_GPU, torch.bfloat16), f"torch {torch.__version__}", flush=True)
    peak, pixels = peak_flops(), settings.batch_size * settings.crop**2

    def say(what: str, seconds: float, flops: float = 0.0) -> None:
        share = f", {flops / seconds / peak:.1%} of the bf16 peak" if flops else ""
        rate = f"{settings.batch_size / seconds:,.0f} crops/s, {pixels / seconds / 1e6:.1f} Mpx/s"
        print(f"{what:34} {seconds * 1e3:6.1f} ms a step, {rate}{share}", flush=True)

    print(f"bf16 peak {peak / 1e12:.0f} TFLOP/s", flush=True)
    batches = list(source.batches(1, _IN_MEMORY, settings.batch_size, 0, 1))
    loop, flops = loop_seconds(settings, source, batches, recorded=False)
    say("bare loop", loop, flops)
    say("bare loop, recorded", loop_seconds(settings, source, batches, recorded=True)[0], flops)
    say("crops alone", crops_seconds(settings, source))
    trained = training_seconds(settings, source)
    say("training", trained, flops)
    print(f"training to bare loop {loop / trained:.2f}", flush=True)


if __name__ == "__main__":
    main()
