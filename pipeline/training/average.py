"""The moving average of a network's weights, which generalises better than the last of them.

As in Polyak and Juditsky 1992, with the warm-up of TensorFlow's ExponentialMovingAverage: the
decay of step t is at most (1 + t) / (10 + t), so that the random start is soon forgotten.
"""

import copy

import torch

from pipeline.models.unet import UNet


class WeightAverage:
    """Follows a network, its batch-normalisation statistics included.

    Both networks stay where they are in memory: their tensors may change, but not be replaced.

    Attributes:
        network: has the averaged weights; it is the network itself where `decay` is 0.
    """

    def __init__(self, network: UNet, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network) if decay else network
        mine, theirs = self.network.state_dict(), network.state_dict()
        names = [name for name, tensor in theirs.items() if tensor.is_floating_point()]
        self._averages, self._values = [mine[n] for n in names], [theirs[n] for n in names]
        self._counts = [(mine[n], theirs[n]) for n in theirs if n not in names]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 1."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)
        for count, value in self._counts:
            count.copy_(value)
