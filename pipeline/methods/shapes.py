"""What labelled objects are like, pixel by pixel: in whole batches, on the device of the labels.

An object is one id in one image.

Legend: B batch, H height, W width, N pixels of objects.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

_LEVELS = 2**16  # steps of a weight: sums of whole numbers are exact in whatever order they come


@dataclass(frozen=True)
class ObjectPixels:
    """The pixels that belong to objects, in a row: most don't, and need no sums.

    Attributes:
        shape: (B, H, W) of the labels.
        places: (N,) of each pixel in the flattened labels.
        owners: (N,) of each pixel, the number of its object among those of all images.
        objects: how many numbers there are, some of no object.
    """

    shape: torch.Size
    places: Tensor
    owners: Tensor
    objects: int

    @classmethod
    def find(cls, instances: Tensor) -> "ObjectPixels":
        """In (B, H, W) ids, 0 where there is no object."""
        flat = instances.flatten()
        places = flat.nonzero().squeeze(1)
        ids = int(flat.max()) + 1
        images = places.div(instances[0].numel(), rounding_mode="floor")
        owners, objects = flat[places] + images * ids, len(instances) * ids
        if objects > len(flat):  # crops of an image with very many objects
            found, owners = torch.unique(owners, return_inverse=True)
            objects = len(found)
        return cls(instances.shape, places, owners, objects)

    def sums(self, values: Tensor | None = None) -> Tensor:
        """(N,) values, or ones → (objects,) their sum over each object."""
        return torch.bincount(self.owners, values, self.objects)

    def spread(self, values: Tensor) -> Tensor:
        """(N,) values → (B, H, W), 0 outside of objects."""
        flat = values.new_zeros(self.shape.numel())
        flat[self.places] = values
        return flat.view(self.shape)


def middle_offsets(pixels: ObjectPixels, distance: Tensor) -> tuple[Tensor, Tensor]:
    """The way in y and in x from each pixel to the middle of its object, (B, H, W) pixels each.

    The middle is the mean of the object's pixels, the deep ones counting more, so that it lies
    inside of bent objects too, or close to them.

    Args:
        distance: (B, H, W) to the object's edge.
    """
    _, height, width = pixels.shape
    depth = distance.flatten()[pixels.places]
    deepest = depth.new_zeros(pixels.objects).scatter_reduce(0, pixels.owners, depth, "amax")
    weight = (depth / deepest[pixels.owners]).double().square().mul(_LEVELS).round()
    total = pixels.sums(weight).clamp_min(1)
    rows = pixels.places.div(width, rounding_mode="floor")
    ways = []
    for axis in (rows % height, pixels.places - rows * width):
        middle = pixels.sums(weight * axis) / total
        ways.append(pixels.spread((middle[pixels.owners] - axis).float()))
    return ways[0], ways[1]


def radii(pixels: ObjectPixels) -> Tensor:
    """(B, H, W) radius in pixels of the disc that has the area of each pixel's object."""
    radius = (pixels.sums().float() / torch.pi).sqrt()
    return pixels.spread(radius[pixels.owners])


def edge_distance(instances: Tensor) -> Tensor:
    """(B, H, W) ids → distance in pixels to the nearest pixel of another object or none; 0 outside.

    The image's border is no edge: an object that it cuts goes on behind it.
    """
    if instances.device.type == "cpu":
        return torch.from_numpy(np.stack([_edge_distance(ids) for ids in instances.numpy()]))
    return edge_distance_by_rows(instances)


def _edge_distance(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    ids = instances.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    inside = ((instances > 0) & ~edge).astype(np.uint8)
    if inside.all():
        distance = np.full(instances.shape, float(max(instances.shape)), np.float32)
    else:
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance = np.sqrt(np.rint(distance * distance))  # rid of what threads rounded differently
    return np.where(instances > 0, distance + 1, 0).astype(np.float32)


def edge_distance_by_rows(instances: Tensor) -> Tensor:
    """The same in passes over the whole batch, which a GPU does at once.

    As in Felzenszwalb and Huttenlocher 2012 (doi:10.4086/toc.2012.v008a019), first along the
    columns and then, of these distances, along the rows; but there every place within reach is
    tried instead of those on the lower envelope alone.
    """
    height, width = instances.shape[-2:]
    ids = instances.float().unsqueeze(1)
    edge = F.max_pool2d(ids, 3, 1, 1) != -F.max_pool2d(-ids, 3, 1, 1)
    inside = (instances > 0) & ~edge.squeeze(1)
    along_y = _distance_along(inside, 1)
    reach = int(torch.minimum(along_y, _distance_along(inside, 2)).max())
    squares = along_y.square()
    best = squares.clone()
    for step in range(1, min(reach, width - 1) + 1):
        farther = squares + step**2
        best[..., step:] = torch.minimum(best[..., step:], farther[..., :-step])
        best[..., :-step] = torch.minimum(best[..., :-step], farther[..., step:])
    # Not in float32, whose square root PyTorch may leave rounded either way on some processors.
    distance = best.double().sqrt().float().clamp_max(max(height, width))
    return torch.where(instances > 0, distance + 1, 0)


def _distance_along(inside: Tensor, axis: int) -> Tensor:
    """(B, H, W) along one axis to the nearest pixel that is not inside; far where none is."""
    size = inside.shape[axis]
    far = 2 * max(inside.shape[1:])
    places = torch.arange(size, device=inside.device, dtype=torch.float32)
    places = places.view(-1, 1) if axis == 1 else places
    before = torch.where(inside, -far, places).cummax(axis).values
    after = torch.where(inside, size + far, places).flip(axis).cummin(axis).values.flip(axis)
    return torch.minimum(places - before, after - places).clamp_max(far)
