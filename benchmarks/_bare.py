"""A training step of a bare PyTorch loop, which the training's own is held against."""

import torch
from torch import nn

from pipeline.methods.base import Method
from pipeline.training.crops import Batch


def bare_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    method: Method,
    batch: Batch,
    dtype: torch.dtype,
) -> None:
    """On a batch that is on the network's device; over when the loss is known here."""
    device = batch.images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16):
        outputs = network(batch.images)
    loss = method.loss(outputs, batch.targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    float(loss.detach())
