"""The optimiser: Muon for the convolutions inside the network, AdamW for all else.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) takes the momentum of a weight, read
as a matrix of outputs by inputs, and makes all of its singular values alike, so that directions
which the gradients seldom point in are learned as fast as the loud ones. Scaled to the length that
an update of AdamW has (Liu et al. 2025, arXiv:2502.16982), it shares AdamW's learning rate.

`torch.optim.Muon` takes matrices only, and the weights of a convolution are none; and one optimiser
for all parameters is one state to save and one schedule to follow.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import overload

import torch
from torch import Tensor, nn

from pipeline.collective import share_out
from pipeline.config import OptimizerSettings

_MOMENTUM = 0.95
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_LENGTH = 0.2  # root mean square of an update of AdamW, at a learning rate of 1
_ITERATIONS = 5
_QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values to 0.7..1.2, small ones quickly


def build_optimizer(network: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """What the settings name, for a network as it is or wrapped."""
    if settings.kind == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
    inner = {id(weight) for weight in _inner_weights(network)}
    parameters = list(network.parameters())
    return Muon(
        [p for p in parameters if id(p) in inner],
        [p for p in parameters if id(p) not in inner],
        settings.learning_rate,
        settings.weight_decay,
    )


def _inner_weights(network: nn.Module) -> list[Tensor]:
    """Of the convolutions with something to learn on both sides: not the first, not the heads."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    convolutions = [module for module in network.modules() if isinstance(module, kinds)]
    return [c.weight for c in convolutions[1:] if c.kernel_size != (1, 1)]


class Muon(torch.optim.Optimizer):
    """Two groups of parameters: `matrices` by Muon, the others by AdamW."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        weight_decay: float,
    ) -> None:
        groups = [
            {"params": list(matrices), "is_matrix": True},
            {"params": list(others), "is_matrix": False},
        ]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Move all parameters that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            changes = self._matrix_changes if group["is_matrix"] else self._plain_changes
            moved = changes(weights)
            torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(weights, moved, alpha=-group["lr"])
        return None

    def _matrix_changes(self, weights: list[Tensor]) -> list[Tensor]:
        """Momentum as of Nesterov, all of whose directions are alike."""
        momenta, gradients = self._kept("momentum", weights), _gradients(weights)
        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, _MOMENTUM)
        matrices = [one.flatten(1) for one in ahead]
        found = share_out(matrices, orthogonal, [_cost(matrix) for matrix in matrices])
        torch._foreach_mul_(found, [_LENGTH * math.sqrt(max(one.shape)) for one in found])
        return [one.view(weight.shape) for one, weight in zip(found, weights, strict=True)]

    def _plain_changes(self, weights: list[Tensor]) -> list[Tensor]:
        """AdamW's."""
        means, squares = self._kept("mean", weights), self._kept("square", weights)
        gradients = _gradients(weights)
        for weight in weights:
            self.state[weight].setdefault("step", torch.zeros(())).add_(1)
        steps = [float(self.state[weight]["step"]) for weight in weights]
        torch._foreach_lerp_(means, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(squares, _BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - _BETAS[1])
        spreads = torch._foreach_div(squares, [1 - _BETAS[1] ** step for step in steps])
        torch._foreach_sqrt_(spreads)
        torch._foreach_add_(spreads, _EPSILON)
        changes = torch._foreach_div(means, [1 - _BETAS[0] ** step for step in steps])
        torch._foreach_div_(changes, spreads)
        return list(changes)

    def _kept(self, name: str, weights: list[Tensor]) -> list[Tensor]:
        """What is remembered of each weight between steps, zeros at first."""
        for weight in weights:
            if name not in self.state[weight]:
                self.state[weight][name] = torch.zeros_like(weight)
        return [self.state[weight][name] for weight in weights]


def _gradients(weights: list[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def orthogonal(matrices: Sequence[Tensor]) -> list[Tensor]:
    """(M, N) each → the same directions with all singular values near 1, by Newton and Schulz.

    Each iteration multiplies by a polynomial of the small matrix of inner products, which the
    polynomial changes in turn: the large matrix is needed at the beginning and at the end only.
    Small matrices of one size go through the iterations together.
    """
    if not matrices:
        return []
    wide = [one.mT if one.shape[0] > one.shape[1] else one for one in matrices]
    lengths = list(torch._foreach_clamp_min(torch._foreach_norm(wide), 1e-7))
    wide = list(torch._foreach_div(wide, lengths))
    found: list[Tensor] = [torch.empty(0)] * len(wide)
    for side in {len(one) for one in wide}:
        alike = [number for number, one in enumerate(wide) if len(one) == side]
        whole = _polynomial(torch.stack([wide[n] @ wide[n].mT for n in alike]))
        for number, factor in zip(alike, whole, strict=True):
            turned = matrices[number].shape[0] > side
            found[number] = (factor @ wide[number]).mT if turned else factor @ wide[number]
    return found


def _polynomial(inner: Tensor) -> Tensor:
    """(B, M, M) inner products of matrices → what makes these orthogonal, to multiply them by."""
    one = torch.eye(inner.shape[-1], device=inner.device, dtype=inner.dtype)
    a, b, c = _QUINTIC
    whole = factor = torch.baddbmm(a * one + b * inner, inner, inner, alpha=c)
    for _ in range(_ITERATIONS - 1):
        inner = factor @ inner @ factor
        factor = torch.baddbmm(a * one + b * inner, inner, inner, alpha=c)
        whole = factor @ whole
    return whole


def _cost(matrix: Tensor) -> float:
    """Multiplications that `orthogonal` takes, roughly."""
    short, long = sorted(matrix.shape)
    return short * short * (2 * long + 4 * _ITERATIONS * short)
