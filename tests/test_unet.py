"""The network: any size in, the same size out, and no farther sight than it says."""

import math
from typing import Literal

import pytest
import torch

from pipeline.config import NetworkSettings
from pipeline.models.blocks import StandardConv
from pipeline.models.context import network_context
from pipeline.models.unet import UNet

SIZES = [(1, 1), (1, 7), (5, 1), (15, 16), (16, 16), (17, 33), (31, 64), (63, 65), (100, 37)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_output_has_the_inputs_size(size: tuple[int, int], channels: int) -> None:
    network = UNet(NetworkSettings(depth=4, width=4), channels, {"semantic": 3, "seed": 1}).eval()
    with torch.inference_mode():
        outputs = network(torch.rand(2, channels, *size))
    assert {name: tuple(t.shape) for name, t in outputs.items()} == {
        "semantic": (2, 3, *size),
        "seed": (2, 1, *size),
    }
    assert all(torch.isfinite(t).all() for t in outputs.values())


@pytest.mark.parametrize("norm", ["weight", "batch", "group", "instance", "none"])
def test_every_norm_trains(norm: str) -> None:
    network = UNet(NetworkSettings(depth=2, width=6, norm=norm), 1, {"semantic": 2})
    network(torch.rand(2, 1, 20, 20))["semantic"].square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("full_resolution", ["full", "light"])
def test_values_neither_fade_nor_grow_where_filters_are_standardised(
    full_resolution: Literal["full", "light"],
) -> None:
    torch.manual_seed(0)
    shape = NetworkSettings(depth=5, width=8, full_resolution=full_resolution, norm="weight")
    network = UNet(shape, 3, {"out": 2})
    deviations: list[float] = []
    for module in network.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(lambda m, i, out: deviations.append(float(out.std())))
    with torch.no_grad():
        network(torch.rand(2, 3, 128, 128))
    assert len(deviations) > 15
    assert 0.1 < min(deviations) <= max(deviations) < 3


def test_a_standardised_filter_has_mean_0_and_the_length_that_its_gain_says() -> None:
    torch.manual_seed(0)
    conv = StandardConv(6, 4, kernel=3, stride=1)
    with torch.no_grad():
        conv.weight.mul_(7).add_(3)
        conv.gain.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    filters = conv.standardized().flatten(1)
    assert torch.allclose(filters.mean(1), torch.zeros(4), atol=1e-6)
    # One over the deviation of a rectified normal value, Brock et al. 2021, section 4.
    expected = conv.gain * math.sqrt(2 / (1 - 1 / math.pi))
    assert torch.allclose(filters.norm(dim=1), expected, rtol=1e-4)


def test_each_head_sees_what_it_would_alone() -> None:
    torch.manual_seed(0)
    shape = NetworkSettings(depth=1, width=6, norm="none")
    both = UNet(shape, 1, {"semantic": 3, "offset": 2}).double()
    alone = UNet(shape, 1, {"offset": 2}).double()
    own = {name: both.state_dict()[name] for name in alone.state_dict()}
    alone.load_state_dict(own)
    x = torch.rand(1, 1, 12, 12, dtype=torch.double)
    assert torch.allclose(both(x)["offset"], alone(x)["offset"])


@pytest.mark.parametrize("full_resolution", ["full", "light"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_context_is_as_far_as_the_network_sees_and_no_farther(
    depth: int, full_resolution: Literal["full", "light"]
) -> None:
    torch.manual_seed(0)
    shape = NetworkSettings(depth=depth, width=12, full_resolution=full_resolution)
    network = UNet(shape, 1, {"out": 1}).eval().double()
    context, stride = network_context(depth), 2**depth
    reach = 0
    for offset in range(stride):  # how far depends on where in its coarse pixel an output lies
        side = 2 * context + 4 * stride
        x = torch.rand(1, 1, 1, side, dtype=torch.double, requires_grad=True)
        image = x.expand(1, 1, side, side)
        centre = side // 2 + offset
        network(image)["out"][0, 0, side // 2, centre].backward()
        assert x.grad is not None
        seen = x.grad[0, 0, 0].nonzero().flatten()
        reach = max(reach, int((seen - centre).abs().max()))
    assert context / 2.5 < reach <= context


def test_width_and_depth_set_the_channels() -> None:
    network = UNet(NetworkSettings(depth=3, width=8, max_width=32), 3, {"semantic": 2})
    weights = [m.weight for m in network.encoder.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [w.shape[0] for w in weights[::2]] == [8, 16, 32, 32]
