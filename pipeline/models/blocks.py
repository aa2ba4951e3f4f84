"""The two blocks a U-Net is made of. Tensors are (B, C, H, W)."""

import torch
from torch import Tensor, nn

from pipeline.collective import global_batch_norm, is_alone


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
    """Two 3x3 convolutions, each normalised and rectified; keeps H and W."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(*_layers(inputs, outputs, norm), *_layers(outputs, outputs, norm))


class StemBlock(nn.Sequential):
    """A 4x4 and a 3x3 convolution, each normalised and rectified; halves H and W."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        super().__init__(
            *_layers(inputs, outputs, norm, kernel=4, stride=2),
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
        joined: Tensor = self.conv(torch.cat([larger, skip.to(larger.dtype)], dim=1))
        return joined


def _layers(
    inputs: int, outputs: int, norm: str, *, kernel: int = 3, stride: int = 1
) -> list[nn.Module]:
    bias = norm == "none"  # a normalisation layer brings its own shift
    return [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=1, bias=bias),
        make_norm(norm, outputs),
        nn.ReLU(inplace=True),
    ]
