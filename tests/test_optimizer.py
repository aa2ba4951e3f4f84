"""Muon: its updates have no loud directions, and networks learn by them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.config import NetworkSettings, OptimizerSettings
from pipeline.models.unet import UNet
from pipeline.training.optimizer import Muon, build_optimizer, orthogonal


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (30, 30)])
def test_all_directions_of_an_update_are_alike(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    loud = torch.randn(shape[0], 1) @ torch.randn(1, shape[1])
    (matrix,) = orthogonal([torch.randn(shape) + 30 * loud])
    values = torch.linalg.svdvals(matrix)
    assert matrix.shape == shape
    assert values.max() < 1.3
    assert values.median() > 0.6


def test_directions_a_million_times_quieter_do_not_blow_up() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(64, 300) * torch.logspace(0, -6, 300)
    values = torch.linalg.svdvals(*orthogonal([matrix]))
    assert values.max() < 1.3
    assert values.min() > 0.3


def test_a_gradient_of_zero_changes_nothing() -> None:
    assert not orthogonal([torch.zeros(8, 20)])[0].any()


def test_the_first_convolution_and_the_heads_are_left_to_adamw() -> None:
    network = UNet(NetworkSettings(depth=2, width=8, full_resolution="light"), 3, {"semantic": 4})
    optimizer = build_optimizer(network, OptimizerSettings(kind="muon"))
    assert isinstance(optimizer, Muon)
    matrices, others = ({id(p) for p in group["params"]} for group in optimizer.param_groups)
    first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    assert id(first.weight) in others
    assert id(network.heads["semantic"].weight) in others
    assert all(p.dim() == 4 for p in optimizer.param_groups[0]["params"])
    assert matrices | others == {id(p) for p in network.parameters()}


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_network_learns_by_either(kind: str) -> None:
    """Whether most of a pixel's neighbourhood is bright."""
    torch.manual_seed(0)
    network = UNet(NetworkSettings(depth=2, width=8), 1, {"semantic": 2})
    optimizer = build_optimizer(network, OptimizerSettings(kind=kind))
    images = torch.rand(8, 1, 32, 32).round()
    truth = (F.avg_pool2d(images, 5, 1, 2) > 0.5).long()[:, 0]
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images)["semantic"], truth)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
