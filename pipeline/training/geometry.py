"""Which part of an image a crop shows: drawn, cut out, and warped in whole batches on the device.

A crop is the image of a square under an affine map (zoom, turn, mirror) and a smooth random
displacement (Simard et al. 2003). Image and label go through the same map, so that targets made
afterwards fit.

Legend: B batch, H height, W width, C channels, S side of the crop, G side of the coarse grid.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import MOST_TILT, AugmentSettings

P = TypeVar("P", bound=np.generic)

_GRID_PIXELS = 48  # between two nodes of the coarse grid that displacements are drawn on
_REACH = 3.0  # standard deviations at which a displacement is cut off


@dataclass(frozen=True)
class Geometry:
    """From a crop's pixels to those of an image, or of a window cut out of it."""

    matrix: NDArray[np.float64]
    """(2, 3) affine map from the crop's (x, y, 1) to the image's (x, y)."""
    displacement: NDArray[np.float32]
    """(2, G, G) further pixels in x and y, on a coarse grid over the crop; (2, 0, 0) for none."""


def draw_geometry(
    height: int,
    width: int,
    crop: int,
    settings: AugmentSettings,
    rng: np.random.Generator,
    focus: tuple[int, int] | None = None,
) -> Geometry:
    """A random geometry of a crop in the image, which nearly always shows the pixel `focus` (y, x).

    Enlarged at the border of the image, or turned with the pixel in a corner, it may miss it.
    """
    warped = float(rng.uniform() < settings.warp_share)
    zoom = settings.scale ** (warped * rng.uniform(-1, 1))
    most = math.radians(MOST_TILT) if settings.upright else math.pi
    turn = warped * rng.uniform(-most, most) if settings.rotate else 0.0
    mirror = 1.0
    if settings.flip:
        turn += 0.0 if settings.upright else math.pi / 2 * rng.integers(4)
        mirror = rng.choice([-1.0, 1.0])
    cos, sin = math.cos(turn) * zoom, math.sin(turn) * zoom
    linear = np.array([[cos * mirror, -sin], [sin * mirror, cos]])
    centre = _draw_centre(height, width, crop, min(1.0, zoom), rng, focus)
    if not warped:
        linear = np.rint(linear)
        # On whole pixels, wherever the middle of a crop of an even or odd side lies.
        centre = np.rint(centre - (crop - 1) / 2) + (crop - 1) / 2
    offset = centre - linear @ np.full(2, (crop - 1) / 2)
    strength = warped * rng.uniform() * settings.elastic
    nodes = max(4, round(crop / _GRID_PIXELS) + 1) if settings.elastic > 0 else 0
    return Geometry(np.column_stack([linear, offset]), _draw_displacement(nodes, strength, rng))


def cut_window(
    height: int, width: int, crop: int, geometry: Geometry
) -> tuple[tuple[slice, slice], Geometry]:
    """The part of the image that the crop looks at, and the geometry into that part."""
    reach = float(np.abs(geometry.displacement).max(initial=0))
    corners = np.array([[x, y, 1] for x in (0, crop - 1) for y in (0, crop - 1)])
    seen = corners @ geometry.matrix.T
    low = np.floor(seen.min(0) - reach).astype(int) - 1
    high = np.ceil(seen.max(0) + reach).astype(int) + 2
    x0, y0 = np.clip(low, 0, (width - 1, height - 1))
    x1, y1 = np.clip(high, (x0 + 1, y0 + 1), (width, height))
    shifted = geometry.matrix - np.array([[0, 0, x0], [0, 0, y0]])
    return (slice(y0, y1), slice(x0, x1)), Geometry(shifted, geometry.displacement)


def sampling_grid(
    geometries: list[Geometry], sizes: list[tuple[int, int]], crop: int, device: torch.device
) -> Tensor:
    """(B, S, S, 2) where in its window, in (x, y) pixels, each pixel of the crops lies.

    Outside of a window of `sizes` (H, W) the image is mirrored about its outermost pixels.
    """
    matrices = torch.from_numpy(np.stack([g.matrix for g in geometries])).float().to(device)
    steps = torch.arange(crop, device=device, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    # Element by element, so that a crop's grid does not depend on which others are in its batch.
    along_x, along_y, offset = matrices[..., None, None].unbind(2)
    points = along_x * x + along_y * y + offset
    if geometries[0].displacement.size:
        coarse = torch.from_numpy(np.stack([g.displacement for g in geometries])).to(device)
        cubic = _cubic(coarse.shape[-1], crop).to(device)
        points = points + cubic @ coarse @ cubic.mT
    last = torch.tensor([(w - 1, h - 1) for h, w in sizes], device=device, dtype=torch.float32)
    last = last[:, :, None, None]
    period = (2 * last).clamp_min(1)
    folded = points.abs() % period
    return torch.minimum(folded, (period - folded).abs()).minimum(last).movedim(1, -1)


def _cubic(nodes: int, crop: int) -> Tensor:
    """(S, G) weights of the nodes in each pixel, along either axis: cheaper than both at once."""
    size, one = (crop, nodes), torch.eye(nodes)
    return F.interpolate(one[None, None], size, mode="bicubic", align_corners=True)[0, 0]


def is_plain(geometry: Geometry) -> bool:
    """Whether the crop's pixels are pixels of the window, mirrored and turned by right angles."""
    whole = geometry.matrix == np.rint(geometry.matrix)
    return bool(whole.all() and not geometry.displacement.any()) and _is_upright(geometry)


def cut_plain(window: NDArray[P], geometry: Geometry, crop: int) -> NDArray[P]:
    """(H, W, C) or (H, W) at a plain geometry → (S, S, C) or (S, S): what a grid would give."""
    (xx, xy, x0), (yx, yy, y0) = geometry.matrix.astype(np.int64).tolist()
    height, width = window.shape[:2]
    steps = np.arange(crop)
    x = _fold((xx + xy) * steps + x0, width)
    y = _fold((yx + yy) * steps + y0, height)
    seen = window[y][:, x]
    return seen if xx else np.swapaxes(seen, 0, 1)  # turned: x goes down the crop


def _is_upright(geometry: Geometry) -> bool:
    return bool((np.abs(geometry.matrix[:, :2]).sum(1) == 1).all())


def _fold(places: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Mirrored about the outermost pixels of `size`."""
    period = max(2 * (size - 1), 1)
    folded = np.abs(places) % period
    inside: NDArray[np.int64] = np.minimum(np.minimum(folded, period - folded), size - 1)
    return inside


def sample_linear(windows: Tensor, grid: Tensor) -> Tensor:
    """(B, C, H, W) windows seen at a `sampling_grid` → (B, C, S, S), interpolated."""
    height, width = windows.shape[-2:]
    scale = grid.new_tensor([2 / width, 2 / height])
    centred = (grid + 0.5) * scale - 1
    return F.grid_sample(
        windows, centred, mode="bilinear", padding_mode="border", align_corners=False
    )


def sample_nearest(windows: Tensor, grid: Tensor) -> Tensor:
    """(B, C, H, W) windows of any type seen at a `sampling_grid` → (B, C, S, S), nearest pixels."""
    batch, channels, _, width = windows.shape
    x, y = grid.round().long().unbind(-1)
    places = (y * width + x).view(batch, 1, -1).expand(-1, channels, -1)
    return windows.flatten(2).gather(2, places).view(batch, channels, *grid.shape[1:3])


def _draw_centre(
    height: int,
    width: int,
    crop: int,
    zoom: float,
    rng: np.random.Generator,
    focus: tuple[int, int] | None,
) -> NDArray[np.float64]:
    """(x, y) of the crop's middle; as far inside the image as the crop allows."""
    centre = []
    for size, wanted in ((width, focus and focus[1]), (height, focus and focus[0])):
        margin = min(crop, size) / 2
        drawn = rng.uniform(margin, size - margin)
        if wanted is not None:
            near = wanted + 0.5 + rng.uniform(-0.25, 0.25) * crop * zoom
            drawn = min(max(near, margin), size - margin)
        centre.append(drawn - 0.5)
    return np.array(centre)


def _draw_displacement(
    nodes: int, strength: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    field = rng.standard_normal((2, nodes, nodes)).clip(-_REACH, _REACH)
    return (strength * field).astype(np.float32)
