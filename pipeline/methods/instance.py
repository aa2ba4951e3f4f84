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

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.collective import sum_over_workers
from pipeline.config import DEFAULT_REACH
from pipeline.methods.base import (
    Ballot,
    Method,
    PartitionMethod,
    class_lookup,
    class_maps,
    of_things,
)
from pipeline.methods.losses import semantic_loss
from pipeline.methods.shapes import ObjectPixels, edge_distance, middle_offsets, radii
from pipeline.methods.voting import Reach, label_votes
from pipeline.records import InstanceMap, Maps

_UNITS = 4  # the network's 1 is a quarter of the reach, so that common offsets are of its order
_EXACT = 0.1  # of the object's radius, below which an error counts by its square
_LEAST_RADIUS = 2.0  # pixels; errors in smaller objects count as if they were of this size
_CRUMB = 0.5  # squared typical lengths: smaller pieces are no objects beside a larger one
_LARGEST_CRUMB = 100  # pixels
_OFFSETS = ("offset_y", "offset_x")


class InstanceMethod(PartitionMethod):
    """Two heads: a softmax over the classes, and the way to the middle of the object."""

    name = "instance"
    tunable = MappingProxyType(
        {
            "vote_blur": (0.15, 0.2, 0.3, 0.4, 0.5),
            "foreground_threshold": (0.4, 0.45, 0.5, 0.55, 0.6, 0.65),
        }
    )

    @property
    def heads(self) -> dict[str, int]:
        return {"semantic": len(self.classes), "offset": 2}

    def carried_over(self, head: str, other: Method) -> list[tuple[int, int, float]]:
        if head == "offset" and isinstance(other, InstanceMethod):
            return [(axis, axis, other.reach / self.reach) for axis in range(2)]
        return super().carried_over(head, other)

    def upright(self, head: str, logits: Tensor, view: int) -> Tensor:
        if head != "offset":
            return logits
        y, x = logits.unbind(1)
        if view & 4:
            y, x = x, y
        return torch.stack([-y if view & 2 else y, -x if view & 1 else x], 1)

    @property
    def reach(self) -> float:
        """Pixels that an offset spans at most."""
        return float(self.settings.reach or DEFAULT_REACH)

    def targets(
        self, semantic: Tensor, instances: Tensor, covered: Tensor | None = None
    ) -> dict[str, Tensor]:
        channel = class_lookup(self.classes).to(semantic.device)[semantic.long()]
        pixels, unit = ObjectPixels.find(instances), self.reach / _UNITS
        offset_y, offset_x = middle_offsets(pixels, edge_distance(instances))
        radius = radii(pixels).clamp_min(_LEAST_RADIUS) / unit
        # Maps of panoptic labels have ids on stuff as well, which may be most of their pixels.
        inside = (instances > 0) & of_things(channel, self.classes)
        return {
            "semantic": channel,
            "offset_y": offset_y / unit,
            "offset_x": offset_x / unit,
            "sharpness": torch.where(inside, 1 / radius, 0),
        }

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        semantic = semantic_loss(outputs["semantic"], targets["semantic"], self.settings)
        truth = torch.stack([targets["offset_y"], targets["offset_x"]], 1)
        return semantic + _offset_loss(outputs["offset"].float(), truth, targets["sharpness"])

    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        offset = (outputs["offset"].float() / _UNITS).clamp(-1, 1) * 127 + 128
        return {
            **class_maps(outputs["semantic"], self.classes),
            "offset_y": offset[:, 0].round_().to(torch.uint8),
            "offset_x": offset[:, 1].round_().to(torch.uint8),
        }

    def scale(self, maps: Maps) -> NDArray[np.int64]:
        """How many foreground pixels have an offset of each squared length, in steps of the map."""
        foreground = self._foreground(maps)
        y, x = (maps[name][foreground].astype(np.int32) - 128 for name in _OFFSETS)
        return np.bincount(y * y + x * x, minlength=2 * 128**2 + 1)

    def reach_of(self, scale: NDArray[np.int64]) -> Reach:
        """How far things lead in an image."""
        total = np.cumsum(scale)
        median = np.searchsorted(total, (total[-1] + 1) // 2) if total[-1] else 0
        typical = float(np.sqrt(median)) * self.reach / 127
        crumb = min(round(_CRUMB * typical**2), _LARGEST_CRUMB)
        return Reach(
            typical=typical,
            blur=self.settings.vote_blur * typical,
            crumb=max(crumb, self.settings.least_area),
        )

    def typical_area(self, scale: NDArray[np.int64]) -> float:
        # In a disc of radius r the median way to the middle is r / √2.
        return 2 * np.pi * self.reach_of(scale).typical ** 2

    def halo(self, scale: NDArray[np.int64]) -> int:
        return self.reach_of(scale).halo

    def label(self, maps: Maps, scale: NDArray[np.int64]) -> InstanceMap:
        offset = np.stack([maps[name] for name in _OFFSETS]).astype(np.float32) - 128
        offset *= np.float32(self.reach / 127)
        return label_votes(
            offset, self._foreground(maps), self.reach_of(scale), self.settings.least_area
        )

    def ballot(self, maps: Maps) -> Ballot:
        return Ballot(thing=maps["thing"], certainty=maps["foreground"])

    def _foreground(self, maps: Maps) -> NDArray[np.bool_]:
        return maps["foreground"] >= round(self.settings.foreground_threshold * 255)


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
