"""Random changes of normalised intensities, in whole batches on the device.

What is drawn for a crop depends on its own random stream alone, so it does not matter which crops
share its batch or its worker.

Legend: B batch, C channels, H height, W width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import AugmentSettings

_BLUR_RADIUS = 4
_GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
# Optical density of haematoxylin, eosin and DAB in red, green, blue (Ruifrok & Johnston 2001).
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


@dataclass(frozen=True)
class IntensityChange:
    """What happens to one crop."""

    gamma: float
    contrast: float
    brightness: float
    tint: NDArray[np.float32]
    """(C,) factor of each channel."""
    invert: bool
    gray: bool
    stain: NDArray[np.float32] | None
    """(2, 3) factor and shift of each stain's density; colour images only."""
    blur: float
    """Standard deviation in pixels; 0 for none."""
    noise: float
    """Standard deviation."""
    noise_seed: int


_Change = Callable[[Tensor, list[IntensityChange]], Tensor]


def draw_intensity(
    channels: int, colour: bool, settings: AugmentSettings, rng: np.random.Generator
) -> IntensityChange:
    """A random change; `colour` says that three channels are red, green and blue."""
    strength = settings.intensity
    stain = rng.uniform(-1, 1, (2, 3)).astype(np.float32)
    stain = stain * np.float32(settings.stain) * np.array([[1.0], [0.2]], np.float32)
    stain[0] += 1
    blurred = rng.uniform() < settings.blur_share
    return IntensityChange(
        gamma=math.exp(strength * rng.uniform(-1, 1)),
        contrast=math.exp(strength * rng.uniform(-1, 1)),
        brightness=0.5 * strength * rng.uniform(-1, 1),
        tint=(1 + 0.3 * strength * rng.uniform(-1, 1, channels)).astype(np.float32),
        invert=rng.uniform() < settings.invert_share,
        gray=rng.uniform() < settings.gray_share and colour,
        stain=stain if colour and settings.stain > 0 else None,
        blur=rng.uniform(0.3, 1.0) * settings.blur if blurred else 0.0,
        noise=settings.noise * rng.uniform(),
        noise_seed=int(rng.integers(2**62)),
    )


def change_intensity(images: Tensor, changes: list[IntensityChange]) -> Tensor:
    """(B, C, H, W) of normalised values, each crop with its own change; the input may be reused."""
    images = _on_some(images, [c.stain is not None for c in changes], changes, _stain)
    images = _on_some(images, [c.gray for c in changes], changes, _to_gray)
    images = _on_some(images, [c.invert for c in changes], changes, lambda x, _: 1 - x)

    def column(values: list[float]) -> Tensor:
        return images.new_tensor(values).view(-1, 1, 1, 1)

    # Below 0 as above it, and in place: a batch is larger than the processor's cache. A power by
    # way of the logarithm takes half of the time.
    powers = images.abs().log_().mul_(column([c.gamma for c in changes])).exp_()
    images = powers.copysign_(images)
    tint = torch.from_numpy(np.stack([c.tint for c in changes])).to(images.device)
    images.mul_(column([c.contrast for c in changes]) * tint[:, :, None, None])
    images.add_(column([c.brightness for c in changes]))
    images = _on_some(images, [c.blur > 0 for c in changes], changes, _blur)
    if any(c.noise > 0 for c in changes):
        noise = torch.stack([_noise(images[0], c.noise_seed) for c in changes])
        images.addcmul_(noise, column([c.noise for c in changes]))
    return images


def _on_some(
    images: Tensor, chosen: list[bool], changes: list[IntensityChange], change: _Change
) -> Tensor:
    where = [i for i, wanted in enumerate(chosen) if wanted]
    if not where:
        return images
    index = torch.tensor(where, device=images.device)
    changed = change(images[index], [changes[i] for i in where])
    return images.index_copy(0, index, changed)


def _stain(images: Tensor, changes: list[IntensityChange]) -> Tensor:
    """Scale and shift the density of each stain (Tellez et al. 2018, arXiv:1808.05896)."""
    stains = images.new_tensor(_STAINS)
    stains = stains / stains.norm(dim=1, keepdim=True)
    density = -images.clamp(0.02, 1.5).log()
    amounts = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(stains))
    table = torch.from_numpy(np.stack([c.stain for c in changes if c.stain is not None]))
    factor, shift = table.to(images.device)[..., None, None].unbind(1)
    changed = torch.einsum("bshw,sc->bchw", amounts * factor + shift, stains)
    return (-changed).exp()


def _to_gray(images: Tensor, changes: list[IntensityChange]) -> Tensor:
    luma = images.new_tensor(_GRAY).view(1, 3, 1, 1)
    return (images * luma).sum(1, keepdim=True).expand_as(images)


def _blur(images: Tensor, changes: list[IntensityChange]) -> Tensor:
    """A Gaussian of each crop's own width, by one grouped convolution a direction."""
    batch, channels = images.shape[:2]
    taps = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    deviations = images.new_tensor([c.blur for c in changes]).view(-1, 1)
    kernel = (-(taps**2) / (2 * deviations**2)).exp()
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = images.reshape(1, batch * channels, *images.shape[2:])
    padded = F.pad(flat, (_BLUR_RADIUS,) * 4, mode="replicate")
    groups = batch * channels
    across = F.conv2d(padded, kernel[:, None, None, :], groups=groups)
    return F.conv2d(across, kernel[:, None, :, None], groups=groups).view_as(images)


def _noise(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(like.shape, generator=generator, device=like.device)
