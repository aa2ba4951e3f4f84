"""Instances that may overlap: every pixel proposes an object, whole, and the best are taken.

The semantic head says which pixels belong to things and to which class. A detector head says how
deep inside of the visible part of its object a pixel lies, and how far the whole object goes from
there in each of many directions, under others too. Where a pixel lies deepest its proposal is
looked at; of those that mean the same object the deepest stays. So objects are star-convex, but
for their outline, which is that of the foreground.

Shapes as in Schmidt et al. 2018 (StarDist, arXiv:1806.03535); for objects that overlap as in Walter
et al. 2020 (MultiStar, arXiv:2011.13228), pixels that two objects share propose neither.

Legend: B batch, H height, W width, K classes, R rays, N pixels that are learned from.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.collective import sum_over_workers
from pipeline.config import DEFAULT_REACH, LEAST_DEPTH
from pipeline.methods.base import (
    FoundObject,
    Method,
    OverlapMethod,
    class_lookup,
    class_maps,
    of_things,
    to_byte,
)
from pipeline.methods.losses import semantic_loss
from pipeline.methods.proposing import GROWTH, Planes, outlined, propose
from pipeline.methods.selecting import ROUNDS, select, without_slivers
from pipeline.methods.shapes import ObjectPixels, edge_distance, radii
from pipeline.methods.stars import RAYS, ray_in_view, ray_lengths
from pipeline.records import VOID, Maps, ObjectMask

_UNITS = 4  # the network's 1 is a quarter of the reach
_EXACT = 0.1  # of the object's radius, below which an error counts by its square
_LEAST_RADIUS = 2.0  # pixels; errors in smaller objects count as if they were of this size
_LATTICE = 4  # of the pixels of objects, every fourth in y and in x is learned from
_RAYS = tuple(f"ray_{ray:02d}" for ray in range(RAYS))


class ProposalMethod(OverlapMethod):
    """Two heads: a softmax over the classes; depth and rays."""

    name = "proposals"
    tunable = MappingProxyType(
        {
            "proposal_threshold": (0.2, 0.3, 0.4, 0.5, 0.6),
            "overlap": (0.3, 0.4, 0.5, 0.6),
            "foreground_threshold": (0.4, 0.45, 0.5, 0.55, 0.6),
        }
    )

    @property
    def heads(self) -> dict[str, int]:
        return {"semantic": len(self.classes), "proposal": 1 + RAYS}

    @property
    def reach(self) -> int:
        """Pixels that a ray spans at most."""
        return self.settings.reach or DEFAULT_REACH

    def carried_over(self, head: str, other: Method) -> list[tuple[int, int, float]]:
        if head == "proposal" and isinstance(other, ProposalMethod):
            scale = other.reach / self.reach
            return [(place, place, scale if place else 1.0) for place in range(1 + RAYS)]
        return super().carried_over(head, other)

    def upright(self, head: str, logits: Tensor, view: int) -> Tensor:
        if head != "proposal":
            return logits
        return logits[:, [0, *(1 + ray for ray in ray_in_view(view))]]

    def targets(
        self, semantic: Tensor, instances: Tensor, covered: Tensor | None = None
    ) -> dict[str, Tensor]:
        channel = class_lookup(self.classes).to(semantic.device)[semantic.long()]
        # Maps of panoptic labels have ids on stuff as well.
        may_hold = of_things(channel, self.classes) | (channel == VOID)
        instances = torch.where(may_hold, instances, 0)
        below = torch.zeros_like(instances) if covered is None else covered
        own = _own_pixels(instances, below)
        pixels, distance = ObjectPixels.find(own), edge_distance(own)
        radius = radii(pixels).clamp_min(_LEAST_RADIUS)
        places = _learned_from(own)
        return {
            "semantic": channel,
            "depth": _depth(pixels, distance),
            "labelled": channel != VOID,
            "places": places,
            "rays": ray_lengths(instances, below, places, self.reach),
            "radius": radius.flatten()[places],
        }

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        semantic = semantic_loss(outputs["semantic"], targets["semantic"], self.settings)
        proposal = outputs["proposal"].float()
        depth = F.binary_cross_entropy_with_logits(
            proposal[:, 0], targets["depth"], reduction="none"
        )
        labelled = targets["labelled"].float()
        unit = self.reach / _UNITS
        guess = proposal[:, 1:].movedim(1, -1).reshape(-1, RAYS)[targets["places"]]
        known = ~targets["rays"].isnan()
        scale = unit / targets["radius"].unsqueeze(1)
        truth = targets["rays"].nan_to_num() / unit
        errors = F.smooth_l1_loss(guess * scale, truth * scale, reduction="none", beta=_EXACT)
        sums = sum_over_workers(
            torch.stack(
                [
                    (depth * labelled).sum(),
                    labelled.sum(),
                    (errors * known).sum(),
                    known.sum().float(),
                ]
            )
        )
        loss: Tensor = semantic + sums[0] / sums[1].clamp_min(1) + sums[2] / sums[3].clamp_min(1)
        return loss

    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        proposal = outputs["proposal"].float()
        depth = proposal[:, 0].sigmoid()
        # Nobody asks for the rays of the others, and zeros take little room on their way.
        rays = (proposal[:, 1:] / _UNITS).clamp(0, 1) * (depth >= LEAST_DEPTH).unsqueeze(1)
        rays = to_byte(rays)
        return {
            **class_maps(outputs["semantic"], self.classes),
            "depth": to_byte(depth),
            **{name: rays[:, ray] for ray, name in enumerate(_RAYS)},
        }

    @property
    def largest(self) -> int:
        return self.reach + GROWTH + 2

    def halo(self, scale: NDArray[np.int64]) -> int:
        # A proposal reaches as far, and each link of a chain of rivals twice as far.
        return (2 * ROUNDS + 4) * self.largest

    def find(self, maps: Maps) -> list[FoundObject]:
        settings = self.settings
        planes = Planes(
            foreground=maps["foreground"] >= round(settings.foreground_threshold * 255),
            thing=maps["thing"],
            depth=maps["depth"],
            rays=np.stack([maps[name] for name in _RAYS], -1),
        )
        proposals = propose(planes, settings.proposal_threshold, self.reach / 255)
        chosen = without_slivers(select(proposals, settings.overlap, settings.least_area))
        return [
            FoundObject(place, mask, _certainty(mask, maps["foreground"]))
            for place, mask in outlined(chosen, planes, settings.least_area)
        ]


def _certainty(one: ObjectMask, foreground: NDArray[np.uint8]) -> int:
    box = one.box
    return int(foreground[box.y0 : box.y1, box.x0 : box.x1][one.mask()].sum(dtype=np.int64))


def _own_pixels(top: Tensor, covered: Tensor) -> Tensor:
    """(B, H, W) ids without the pixels that two objects share, but for objects that share most."""
    shared = covered > 0
    if not shared.any():
        return top
    pixels = ObjectPixels.find(top)
    of_object = pixels.sums(shared.flatten()[pixels.places].double()) / pixels.sums().clamp_min(1)
    is_part = pixels.spread((of_object[pixels.owners] <= 0.5).float()) > 0
    return torch.where(shared & is_part, 0, top)


def _depth(pixels: ObjectPixels, distance: Tensor) -> Tensor:
    """(B, H, W) distance to the edge as a share of the object's largest."""
    inside = distance.flatten()[pixels.places]
    most = inside.new_zeros(pixels.objects).scatter_reduce(0, pixels.owners, inside, "amax")
    return pixels.spread(inside / most[pixels.owners].clamp_min(1))


def _learned_from(own: Tensor) -> Tensor:
    """(N,) places of a lattice of pixels of objects, which begins elsewhere in each image.

    All would be too many rays, and the same ones each time would leave the others unlearned.
    """
    height, width = own.shape[1:]
    begin = own.flatten(1).sum(1) % _LATTICE**2
    y, x = (torch.arange(side, device=own.device) for side in (height, width))
    rows = y[None] % _LATTICE == begin.div(_LATTICE, rounding_mode="floor")[:, None]
    columns = x[None] % _LATTICE == (begin % _LATTICE)[:, None]
    lattice = rows[:, :, None] & columns[:, None, :]
    return (lattice & (own > 0)).flatten().nonzero().squeeze(1)
