"""Bottom-up instances for things that do not overlap: seeds inside objects, grown to their edges.

The semantic head says which pixels belong to things and to which class. The seed head says how
deep inside its object a pixel lies. Where that is deep enough is a seed, each connected seed is an
object, and each foreground pixel joins the nearest seed. An object's class is the vote of its
pixels.

Legend: B batch, H height, W width, K classes.
"""

from collections.abc import Mapping

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
    cross_entropy_dice,
    drop_small,
    to_byte,
)
from pipeline.records import VOID, InstanceMap, Label, Maps, Segmentation


class InstanceMethod(Method):
    """Two heads: a softmax over the classes, and the depth inside an object."""

    name = "instance"

    @property
    def heads(self) -> dict[str, int]:
        return {"semantic": len(self.classes), "seed": 1}

    def targets(self, label: Label) -> dict[str, NDArray[np.generic]]:
        semantic = class_lookup(self.classes)[label.semantic]
        return {
            "semantic": semantic,
            "seed": seed_target(label.instances),
            "valid": (semantic != VOID).astype(np.float32),
        }

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        logits = outputs["semantic"]
        weights = self.settings.class_weights
        tensor = None if weights is None else logits.new_tensor(weights, dtype=torch.float32)
        semantic = cross_entropy_dice(logits, targets["semantic"], tensor)
        return semantic + _seed_loss(
            outputs["seed"][:, 0].float(), targets["seed"], targets["valid"]
        )

    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        probabilities = outputs["semantic"].float().softmax(1)
        things = [i for i, spec in enumerate(self.classes) if spec.kind == "thing"]
        ids = torch.tensor([spec.id for spec in self.classes], dtype=torch.uint8)
        chosen = probabilities.argmax(1)
        return {
            "class": ids.to(chosen.device)[chosen],
            "thing": ids[things].to(chosen.device)[probabilities[:, things].argmax(1)],
            "foreground": to_byte(probabilities[:, things].sum(1).clamp_max(1)),
            "seed": to_byte(outputs["seed"][:, 0].float().sigmoid()),
        }

    def decode(self, maps: Maps) -> Segmentation:
        foreground = maps["foreground"] >= round(self.settings.foreground_threshold * 255)
        seeds = foreground & (maps["seed"] >= round(self.settings.seed_threshold * 255))
        instances = drop_small(grow(seeds, foreground), self.settings.min_area)
        n = int(instances.max(initial=0))
        claimed = instances > 0
        owner = instances[claimed]
        votes = np.zeros((n, 256), np.int64)
        np.add.at(votes, (owner - 1, maps["thing"][claimed]), 1)
        class_ids = votes.argmax(1).astype(np.uint8)
        areas = votes.sum(1)
        certainty = np.bincount(owner, maps["foreground"][claimed], minlength=n + 1)[1:]
        semantic = clear_unclaimed(maps["class"], claimed, self.classes)
        semantic[claimed] = class_ids[owner - 1]
        return Segmentation(
            semantic=semantic,
            instances=instances,
            class_ids=class_ids,
            scores=(certainty / 255 / np.maximum(areas, 1)).astype(np.float32),
        )


def seed_target(instances: InstanceMap) -> NDArray[np.float32]:
    """(H, W) depth inside the object: 0 outside, 1 at its innermost pixel.

    Depth is the distance to the nearest pixel that is not the object's, divided by the largest
    such distance in the object, so that small and large objects look alike to the network.
    """
    distance = edge_distance(instances)
    deepest = np.zeros(int(instances.max(initial=0)) + 1, np.float32)
    np.maximum.at(deepest, instances.ravel(), distance.ravel())
    return np.where(instances > 0, distance / np.maximum(deepest, 1e-6)[instances], 0).astype(
        np.float32
    )


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


def grow(seeds: NDArray[np.bool_], foreground: NDArray[np.bool_]) -> InstanceMap:
    """Each connected seed becomes an object and takes the foreground pixels nearest to it.

    A foreground component without a seed is an object of its own: too small or too faint to have
    one, but seen.
    """
    patches = connected_components(foreground, connectivity=8)
    seeded = np.zeros(int(patches.max(initial=0)) + 1, bool)
    seeded[patches[seeds]] = True
    starts = connected_components(seeds | ~seeded[patches] & foreground, connectivity=4)
    if not starts.any():
        return starts
    outside = (starts == 0).astype(np.uint8)
    _, nearest = cv2.distanceTransformWithLabels(
        outside, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(int(nearest.max()) + 1, np.int32)
    owner[nearest[starts > 0]] = starts[starts > 0]
    return np.where(foreground, owner[nearest], 0).astype(np.int32)


def _seed_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy against a soft target, plus soft Dice, over all workers; (B, H, W) each."""
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    guess = logits.sigmoid() * valid
    truth = target * valid
    parts = [entropy * valid, valid, guess * truth, guess.square() + truth.square()]
    sums = sum_over_workers(torch.stack([part.sum() for part in parts]))
    return sums[0] / sums[1].clamp_min(1) + 1 - 2 * sums[2] / sums[3].clamp_min(1e-6)
