"""Bottom-up instances for things that do not overlap: every pixel votes for its object's middle.

The semantic head says which pixels belong to things and to which class. The offset head says where
the middle of a pixel's object lies. A pixel's vote is where its offset leads, and from there the
offset found there, and so on: a few such steps bring the votes of one object close together, as in
mean shift. Where votes pile up is a middle; each pixel joins the one nearest to its vote. An
object's class is that of most of its pixels.

Votes for centres as in Neven et al. 2019 (arXiv:1906.11109) and Cheng et al. 2020
(arXiv:1911.10194).

Legend: B batch, H height, W width, K classes, P foreground pixels. Offsets are (y, x).
"""

from collections.abc import Mapping
from types import MappingProxyType

import cc3d
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.collective import sum_over_workers
from pipeline.methods.base import (
    Method,
    class_lookup,
    clear_unclaimed,
    connected_components,
    drop_small,
    to_byte,
)
from pipeline.methods.losses import semantic_loss
from pipeline.records import VOID, InstanceMap, Label, Maps, Segmentation

_UNITS = 4  # the network's 1 is a quarter of the reach, so that common offsets are of its order
_EXACT = 0.1  # of the object's radius, below which an error counts by its square
_LEAST_RADIUS = 2.0  # pixels; errors in smaller objects count as if they were of this size
_STEPS = 2  # offsets followed, one after the other
_APART = 0.5  # of the typical length of an offset, that two middles are at least apart
_LEAST_BLUR = 0.8  # pixels
_FEWEST = 0.5  # votes a pixel, smoothed, that a middle has at least


class InstanceMethod(Method):
    """Two heads: a softmax over the classes, and the way to the middle of the object."""

    name = "instance"
    directed = frozenset({"offset"})
    tunable = MappingProxyType(
        {
            "vote_blur": (0.15, 0.2, 0.3, 0.4, 0.5),
            "foreground_threshold": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65),
        }
    )

    @property
    def heads(self) -> dict[str, int]:
        return {"semantic": len(self.classes), "offset": 2}

    @property
    def reach(self) -> float:
        """Pixels that an offset spans at most."""
        return float(self.settings.reach or 64)

    def targets(self, label: Label) -> dict[str, NDArray[np.generic]]:
        semantic = class_lookup(self.classes)[label.semantic]
        offset = offset_target(label.instances) * np.float32(_UNITS / self.reach)
        radius = radii(label.instances) * np.float32(_UNITS / self.reach)
        inside = (label.instances > 0) & (semantic != VOID)
        return {
            "semantic": semantic,
            "offset_y": offset[0],
            "offset_x": offset[1],
            "sharpness": np.where(inside, 1 / radius, 0).astype(np.float32),
        }

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        semantic = semantic_loss(outputs["semantic"], targets["semantic"], self.settings)
        truth = torch.stack([targets["offset_y"], targets["offset_x"]], 1)
        return semantic + _offset_loss(outputs["offset"].float(), truth, targets["sharpness"])

    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        probabilities = outputs["semantic"].float().softmax(1)
        things = [i for i, spec in enumerate(self.classes) if spec.kind == "thing"]
        ids = torch.tensor([spec.id for spec in self.classes], dtype=torch.uint8)
        chosen = probabilities.argmax(1)
        offset = (outputs["offset"].float() / _UNITS).clamp(-1, 1) * 127 + 128
        return {
            "class": ids.to(chosen.device)[chosen],
            "thing": ids[things].to(chosen.device)[probabilities[:, things].argmax(1)],
            "foreground": to_byte(probabilities[:, things].sum(1).clamp_max(1)),
            "offset_y": offset[:, 0].round_().to(torch.uint8),
            "offset_x": offset[:, 1].round_().to(torch.uint8),
        }

    def decode(self, maps: Maps) -> Segmentation:
        foreground = maps["foreground"] >= round(self.settings.foreground_threshold * 255)
        offset = np.stack([maps["offset_y"], maps["offset_x"]]).astype(np.float32) - 128
        offset *= np.float32(self.reach / 127)
        votes, typical = follow(offset, foreground), typical_length(offset, foreground)
        joined = join(votes, foreground, self.settings.vote_blur * typical, _APART * typical)
        instances = drop_small(keep_whole(joined, foreground), self.settings.min_area)
        n = int(instances.max(initial=0))
        claimed = instances > 0
        owner = instances[claimed]
        counts = np.zeros((n, 256), np.int64)
        np.add.at(counts, (owner - 1, maps["thing"][claimed]), 1)
        class_ids = counts.argmax(1).astype(np.uint8)
        areas = counts.sum(1)
        certainty = np.bincount(owner, maps["foreground"][claimed], minlength=n + 1)[1:]
        semantic = clear_unclaimed(maps["class"], claimed, self.classes)
        semantic[claimed] = class_ids[owner - 1]
        return Segmentation(
            semantic=semantic,
            instances=instances,
            class_ids=class_ids,
            scores=(certainty / 255 / np.maximum(areas, 1)).astype(np.float32),
        )


def offset_target(instances: InstanceMap) -> NDArray[np.float32]:
    """(2, H, W) pixels from each pixel to the middle of its object; 0 outside of objects.

    The middle is the mean of the object's pixels, the deep ones counting more, so that it lies
    inside of bent objects too, or close to them.
    """
    offset = np.zeros((2, *instances.shape), np.float32)
    inside = np.nonzero(instances)  # most pixels are not, and need no sums
    owner = instances[inside]
    depth = edge_distance(instances)[inside]
    n = int(owner.max(initial=0)) + 1
    deepest = np.zeros(n, np.float32)
    np.maximum.at(deepest, owner, depth)
    weight = (depth / np.maximum(deepest, 1e-6)[owner]).astype(np.float64) ** 2
    total = np.maximum(np.bincount(owner, weight, n), 1e-9)
    for way, axis in zip(offset, inside, strict=True):
        middle = np.bincount(owner, weight * axis, n) / total
        way[inside] = middle[owner] - axis
    return offset


def radii(instances: InstanceMap) -> NDArray[np.float32]:
    """(H, W) radius in pixels of the disc that has the area of each pixel's object."""
    areas = np.bincount(instances.ravel())
    return np.maximum(np.sqrt(areas / np.pi), _LEAST_RADIUS).astype(np.float32)[instances]


def edge_distance(instances: InstanceMap) -> NDArray[np.float32]:
    """(H, W) distance in pixels to the nearest pixel of another object or none; 0 outside.

    The image's border is no edge: an object that it cuts goes on behind it.
    """
    ids = instances.astype(np.float32)
    kernel = np.ones((3, 3), np.uint8)
    edge = cv2.dilate(ids, kernel) != cv2.erode(ids, kernel)
    inside = ((instances > 0) & ~edge).astype(np.uint8)
    if edge.any() or (instances == 0).any():
        distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    else:
        distance = np.full(instances.shape, float(max(instances.shape)), np.float32)
    return np.where(instances > 0, distance + 1, 0).astype(np.float32)


def follow(offset: NDArray[np.float32], foreground: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(2, P) the pixel (y, x) that each foreground pixel's offsets lead to; they end outside."""
    height, width = foreground.shape
    limits = np.array([[height - 1], [width - 1]], np.float32)
    place = np.stack(np.nonzero(foreground)).astype(np.float32)
    for _ in range(_STEPS):
        y, x = np.rint(place).astype(np.int64)
        step = offset[:, y, x] * foreground[y, x]
        place = np.clip(place + step, 0, limits)
    return np.rint(place).astype(np.int64)


def typical_length(offset: NDArray[np.float32], foreground: NDArray[np.bool_]) -> float:
    """Median length in pixels of the foreground's offsets: how large the image's objects are."""
    lengths = np.hypot(*offset[:, foreground])
    return float(np.median(lengths)) if lengths.size else 0.0


def join(
    votes: NDArray[np.int64], foreground: NDArray[np.bool_], blur: float, apart: float
) -> NDArray[np.uint32]:
    """(H, W) the number of the middle that each foreground pixel joins; 0 outside, or without any.

    Args:
        votes: (2, P) of the foreground pixels.
        blur: standard deviation in pixels by which votes are spread.
        apart: pixels that two middles are at least apart.
    """
    height, width = foreground.shape
    y, x = votes
    counts = np.bincount(y * width + x, minlength=height * width).reshape(height, width)
    pile = cv2.GaussianBlur(counts.astype(np.float32), (0, 0), max(blur, _LEAST_BLUR))
    side = 2 * max(1, round(apart)) + 1
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    is_middle = (pile >= cv2.dilate(pile, near)) & (pile >= _FEWEST)
    # A flat top, or a middle between two pixels, is one.
    middles = connected_components(
        cv2.dilate(is_middle.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0, connectivity=8
    )
    joined = np.zeros(foreground.shape, np.uint32)
    if middles.any():
        joined[foreground] = nearest(middles)[y, x]
    return joined


def keep_whole(joined: NDArray[np.uint32], foreground: NDArray[np.bool_]) -> InstanceMap:
    """Objects in one piece: the largest of each stays, smaller ones go to whoever is nearest.

    A foreground patch without any object is one of its own: too small or too faint to have a
    middle, but seen.
    """
    pieces = cc3d.connected_components(joined, connectivity=4).astype(np.int64)
    areas = np.bincount(pieces.ravel())
    owner = np.zeros(len(areas), np.int64)
    owner[pieces.ravel()] = joined.ravel()
    order = np.argsort(areas, kind="stable")
    largest = np.zeros(int(owner.max(initial=0)) + 1, np.int64)
    largest[owner[order]] = order  # the last, the largest, stays
    kept = np.zeros(len(areas), bool)
    kept[largest[1:]] = True
    kept[0] = False
    objects = np.where(kept[pieces], joined, 0).astype(np.int64)
    patches = connected_components(foreground, connectivity=8)
    has_object = np.zeros(int(patches.max(initial=0)) + 1, bool)
    has_object[patches[objects > 0]] = True
    lonely = foreground & ~has_object[patches]
    objects[lonely] = patches[lonely] + objects.max(initial=0)
    if not objects.any():
        return objects.astype(np.int32)
    return np.where(foreground, nearest(objects), 0).astype(np.int32)


def nearest(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """(H, W) the label, above 0, that is nearest to each pixel; there has to be one."""
    outside = (labels == 0).astype(np.uint8)
    _, place = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(place.max()) + 1, np.int32)
    owner[place[labels > 0]] = labels[labels > 0]
    return owner[place]


def _offset_loss(guess: Tensor, truth: Tensor, sharpness: Tensor) -> Tensor:
    """Smooth L1 over the pixels of objects, of all workers, as shares of each object's radius.

    A pixel's error is half a small object's way to its neighbour, and nothing to a large one.

    Args:
        guess: (B, 2, H, W), as `truth`, in network units.
        sharpness: (B, H, W) one over the radius in network units; 0 where there is no object.
    """
    scale = sharpness.unsqueeze(1)
    errors = F.smooth_l1_loss(guess * scale, truth * scale, reduction="none", beta=_EXACT).sum(1)
    inside = (sharpness > 0).float()
    sums = sum_over_workers(torch.stack([errors.sum(), inside.sum()]))
    loss: Tensor = sums[0] / sums[1].clamp_min(1)
    return loss
