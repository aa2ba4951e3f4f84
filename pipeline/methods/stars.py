"""Star-convex shapes: how far an object goes from one of its pixels, in each of many directions.

As in Schmidt et al. 2018 (StarDist, arXiv:1806.03535). Directions are numbered from the right,
clockwise on the screen.

Legend: B batch, H height, W width, R rays, N pixels that are looked from.
"""

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

RAYS = 32
_AT_ONCE = 8  # steps of a ray: a step is a pixel at most
_OUTSIDE = -1  # no object's id
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
    # A frame around the image, in which a ray that leaves it ends before the next look around.
    ids, below = (F.pad(one, (_AT_ONCE,) * 4, value=_OUTSIDE).flatten() for one in (top, covered))
    height, width = top.shape[1:]
    image = places.div(height * width, rounding_mode="floor")
    y, x = places.div(width, rounding_mode="floor") % height, places % width
    wide = width + 2 * _AT_ONCE
    start = (image * (height + 2 * _AT_ONCE) + y + _AT_ONCE) * wide + x + _AT_ONCE
    lengths = torch.full((len(places) * RAYS,), float(longest), device=top.device)
    steps = torch.from_numpy(_steps(longest, wide)).to(top.device)
    # Of the rays that still go on: which it is, its direction, where it began, and in which object.
    ray = torch.arange(len(lengths), device=top.device)
    way, begin = ray % RAYS, start.repeat_interleave(RAYS)
    own = ids[begin]
    for done in range(0, longest, _AT_ONCE):
        ahead = begin[:, None] + steps[:, done : done + _AT_ONCE][way]
        found = ids[ahead]
        inside = (found == own[:, None]) | (below[ahead] == own[:, None])
        goes_on, first = inside.all(1), inside.int().argmin(1, keepdim=True)
        last = torch.where(
            found.gather(1, first) == _OUTSIDE, float("nan"), done + first + 1 - _EDGE
        )
        lengths[ray[~goes_on]] = last.squeeze(1)[~goes_on]
        ray, way, begin, own = ray[goes_on], way[goes_on], begin[goes_on], own[goes_on]
        if not len(ray):
            break
    return lengths.view(-1, RAYS)


def _steps(longest: int, width: int) -> NDArray[np.int64]:
    """(R, steps) how many places further, in a flattened image, each ray is after each step."""
    y, x = np.rint(directions().T[:, :, None] * np.arange(1, longest + 1)).astype(np.int64)
    found: NDArray[np.int64] = y * width + x
    return found


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
