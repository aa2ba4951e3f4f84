"""A network's forward and backward pass as one order to the GPU each, instead of hundreds.

A processor takes longer to order the small steps of a U-Net, one by one, than a GPU to carry them
out. What CUDA has recorded once (a CUDA graph) it repeats at one order, on tensors of one shape.
"""

import warnings

import torch
from torch import Tensor, nn

_WARM_UP = 3  # passes before the recording, in which the fastest convolutions are looked for


class Recorded(nn.Module):
    """A network that trains as it was recorded; the network itself stays as it is.

    Its weights may change in place, and must not be replaced. Gradients are written to the same
    memory by each backward pass: they can't be summed over several.

    Args:
        network: on a GPU.
        shape: (B, C, H, W) of every batch that it will see.
        dtype: that its convolutions compute in.
    """

    def __init__(
        self, network: nn.Module, shape: tuple[int, int, int, int], dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.network = network.train()
        device = next(network.parameters()).device
        sample = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last)
        kept = [buffer.clone() for buffer in network.buffers()]
        # The casts of weights are part of the recording: copies that autocast keeps would grow old.
        with (
            torch.backends.cudnn.flags(enabled=True, benchmark=True),
            torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False),
        ):
            torch.cuda.make_graphed_callables(self, (sample,), num_warmup_iters=_WARM_UP)
        for buffer, before in zip(network.buffers(), kept, strict=True):
            buffer.copy_(before)  # the statistics of a batch normalisation, which has seen zeros
        torch.cuda.empty_cache()  # the search for fast convolutions tries some that take gigabytes
        # It was recorded in a stream of its own, which has nothing to do with those that it is
        # repeated in.
        warnings.filterwarnings("ignore", "The AccumulateGrad node's stream does not match")

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.network(images)
        return outputs
