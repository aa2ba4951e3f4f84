"""On a GPU: the same targets as on a CPU, and a training that is recorded and still learns."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.config import (
    AugmentSettings,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
    SamplingSettings,
)
from pipeline.config.training import ConfiguredSettings
from pipeline.methods import build_method
from pipeline.models.unet import UNet
from pipeline.records import Sample
from pipeline.synthetic import CLASSES, make_scene
from pipeline.training.crops import CropSource
from pipeline.training.loop import Training
from pipeline.training.prefetch import prefetch
from pipeline.training.recorded import Recorded
from pipeline.training.samples import CachedSamples

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CUDA = torch.device("cuda")
SIDE = 64


def scene(seed: int) -> Sample:
    made = make_scene(150, 170, 20, seed)
    return Sample(f"{seed}.png", made.image, made.label)


def source(device: torch.device, **augment: float) -> CropSource:
    return CropSource(
        CachedSamples([scene(seed) for seed in range(4)], 3, NormalizeSettings()),
        build_method(MethodSettings(name="instance", reach=64), CLASSES),
        channels=3,
        crop=SIDE,
        augment=AugmentSettings(**augment),
        sampling=SamplingSettings(),
        seed=0,
        device=device,
    )


def test_crops_are_those_of_a_cpu() -> None:
    """But for what rounds differently half way between two pixels."""
    here, there = (source(device, noise=0, warp_share=0) for device in (CUDA, torch.device("cpu")))
    for mine, other in zip(
        prefetch(here.batches(1, 4, 8, 0, 1), device=CUDA), there.batches(1, 4, 8, 0, 1),
        strict=True,
    ):  # fmt: skip
        assert torch.allclose(mine.images.cpu(), other.images, atol=1e-3)
        for name, target in mine.targets.items():
            differs = (target.cpu().float() - other.targets[name].float()).abs() > 1e-4
            assert differs.float().mean() < 1e-3, name


def test_batches_stay_as_they_are_while_they_are_used() -> None:
    """Made in one stream and used in another, which is slow: nothing is overwritten too soon."""
    batches = list(source(CUDA).batches(1, 12, 8, 0, 1))
    expected = [float(batch.images.double().sum()) for batch in batches]
    sums, busy = [], torch.randn(2000, 2000, device=CUDA)
    for batch in prefetch(source(CUDA).batches(1, 12, 8, 0, 1), device=CUDA):
        batch.claim()
        for _ in range(20):
            busy = busy @ busy / busy.norm()
        sums.append(batch.images.double().sum())
        del batch
    assert [float(one) for one in sums] == pytest.approx(expected, rel=1e-6)


def networks() -> Iterator[UNet]:
    for _ in range(2):
        torch.manual_seed(0)
        settings = NetworkSettings(depth=3, width=8, full_resolution="full")
        network = UNet(settings, 3, {"semantic": 4, "offset": 2}).to(CUDA)
        yield network.to(memory_format=torch.channels_last)


def test_a_recorded_network_learns_as_it_would() -> None:
    plain, other = networks()
    recorded = Recorded(other, (4, 3, SIDE, SIDE), torch.float32)
    for seed in range(3):
        torch.manual_seed(seed)
        images = torch.rand(4, 3, SIDE, SIDE, device=CUDA)
        for network in (plain, recorded):
            network.zero_grad(set_to_none=True)
            outputs = network(images.contiguous(memory_format=torch.channels_last))
            sum(out.square().mean() for out in outputs.values()).backward()
            with torch.no_grad():
                for weight in network.parameters():
                    weight.sub_(weight.grad, alpha=0.01)
        for mine, theirs in zip(other.parameters(), plain.parameters(), strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-2, atol=1e-3)
    plain.load_state_dict(other.state_dict())
    odd = torch.rand(1, 3, 50, 70, device=CUDA)
    with torch.inference_mode():
        for name, out in other.eval()(odd).items():
            assert torch.equal(out, plain.eval()(odd)[name])


def test_recording_leaves_no_trace_in_the_statistics_of_a_batch() -> None:
    settings = NetworkSettings(depth=2, width=8, full_resolution="full", norm="batch")
    network = UNet(settings, 3, {"semantic": 4}).to(CUDA).to(memory_format=torch.channels_last)
    network(torch.rand(2, 3, SIDE, SIDE, device=CUDA) + 3)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    Recorded(network, (2, 3, SIDE, SIDE), torch.float32)
    assert before
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("norm", ["weight", "batch"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_training_learns_and_goes_on(
    tmp_path: Path, accumulate: int, norm: str, ema: float
) -> None:
    settings = ConfiguredSettings(
        data="unused", output=str(tmp_path), epochs=6, min_steps=20, batch_size=8, crop=SIDE,
        channels=3, zoom=1, accumulate=accumulate, method={"name": "instance", "reach": 64},
        network={"depth": 3, "width": 8, "full_resolution": "full", "norm": norm},
        optimizer={"ema": ema}, record={"tensorboard": False},
    )  # fmt: skip
    losses: list[float] = []

    def train(stop_after: int, snapshot: object = None) -> Training:
        torch.manual_seed(0)
        network = UNet(settings.network, 3, {"semantic": len(CLASSES), "offset": 2})

        def on_step(report) -> bool:
            losses.append(report.loss)
            return len(losses) >= stop_after

        training = Training(
            network, build_method(settings.method, CLASSES), source(CUDA), [scene(9)], settings,
            device=CUDA, dtype=torch.bfloat16, started=time.time(), on_step=on_step,
            snapshot=snapshot,
        )  # fmt: skip
        list(training.run())
        return training

    stopped = train(50)
    assert not stopped.state.finished
    finished = train(10**6, stopped.snapshot())
    assert finished.state.finished
    assert len(losses) == 120
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
