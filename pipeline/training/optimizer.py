"""The optimiser: Muon for the convolutions inside the network, AdamW for all else.

Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon) takes the momentum of a weight, read
as a matrix of outputs by inputs, and makes all of its singular values alike, so that directions
which the gradients seldom point in are learned as fast as the loud ones. Scaled to the length that
an update of AdamW has (Liu et al. 2025, arXiv:2502.16982), it shares AdamW's learning rate.

`torch.optim.Muon` takes matrices only, and the weights of a convolution are none; and one optimiser
for all parameters is one state to save and one schedule to follow.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, overload

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
            changes = self._matrix_changes if group["is_matrix"] else self._plain_changes
            for weight, change in zip(weights, changes(weights), strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(change, alpha=-group["lr"])
        return None

    def _matrix_changes(self, weights: list[Tensor]) -> list[Tensor]:
        ahead = [self._look_ahead(weight, self.state[weight]).flatten(1) for weight in weights]
        matrices = share_out(ahead, orthogonal, [_cost(matrix) for matrix in ahead])
        return [
            matrix.view(weight.shape) * (_LENGTH * math.sqrt(max(matrix.shape)))
            for weight, matrix in zip(weights, matrices, strict=True)
        ]

    def _look_ahead(self, weight: Tensor, state: dict[str, Any]) -> Tensor:
        """Nesterov's momentum."""
        momentum = state.setdefault("momentum", torch.zeros_like(weight))
        momentum.lerp_(weight.grad, 1 - _MOMENTUM)
        ahead: Tensor = weight.grad.lerp(momentum, _MOMENTUM)  # type: ignore[union-attr]
        return ahead

    def _plain_changes(self, weights: list[Tensor]) -> list[Tensor]:
        return [self._plain_change(weight, self.state[weight]) for weight in weights]

    def _plain_change(self, weight: Tensor, state: dict[str, Any]) -> Tensor:
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] += 1
        step = float(state["step"])
        state["mean"].lerp_(weight.grad, 1 - _BETAS[0])
        state["square"].mul_(_BETAS[1]).addcmul_(weight.grad, weight.grad, value=1 - _BETAS[1])
        spread = (state["square"] / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
        change: Tensor = state["mean"] / (1 - _BETAS[0] ** step) / spread
        return change


def orthogonal(matrix: Tensor) -> Tensor:
    """(M, N) → the same directions with all singular values near 1, by Newton and Schulz.

    Each iteration multiplies by a polynomial of the small matrix of inner products, which the
    polynomial changes in turn: the large matrix is needed at the beginning and at the end only.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp_min(1e-7)
    inner = x @ x.mT
    one = torch.eye(len(inner), device=x.device, dtype=x.dtype)
    a, b, c = _QUINTIC
    whole = factor = a * one + b * inner + c * inner @ inner
    for _ in range(_ITERATIONS - 1):
        inner = factor @ inner @ factor
        factor = a * one + b * inner + c * inner @ inner
        whole = factor @ whole
    found: Tensor = whole @ x
    return found.mT if tall else found


def _cost(matrix: Tensor) -> float:
    """Multiplications that `orthogonal` takes, roughly."""
    short, long = sorted(matrix.shape)
    return short * short * (2 * long + 4 * _ITERATIONS * short)
