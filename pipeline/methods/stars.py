"""Star-convex shapes: how far an object goes from one of its pixels, in each of many directions.

As in Schmidt et al. 2018 (StarDist, arXiv:1806.03535). Directions are numbered from the right,
clockwise on the screen.

Legend: B batch, H height, W width, R rays, N pixels that are looked from.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RAYS = 32
_EDGE = 0.5  # pixels from the middle of the last pixel to the object's edge


def directions() -> NDArray[np.float64]:
    """(R, 2) of y and x."""
    angles = np.arange(RAYS) * (2 * math.pi / RAYS)
    return np.stack([np.sin(angles), np.cos(angles)], 1)


def ray_lengths(top: Tensor, covered: Tensor, places: Tensor, longest: int) -> Tensor:
    """(N, R) pixels from each place to the edge of the object that is on top there.

    NaN where the ray leaves the image before the object ends: nobody knows how far it goes on.

    Args:
        top: (B, H, W) ids of objects.
        covered: (B, H, W) ids of the objects right below them.
        places: (N,) in the flattened maps.
        longest: rays end there.
    """
    _, height, width = top.shape
    ids, below = top.flatten(), covered.flatten()
    whole = height * width
    image, place = places.div(whole, rounding_mode="floor") * whole, places % whole
    y0, x0 = place.div(width, rounding_mode="floor"), place % width
    ways = torch.from_numpy(directions()).float().to(top.device)
    lengths = torch.full((len(places), RAYS), float(longest), device=top.device)
    ray = torch.arange(lengths.numel(), device=top.device)  # those that still go on
    for step in range(1, longest + 1):
        if not len(ray):
            break
        start, way = ray.div(RAYS, rounding_mode="floor"), ray % RAYS
        y = y0[start] + (ways[way, 0] * step).round().long()
        x = x0[start] + (ways[way, 1] * step).round().long()
        outside = (y < 0) | (y >= height) | (x < 0) | (x >= width)
        there = image[start] + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        own = ids[places[start]]
        inside = ~outside & ((ids[there] == own) | (below[there] == own))
        flat = lengths.view(-1)
        flat[ray[outside]] = float("nan")
        flat[ray[~outside & ~inside]] = step - _EDGE
        ray = ray[inside]
    return lengths


def star_mask(lengths: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64], int]:
    """What R rays from the middle of a square reach, with straight lines between their ends.

    Returns:
        The mask, how far out each pixel is (0 in the middle, 1 at the edge), and half of the
        square's side: pixels from its border to the middle.
    """
    half = int(np.ceil(lengths.max(initial=0))) + 1
    distance, ray, share = _polar(half)
    following = (ray + 1) % RAYS
    edge = np.maximum(lengths[ray] * (1 - share) + lengths[following] * share, _EDGE)
    out = distance / edge
    return out <= 1, out, half


@lru_cache(maxsize=128)
def _polar(
    half: int,
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Of each pixel of a square: distance to the middle, the ray before it, and how far past it."""
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float64)
    turn = np.arctan2(y, x) / (2 * math.pi) * RAYS % RAYS
    ray = np.floor(turn).astype(np.int64) % RAYS
    return np.hypot(y, x), ray, turn - np.floor(turn)


def ray_in_view(view: int) -> list[int]:
    """As which ray a mirrored and turned view sees each ray of the upright image."""
    rays = np.arange(RAYS)
    if view & 2:  # upside down
        rays = -rays
    if view & 1:  # mirrored
        rays = RAYS // 2 - rays
    if view & 4:  # then y and x change places
        rays = RAYS // 4 - rays
    return [int(ray) for ray in rays % RAYS]
