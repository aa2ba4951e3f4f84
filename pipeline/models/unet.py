"""U-Net (Ronneberger et al. 2015, arXiv:1505.04597): encoder, decoder, skip connections, heads.

With a *light* full resolution, where half of the time goes otherwise, the encoder begins at half
of it, and the last block of the decoder joins the image itself.

Legend: B batch, C channels, H W any size from 1, K channels of a head.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import NetworkSettings
from pipeline.models.blocks import ConvBlock, StandardConv, StemBlock, UpBlock
from pipeline.models.context import network_context


class UNet(nn.Module):
    """A fully convolutional U-Net with one 1x1 convolution a head.

    Args:
        settings: depth, width and normalisation layer.
        channels: C of the input.
        heads: name → K of each output.
    """

    def __init__(self, settings: NetworkSettings, channels: int, heads: Mapping[str, int]) -> None:
        super().__init__()
        widths = settings.widths()
        depth = len(widths) - 1
        self.stride = 2**depth
        self.context = network_context(depth)
        self.light = settings.full_resolution == "light"
        inside = widths[1:] if self.light else widths
        stem = (
            StemBlock(channels, inside[0], settings.norm)
            if self.light
            else ConvBlock(channels, inside[0], settings.norm, first=True)
        )
        self.encoder = nn.ModuleList([stem])
        self.encoder.extend(
            ConvBlock(inputs, outputs, settings.norm) for inputs, outputs in pairwise(inside)
        )
        self.pool = nn.MaxPool2d(2)
        skips = [channels, *inside] if self.light else widths
        self.decoder = nn.ModuleList(
            UpBlock(widths[i + 1], skips[i], widths[i], settings.norm, light=self.light and i == 0)
            for i in reversed(range(depth))
        )
        self.heads = nn.ModuleDict(
            {name: nn.Conv2d(widths[0], outputs, 1) for name, outputs in heads.items()}
        )
        if settings.norm in ("weight", "none"):
            _keep_variance(self)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, H, W) → head → (B, K, H, W) logits, of the input's H and W."""
        height, width = x.shape[-2:]
        x = _pad_to_multiple(x, self.stride)
        skips: list[Tensor] = [x] if self.light else []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else self.pool(x))
            skips.append(x)
        skips.pop()
        for block in self.decoder:
            x = block(x, skips.pop())
        return {name: y[..., :height, :width] for name, y in self._look_by_heads(x).items()}

    def _look_by_heads(self, x: Tensor) -> dict[str, Tensor]:
        """All heads in one convolution: a pass over the pixels costs more than what it computes."""
        heads = list(self.heads.values())
        weight, bias = (torch.cat([getattr(h, p) for h in heads]) for p in ("weight", "bias"))
        sizes = [len(h.weight) for h in heads]  # type: ignore[arg-type]
        outputs = torch.split(F.conv2d(x, weight, bias), sizes, dim=1)
        return dict(zip(self.heads, outputs, strict=True))


def _keep_variance(network: nn.Module) -> None:
    """Random weights by which values neither fade nor grow on their way (He et al. 2015,
    arXiv:1502.01852), where no layer normalises them."""
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.ConvTranspose2d) or module.kernel_size == (1, 1):
            continue
        rectified = not isinstance(module, nn.ConvTranspose2d)
        inputs = module.in_channels * (module.weight[0, 0].numel() if rectified else 1)
        # The length of a filter that is standardised says nothing but how fast it turns.
        gain = 2 if rectified and not isinstance(module, StandardConv) else 1
        nn.init.normal_(module.weight, std=(gain / inputs) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _pad_to_multiple(x: Tensor, stride: int) -> Tensor:
    height, width = x.shape[-2:]
    bottom, right = -height % stride, -width % stride
    if bottom == 0 and right == 0:
        return x
    # The border's own value: zeros would look like an edge, and reflection needs 2 pixels.
    return F.pad(x, (0, right, 0, bottom), mode="replicate")
