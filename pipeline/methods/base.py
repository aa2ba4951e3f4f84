"""The contract of a method, and the pieces that methods share.

A method turns U-Net outputs into classes and objects. It owns its heads, its training targets,
its loss and its decoding, in one file, so that training and prediction cannot drift apart.

Legend: B batch, H height, W width, K classes. A *map* is what a method keeps of the network's
outputs: a few 8-bit values a pixel, each computed from that pixel's outputs alone. So maps can be
computed on the device, cut and joined at region borders, and sent to whoever decodes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import MethodSettings
from pipeline.methods.components import keep_labels, renumbered
from pipeline.overlaps import areas_of, draw_objects
from pipeline.records import (
    VOID,
    Classes,
    InstanceMap,
    Maps,
    ObjectMask,
    Segmentation,
    SemanticMap,
    thing_ids,
)
from pipeline.scores import object_scores, sure_enough


class Method(ABC):
    """One way to turn U-Net outputs into classes and objects."""

    name: str
    tunable: Mapping[str, Sequence[float]] = MappingProxyType({})
    """Settings of the decoding that are chosen on validation images, and the values to try."""
    judged_by: Literal["objects", "pixels"] = "objects"
    """Whether AP of objects or IoU of pixels tells which of two networks is better."""

    def __init__(self, settings: MethodSettings, classes: Classes) -> None:
        self.settings = settings
        self.classes = classes

    @property
    @abstractmethod
    def heads(self) -> dict[str, int]:
        """Head → number of output channels."""

    def carried_over(self, head: str, other: "Method") -> list[tuple[int, int, float]]:
        """Which channels of a head mean what channels of another method's head of that name do.

        Returns:
            Here, there, and how many times the values there those here are.
        """
        if head != "semantic":
            return []
        pairs = alike(self.classes, other.classes)
        return [(here, there, 1.0) for here, there in pairs.items()]

    def upright(self, head: str, logits: Tensor, view: int) -> Tensor:
        """(B, K, H, W) of a view, turned back (see `predicting.engine.look`) → as they are upright.

        Where a head tells directions, they turn with the image.
        """
        return logits

    @abstractmethod
    def targets(
        self, semantic: Tensor, instances: Tensor, covered: Tensor | None = None
    ) -> dict[str, Tensor]:
        """What the heads should say, on the device of the labels.

        Args:
            semantic: (B, H, W) class ids, or VOID.
            instances: (B, H, W) int32 ids of objects, each image's its own; 0 for none.
            covered: likewise, of the objects right below those; for a method whose objects overlap.
        """

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of logits (B, K, H, W) a head against targets."""

    @abstractmethod
    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, K, H, W) a head → uint8 maps (B, H, W)."""

    def scale(self, maps: Maps) -> NDArray[np.int64]:
        """What labelling has to know of the whole image: counts that add up over its regions."""
        return np.zeros(0, np.int64)

    def typical_area(self, scale: NDArray[np.int64]) -> float:
        """Pixels of an object as the image has them, by its scale; 0 where that is not known."""
        return 0.0

    @abstractmethod
    def halo(self, scale: NDArray[np.int64]) -> int:
        """Pixels around a window that its labels depend on, and those one pixel beyond it."""

    @abstractmethod
    def decode(self, maps: Maps) -> Segmentation:
        """The maps of one whole image → its classes and objects."""


class PartitionMethod(Method):
    """A method whose objects share no pixels, so that an image can be labelled in parts."""

    @abstractmethod
    def label(self, maps: Maps, scale: NDArray[np.int64]) -> InstanceMap:
        """The maps of a window → its objects, numbered from 1, with gaps, in no order.

        `halo` away from where the window cuts the image, an object that the window cuts has the
        pixels that it has in the whole image.

        Args:
            scale: of the whole image.
        """

    @abstractmethod
    def ballot(self, maps: Maps) -> "Ballot":
        """What each pixel says of the object that it belongs to."""

    def decode(self, maps: Maps) -> Segmentation:
        scale = self.scale(maps)
        instances, n = renumbered(self.label(maps, scale))
        ballot = self.ballot(maps)
        class_ids = likeliest(count_votes(instances, n, ballot, self.classes), self.classes)
        areas = np.bincount(instances.ravel(), minlength=n + 1)[1:]
        certainty = np.bincount(instances.ravel(), ballot.certainty.ravel(), minlength=n + 1)[1:]
        scores = object_scores(certainty, areas, self.typical_area(scale), self.settings)
        keep = sure_enough(scores, self.settings)
        return Segmentation(
            semantic=paint(maps["class"], instances, class_ids, self.classes),
            instances=keep_labels(instances, keep),
            class_ids=class_ids[keep],
            scores=scores[keep],
        )


class OverlapMethod(Method):
    """A method whose objects may share pixels, each found from one pixel that stands for it."""

    @abstractmethod
    def find(self, maps: Maps) -> "list[FoundObject]":
        """The maps of a window → its objects, in the order of their pixels.

        `halo` away from where the window cuts the image, they are those of the whole image.
        """

    @property
    @abstractmethod
    def largest(self) -> int:
        """Pixels that an object goes at most from the one that stands for it."""

    def decode(self, maps: Maps) -> Segmentation:
        found = self.find(maps)
        scores = self.scores(found)
        keep = sure_enough(scores, self.settings)
        objects = numbered([one.mask for one, kept in zip(found, keep, strict=True) if kept])
        return Segmentation(
            semantic=self.paint(maps["class"], [one.mask for one in found]),
            instances=draw_objects(objects, maps["class"].shape),
            class_ids=np.array([one.class_id for one in objects], np.uint8),
            scores=scores[keep],
            objects=objects,
        )

    def scores(self, found: "Sequence[FoundObject]") -> NDArray[np.float32]:
        """(N,) how likely each is right."""
        certainty = np.array([one.certainty for one in found], np.int64)
        return object_scores(certainty, areas_of([one.mask for one in found]), 0.0, self.settings)

    def paint(self, semantic: SemanticMap, objects: Sequence[ObjectMask]) -> SemanticMap:
        """The semantic map (H, W) in which objects, in their order, have their class."""
        drawn = draw_objects(numbered(objects), semantic.shape)
        return paint(
            semantic, drawn, np.array([o.class_id for o in objects], np.uint8), self.classes
        )


@dataclass(frozen=True)
class FoundObject:
    """An object that a method has found in a window."""

    place: tuple[int, int]
    """The pixel (y, x) that stands for it; no other object has the same."""
    mask: ObjectMask
    certainty: int
    """Sum over its pixels of 255 times the probability that each belongs to an object."""


def numbered(objects: Sequence[ObjectMask]) -> tuple[ObjectMask, ...]:
    """Objects with ids from 1, in their order."""
    return tuple(replace(one, id=k) for k, one in enumerate(objects, 1))


@dataclass(frozen=True)
class Ballot:
    """What each pixel says of the object that it belongs to, (H, W) each."""

    thing: NDArray[np.uint8]
    """The id of its class."""
    certainty: NDArray[np.uint8]
    """The probability that it belongs to an object, times 255."""


def count_votes(
    instances: InstanceMap, n: int, ballot: Ballot, classes: Classes
) -> NDArray[np.int64]:
    """(N, T) how many pixels of each object say each class of things, in the order of ids."""
    things = sorted(thing_ids(classes))
    place = np.zeros(256, np.int64)
    place[things] = np.arange(len(things))
    claimed = instances > 0
    cells = (instances[claimed].astype(np.int64) - 1) * len(things) + place[ballot.thing[claimed]]
    return np.bincount(cells, minlength=n * len(things)).reshape(n, len(things))


def likeliest(votes: NDArray[np.int64], classes: Classes) -> NDArray[np.uint8]:
    """(N,) the class with most of (N, T) votes; a model without things has no objects either."""
    things = np.array(sorted(thing_ids(classes)), np.uint8)
    return things[votes.argmax(1)] if len(things) else np.zeros(len(votes), np.uint8)


def paint(
    semantic: SemanticMap, instances: InstanceMap, class_ids: NDArray[np.uint8], classes: Classes
) -> SemanticMap:
    """The semantic map in which objects have their class, and things are nowhere else.

    Args:
        semantic: (H, W) the likeliest class of each pixel.
        instances: (H, W) with k for the object of class ``class_ids[k - 1]``.
    """
    claimed = instances > 0
    painted = clear_unclaimed(semantic, claimed, classes)
    painted[claimed] = class_ids[instances[claimed] - 1]
    return painted


def class_maps(logits: Tensor, classes: Classes) -> dict[str, Tensor]:
    """(B, K, H, W) → of each pixel its class, its likeliest thing class, and whether it is any."""
    probabilities = logits.float().softmax(1)
    things = [i for i, spec in enumerate(classes) if spec.kind == "thing"]
    chosen = probabilities.argmax(1)
    ids = torch.tensor([spec.id for spec in classes], dtype=torch.uint8, device=chosen.device)
    return {
        "class": ids[chosen],
        "thing": ids[things][probabilities[:, things].argmax(1)],
        "foreground": to_byte(probabilities[:, things].sum(1).clamp_max(1)),
    }


def to_byte(probability: Tensor) -> Tensor:
    """Probability 0 to 1 → uint8 0 to 255."""
    return (probability * 255).round_().to(torch.uint8)


def alike(ours: Classes, theirs: Classes) -> dict[int, int]:
    """Places of the classes that mean the same in two lists: here → there.

    Those of one name, and those that are the only ones of their kind in both.
    """
    names = {spec.name: place for place, spec in enumerate(theirs)}
    pairs = {}
    for here, spec in enumerate(ours):
        kin = [place for place, other in enumerate(theirs) if other.kind == spec.kind]
        alone = len(kin) == 1 and sum(own.kind == spec.kind for own in ours) == 1
        if alone:
            pairs[here] = kin[0]
        elif spec.name in names:
            pairs[here] = names[spec.name]
    return pairs


def class_lookup(classes: Classes) -> Tensor:
    """(256,) class id → output channel, uint8; ids that are no class become VOID."""
    table = torch.full((256,), VOID, dtype=torch.uint8)
    table[[spec.id for spec in classes]] = torch.arange(len(classes), dtype=torch.uint8)
    return table


def of_things(channel: Tensor, classes: Classes) -> Tensor:
    """Output channels, or VOID → whether each is a class of things."""
    table = torch.zeros(256, dtype=torch.bool)
    table[: len(classes)] = torch.tensor([spec.kind == "thing" for spec in classes])
    return table.to(channel.device)[channel.long()]


def clear_unclaimed(
    semantic: SemanticMap, claimed: NDArray[np.bool_], classes: Classes
) -> SemanticMap:
    """Pixels of thing classes that no object claims become background, where there is one."""
    background = next((spec.id for spec in classes if spec.kind == "background"), None)
    if background is None:
        return semantic.copy()
    is_thing = np.zeros(256, bool)
    is_thing[[spec.id for spec in classes if spec.kind == "thing"]] = True
    return np.where(is_thing[semantic] & ~claimed, np.uint8(background), semantic)
