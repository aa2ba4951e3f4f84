"""File values → the network's input. The range is measured once for the whole image.

So regions of one image agree with each other. Legend: H height, W width, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.config import NormalizeSettings
from pipeline.errors import RejectError
from pipeline.records import Pixels
from pipeline.wording import plural

_GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
_SAMPLE = 4_000_000  # values of a float channel that its percentiles are taken from


@dataclass(frozen=True)
class IntensityRange:
    """The values that become 0 and 1, a channel: (C,) each."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def measure_range(pixels: Pixels, settings: NormalizeSettings) -> IntensityRange:
    """What `settings` says becomes 0 and 1 in this (H, W, C) image.

    Percentiles, which fit any image, where no kind has been chosen.
    """
    channels = pixels.shape[-1]
    if settings.kind == "none":
        bounds = np.tile(np.array([0.0, 1.0]), (channels, 1))
    elif settings.kind == "range":
        top = np.iinfo(pixels.dtype.str).max if pixels.dtype.kind in "ui" else 1.0
        bounds = np.tile(np.array([0.0, top]), (channels, 1))
    else:
        separate = channels != 3 if settings.per_channel is None else settings.per_channel
        planes = [pixels[..., c] for c in range(channels)] if separate else [pixels]
        found = [_percentiles(plane, (settings.low, settings.high)) for plane in planes]
        bounds = np.array(found * (1 if separate else channels), np.float64)
    return IntensityRange(bounds[:, 0], bounds[:, 1])


def normalize(pixels: Pixels, bounds: IntensityRange) -> NDArray[np.float32]:
    """(H, W, C) → float32 with `bounds.low` at 0 and `bounds.high` at 1, clipped to -1..3.

    A channel without contrast becomes 0, as do values that are not finite.
    """
    moved, about = without_offset(pixels, bounds)
    low, high = about.low.astype(np.float32), about.high.astype(np.float32)
    span = high - low
    scale = np.where(span > 0, 1 / np.where(span > 0, span, 1), 0).astype(np.float32)
    values = (moved.astype(np.float32) - low) * scale
    if pixels.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=3.0, neginf=-1.0)
    return values.clip(-1, 3)


def without_offset(pixels: Pixels, bounds: IntensityRange) -> tuple[Pixels, IntensityRange]:
    """Numbers of more than 16 bits as float32 about `bounds.low`, and the bounds of these.

    Far from 0, what tells them apart would be lost in 32 bits. Others are given back as they are.

    Args:
        pixels: (H, W, C), before or after `match_channels`.
    """
    if pixels.dtype.itemsize <= 2:
        return pixels, bounds
    low = bounds.low[: pixels.shape[-1]]  # gray that is still to be repeated has one for each
    moved = (pixels.astype(np.float64) - low).astype(np.float32)
    return moved, IntensityRange(np.zeros_like(bounds.low), bounds.high - bounds.low)


def match_channels(pixels: Pixels, channels: int, chosen: Sequence[int] | None = None) -> Pixels:
    """Fit (H, W, C) to what the network takes: gray is repeated, colour becomes gray.

    Args:
        chosen: the channels that are looked at, in this order; by default all as they are.

    Raises:
        RejectError: for any other difference, or where a chosen one is not there.
    """
    found = pixels.shape[-1]
    if chosen is not None:
        if max(chosen) >= found:
            raise RejectError(
                "channels", f"has {plural(found, 'channel')}, and none of number {max(chosen)}"
            )
        return match_channels(pixels[..., list(chosen)], channels)
    if found == channels:
        return pixels
    if found == 1:
        return np.repeat(pixels, channels, axis=-1)
    if found == 3 and channels == 1:
        exact = np.float32 if pixels.dtype.itemsize <= 2 else np.float64
        gray: Pixels = (pixels.astype(exact) @ np.array(_GRAY, exact))[..., None]
        return gray if pixels.dtype.kind == "f" else np.rint(gray).astype(pixels.dtype)
    raise RejectError(
        "channels",
        f"has {found} channels where the model takes {channels}; --channel says which it is shown, "
        "or train on such images",
    )


def _percentiles(values: Pixels, percents: tuple[float, float]) -> list[float]:
    """Exact from a histogram for 8 and 16 bit; from an even sample of float and wider values."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        cumulative = np.cumsum(np.bincount(values.ravel()))
        ranks = [p / 100 * (values.size - 1) + 1 for p in percents]
        return [float(np.searchsorted(cumulative, rank)) for rank in ranks]
    # Whole pixels: every so many values might be those of one channel alone.
    pixels = values.reshape(-1, values.shape[2] if values.ndim == 3 else 1)
    sample = pixels[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    finite = sample[np.isfinite(sample)]
    return [float(p) for p in np.percentile(finite, percents)] if finite.size else [0.0, 0.0]
