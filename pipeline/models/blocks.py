"""The blocks a U-Net is made of. Tensors are (B, C, H, W)."""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.collective import global_batch_norm, is_alone

_RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))  # one over a rectified normal value's deviation


def make_norm(kind: str, channels: int) -> nn.Module:
    """The normalisation layer that a settings word names."""
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class StandardConv(nn.Conv2d):
    """A convolution whose filters are standardised, instead of what they give.

    Scaled weight standardisation (Qiao et al. 2019, arXiv:1903.10520; Brock et al. 2021,
    arXiv:2101.08692): a filter's weights have mean 0, and a norm that keeps the deviation of
    rectified normal values, times a gain that is learned. So a network is as easy to train as by
    batch normalisation, while each image is seen by itself: nothing is measured over a batch, so
    training and prediction see the same, and workers have nothing to tell each other on the way.

    Attributes:
        gain: (C,) of each output channel.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(inputs, outputs, kernel, stride=stride, padding=1)
        self.gain = nn.Parameter(torch.ones(outputs))

    def standardized(self) -> Tensor:
        """The weights that are used."""
        filters = self.weight.flatten(1)
        scale = self.gain * (_RELU_GAIN / math.sqrt(filters.shape[1]))
        # Channel by channel, which is what batch normalisation does, by its kernel.
        even = F.batch_norm(filters[None], None, None, scale, None, True, eps=1e-8)
        return even.view_as(self.weight)

    @torch.no_grad()
    def shorten(self) -> None:
        """Make filters as long as new ones, which gives the same: length is only inertia.

        Training makes filters longer, and the same step turns a longer one less.
        """
        filters = self.weight.flatten(1)
        even = filters - filters.mean(1, keepdim=True)
        self.weight.copy_(F.normalize(even).view_as(self.weight))

    def plain(self) -> nn.Conv2d:
        """A convolution that gives the same, without computing its weights each time."""
        kernel, stride, padding = self.kernel_size, self.stride, self.padding
        made = nn.Conv2d(self.in_channels, self.out_channels, kernel, stride, padding)  # type: ignore[arg-type]
        made.load_state_dict({"weight": self.standardized().detach(), "bias": self.bias})
        return made

    def forward(self, input: Tensor) -> Tensor:
        seen: Tensor = self._conv_forward(input, self.standardized(), self.bias)
        return seen


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the batch of all workers that train together, on CPU and GPU.

    Alone, and outside training, it is PyTorch's own; so are its weights.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or is_alone():
            return super().forward(input)
        y, mean, variance, count = global_batch_norm(input, self.weight, self.bias, self.eps)
        with torch.no_grad():
            assert self.momentum is not None
            unbiased = variance * (count / (count - 1).clamp_min(1)).to(variance.dtype)
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return y


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each normalised and rectified; keeps H and W.

    Args:
        first: whether it sees the image.
    """

    def __init__(self, inputs: int, outputs: int, norm: str, *, first: bool = False) -> None:
        super().__init__(
            *_layers(inputs, outputs, norm, first=first), *_layers(outputs, outputs, norm)
        )


class StemBlock(nn.Sequential):
    """A 4x4 and a 3x3 convolution, each normalised and rectified; halves H and W."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(
            *_layers(inputs, outputs, norm, kernel=4, stride=2, first=True),
            *_layers(outputs, outputs, norm),
        )


class LightBlock(nn.Sequential):
    """One 3x3 convolution, normalised and rectified; keeps H and W."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(*_layers(inputs, outputs, norm))


class UpBlock(nn.Module):
    """Doubles the resolution, joins the encoder's features of that level, and convolves.

    Args:
        light: with one convolution instead of two.
    """

    def __init__(
        self, inputs: int, skip: int, outputs: int, norm: str, *, light: bool = False
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.conv = (LightBlock if light else ConvBlock)(outputs + skip, outputs, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        larger = self.up(x)
        first, *others = self.conv
        joined = _convolve_joined(cast(nn.Conv2d, first), [larger, skip.to(larger.dtype)])
        for layer in others:
            joined = layer(joined)
        return joined


def _convolve_joined(conv: nn.Conv2d, parts: Sequence[Tensor]) -> Tensor:
    """What `conv` gives for the parts' channels one after the other.

    Each part is convolved for itself: to join them, and to take their gradients apart again, costs
    more passes over the pixels than to add up what they give.
    """
    weight = conv.standardized() if isinstance(conv, StandardConv) else conv.weight
    weights = torch.split(weight, [part.shape[1] for part in parts], dim=1)
    total = F.conv2d(parts[0], weights[0], conv.bias, padding=conv.padding)
    for part, own in zip(parts[1:], weights[1:], strict=True):
        total += F.conv2d(part, own, padding=conv.padding)
    return total


def _layers(
    inputs: int, outputs: int, norm: str, *, kernel: int = 3, stride: int = 1, first: bool = False
) -> list[nn.Module]:
    # Filters of mean 0 are blind to how bright an even surface is, which counts in an image.
    if norm == "weight" and not first:
        return [StandardConv(inputs, outputs, kernel, stride), nn.ReLU(inplace=True)]
    bias = norm in ("weight", "none")  # a normalisation layer brings its own shift
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1, bias=bias),
        make_norm(norm, outputs),
        nn.ReLU(inplace=True),
    ]
