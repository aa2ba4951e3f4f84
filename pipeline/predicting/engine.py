"""What runs the network: PyTorch on CUDA or the CPU.

Legend: B batch, H height, W width, C channels.
"""

import copy
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.config import Precision
from pipeline.methods.base import Method
from pipeline.models.blocks import StandardConv
from pipeline.models.unet import UNet
from pipeline.predicting.zoom import NO_ZOOM, Zoom

Upright = Callable[[str, torch.Tensor, int], torch.Tensor]


def pick_device() -> torch.device:
    """The process's GPU where it has one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that the network's convolutions compute in."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Without the instructions bfloat16 is emulated, and slower than float32.
    fast = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if fast else torch.float32


def device_name(device: torch.device, dtype: torch.dtype) -> str:
    """For people: `NVIDIA H100, bfloat16`."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f"{name}, {str(dtype).removeprefix('torch.')}"


class TorchEngine:
    """Runs a network in evaluation mode; what its outputs mean is the method's business.

    The weights are copied: the network that was given stays as it is.

    Args:
        views: see `look`.
        zoom: of the images, before the network sees them.

    Attributes:
        stride: the network's, in its own pixels.
        context: likewise.
    """

    def __init__(
        self,
        network: UNet,
        method: Method,
        device: torch.device,
        dtype: torch.dtype,
        *,
        views: int = 1,
        zoom: Zoom = NO_ZOOM,
    ) -> None:
        self.views = views
        self.zoom = zoom
        self.method = method
        self.device = device
        self.dtype = dtype
        self.stride = network.stride
        self.context = network.context
        fused = fold_norms(copy.deepcopy(network).eval())
        self.network = fused.to(device, dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, images: NDArray[np.float32]) -> Mapping[str, torch.Tensor]:
        """(B, H, W, C) normalised → head → (B, K, H, W) logits, on the device.

        With a zoom, H and W are multiples of `Zoom.stride`.

        Raises:
            FloatingPointError: some are not numbers; maps of them would look like any.
        """
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory
        height, width = batch.shape[-2:]
        seen = resized(batch.to(self.device), self.zoom.seen(height), self.zoom.seen(width))
        found = look(self.network, seen.to(self.dtype), self.views, self.method.upright)
        if not all(logits.sum().isfinite() for logits in found.values()):
            raise FloatingPointError("the network's outputs are not numbers")
        return {name: resized(logits, height, width) for name, logits in found.items()}


def resized(batch: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(B, C, H, W) of another size, as the network sees it: means of pixels, or interpolated."""
    if batch.shape[-2:] == (height, width):
        return batch
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)


def look(
    network: nn.Module,
    batch: torch.Tensor,
    views: int,
    upright: Upright = lambda head, logits, view: logits,
) -> Mapping[str, torch.Tensor]:
    """Logits of (B, C, H, W), averaged over so many of its mirrored and turned views, 1 to 8.

    Two: also mirrored. Four: also upside down. Eight: also turned by a right angle.

    Args:
        upright: see `Method.upright`.
    """
    total: dict[str, torch.Tensor] = {}
    for view in range(views):
        seen: Mapping[str, torch.Tensor] = network(_turn(batch, view))
        for name, logits in seen.items():
            back = upright(name, _turn_back(logits.float(), view), view)
            total[name] = total[name] + back if name in total else back
    return {name: logits / views for name, logits in total.items()}


def _turn(batch: torch.Tensor, view: int) -> torch.Tensor:
    axes = [axis for axis, bit in ((3, 1), (2, 2)) if view & bit]
    turned = batch.flip(axes) if axes else batch
    turned = turned.transpose(2, 3) if view & 4 else turned
    return turned.contiguous(memory_format=torch.channels_last)


def _turn_back(batch: torch.Tensor, view: int) -> torch.Tensor:
    axes = [axis for axis, bit in ((3, 1), (2, 2)) if view & bit]
    upright = batch.transpose(2, 3) if view & 4 else batch
    return upright.flip(axes) if axes else upright


def fold_norms(module: nn.Module) -> nn.Module:
    """Make every normalisation of a batch or of weights a part of its convolution; in place."""
    children = list(module.named_children())
    for (name, child), (following, norm) in pairwise(children):
        if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, name, fuse_conv_bn_eval(child, norm))
            setattr(module, following, nn.Identity())
    for name, child in module.named_children():
        if isinstance(child, StandardConv):
            setattr(module, name, child.plain())
        fold_norms(child)
    return module
