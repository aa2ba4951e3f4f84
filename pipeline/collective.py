"""What the processes that train together compute as one: sums that gradients flow through, and
work that is shared out.

Every function here is called by all workers or by none, in the same order; alone, none sends
anything. The tensors that are summed have the same shape in every worker.

How gradients come out right: DDP averages the workers' gradients. A loss that is made of sums over
all workers has the same value in each, and `sum_over_workers` hands back the sum of the gradients
that all of them have for it, ``world`` times its own; so each worker computes its share of
``world`` times the gradient, and the average of the shares' sum is the gradient of one process that
has the whole batch. A loss needs no factor of its own: sum numerators and denominators over the
workers, then divide.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's place among the processes that train, and how many they are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def is_alone() -> bool:
    """Whether one process has the whole batch."""
    return rank_and_world()[1] == 1


def sum_over_workers(values: Tensor) -> Tensor:
    """The sum of all workers' tensors, in each of them; gradients are summed on their way back.

    All workers compute the same from the sum. One call costs one message to each worker, forward;
    the way back none, as all of them know each other's gradients: stack what is to be summed.
    """
    if is_alone():
        return values
    summed: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return summed


class _Sum(torch.autograd.Function):
    """All-reduce, whose adjoint is an all-reduce too: of gradients that are alike."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        summed = values.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * rank_and_world()[1]


def share_out(
    inputs: Sequence[Tensor],
    compute: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    costs: Sequence[float],
) -> list[Tensor]:
    """`compute` of all tensors, each by one worker for all of them; it keeps their shapes.

    The inputs are the same in all workers. No gradients flow through.

    Args:
        costs: how long each takes, in any unit, by which the work is shared out evenly.
    """
    rank, world = rank_and_world()
    if world == 1:
        return list(compute(inputs))
    owners = _owners(costs, world)
    outputs = [torch.empty_like(one) for one in inputs]
    mine = [number for number, owner in enumerate(owners) if owner == rank]
    for number, found in zip(mine, compute([inputs[n] for n in mine]), strict=True):
        outputs[number] = found
    for sender in range(world):
        parts = [one for one, owner in zip(outputs, owners, strict=True) if owner == sender]
        if not parts:
            continue
        message = torch.cat([part.flatten() for part in parts])
        dist.broadcast(message, src=sender)
        received = torch.split(message, [part.numel() for part in parts])
        for part, values in zip(parts, received, strict=True):
            part.copy_(values.view_as(part))
    return outputs


def _owners(costs: Sequence[float], world: int) -> list[int]:
    """Who computes what: the dearest first, each to whoever has least to do."""
    busy = [0.0] * world
    owners = [0] * len(costs)
    for place in sorted(range(len(costs)), key=lambda i: -costs[i]):
        owners[place] = min(range(world), key=lambda worker: busy[worker])
        busy[owners[place]] += costs[place]
    return owners


class _GlobalBatchNorm(torch.autograd.Function):
    """Batch normalisation by the mean and variance of all workers' pixels.

    The passes over the pixels are PyTorch's own kernels; only 2 C + 1 numbers are exchanged in
    each direction. Formulas as in Ioffe and Szegedy 2015 (arXiv:1502.03167), section 3.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        # This worker's own, in float32 also where x is bfloat16: of the type of what it may update.
        unused = torch.zeros_like(weight), torch.zeros_like(weight)
        mean, variance = torch.batch_norm_update_stats(x, *unused, 0.0)
        local = mean.double()
        count = local.new_tensor([x.shape[0] * x.shape[2] * x.shape[3]])
        # Sums of squares cancel in float32; in double they are exact enough.
        moments = torch.cat([count, count * local, count * (variance.double() + local.square())])
        dist.all_reduce(moments)
        total = moments[0]
        first, second = (moments[1:] / total).chunk(2)
        mean = first.to(mean.dtype)
        variance = (second - first.square()).clamp_min(0).to(mean.dtype)
        ctx.save_for_backward(x, weight, mean, variance, total)
        ctx.eps = eps
        y = F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.mark_non_differentiable(mean, variance, total)
        return y, mean, variance, total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, total = ctx.saved_tensors
        dy = gradients[0]
        # In evaluation mode PyTorch's kernel gives dy · weight / deviation and the two sums.
        through, scale_sum, shift_sum = torch.ops.aten.native_batch_norm_backward(
            dy, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.cat([scale_sum, shift_sum])
        dist.all_reduce(sums)
        scale_mean, shift_mean = (sums / total.to(sums.dtype)).chunk(2)
        # What is left of the gradient is a normalisation too, with other weights.
        slope = -weight * (variance + ctx.eps).rsqrt()
        scale, shift = slope * scale_mean, slope * shift_mean
        rest = F.batch_norm(x, mean, variance, scale, shift, False, 0.0, ctx.eps)
        return through.add_(rest), scale_sum, shift_sum, None


def global_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalise (B, C, H, W) by the statistics of the batch of all workers, of any shares.

    Returns:
        The normalised tensor, and the mean (C,), the biased variance (C,) and the number of values
        a channel that they were taken from. Gradients flow through the first alone.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _GlobalBatchNorm.apply(  # type: ignore[no-untyped-call]
        x, weight, bias, eps
    )
    return found
