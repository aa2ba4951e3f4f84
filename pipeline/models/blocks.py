"""The two blocks a U-Net is made of. Tensors are (B, C, H, W)."""

import torch
from torch import Tensor, nn


def make_norm(kind: str, channels: int) -> nn.Module:
    """The normalisation layer that a settings word names."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        groups = next(g for g in (8, 4, 2, 1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class ConvBlock(nn.Sequential):
    """Two 3x3 convolutions, each normalised and rectified; keeps H and W."""

    def __init__(self, inputs: int, outputs: int, norm: str) -> None:
        bias = norm == "none"  # a normalisation layer brings its own shift
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
            make_norm(norm, outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
            make_norm(norm, outputs),
            nn.ReLU(inplace=True),
        )


class UpBlock(nn.Module):
    """Doubles the resolution, joins the encoder's features of that level, and convolves."""

    def __init__(self, inputs: int, skip: int, outputs: int, norm: str) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.conv = ConvBlock(outputs + skip, outputs, norm)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined: Tensor = self.conv(torch.cat([self.up(x), skip], dim=1))
        return joined
