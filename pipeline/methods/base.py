"""The contract of a method, and the pieces that methods share.

A method turns U-Net outputs into classes and objects. It owns its heads, its training targets,
its loss and its decoding, in one file, so that training and prediction cannot drift apart.

Legend: B batch, H height, W width, K classes. A *map* is what a method keeps of the network's
outputs: a few 8-bit values a pixel, each computed from that pixel's outputs alone. So maps can be
computed on the device, cut and joined at region borders, and sent to whoever decodes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import MethodSettings
from pipeline.records import (
    VOID,
    Classes,
    InstanceMap,
    Label,
    Maps,
    Segmentation,
    SemanticMap,
)


class Method(ABC):
    """One way to turn U-Net outputs into classes and objects."""

    name: str
    tunable: Mapping[str, Sequence[float]] = MappingProxyType({})
    """Settings of the decoding that are chosen on validation images, and the values to try."""
    directed: frozenset[str] = frozenset()
    """Heads whose two channels are the y and x of a direction: it turns with the image."""
    judged_by: Literal["objects", "pixels"] = "objects"
    """Whether AP of objects or IoU of pixels tells which of two networks is better."""

    def __init__(self, settings: MethodSettings, classes: Classes) -> None:
        self.settings = settings
        self.classes = classes

    @property
    @abstractmethod
    def heads(self) -> dict[str, int]:
        """Head → number of output channels."""

    @abstractmethod
    def targets(self, label: Label) -> dict[str, NDArray[np.generic]]:
        """What the heads should say for a label: name → (H, W)."""

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of logits (B, K, H, W) a head against stacked targets (B, H, W)."""

    @abstractmethod
    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits (B, K, H, W) a head → uint8 maps (B, H, W)."""

    @abstractmethod
    def decode(self, maps: Maps) -> Segmentation:
        """The maps of one whole image → its classes and objects."""


def to_byte(probability: Tensor) -> Tensor:
    """Probability 0 to 1 → uint8 0 to 255."""
    return (probability * 255).round_().to(torch.uint8)


def class_lookup(classes: Classes) -> NDArray[np.uint8]:
    """(256,) class id → output channel; ids that are no class become VOID."""
    table = np.full(256, VOID, np.uint8)
    table[[spec.id for spec in classes]] = np.arange(len(classes))
    return table


def connected_components(mask: NDArray[np.bool_], connectivity: int) -> InstanceMap:
    """(H, W) → component numbers from 1, in the order of their first pixel."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)[1]
    return labels.astype(np.int32, copy=False)


def drop_small(labels: InstanceMap, min_area: int) -> InstanceMap:
    """Remove labels of fewer pixels and number the rest from 1 without gaps."""
    areas = np.bincount(labels.ravel())
    keep = areas >= min_area
    keep[0] = False
    numbers = np.zeros(len(areas), np.int32)
    numbers[keep] = np.arange(1, keep.sum() + 1)
    return numbers[labels]


def clear_unclaimed(
    semantic: SemanticMap, claimed: NDArray[np.bool_], classes: Classes
) -> SemanticMap:
    """Pixels of thing classes that no object claims become background, where there is one."""
    background = next((spec.id for spec in classes if spec.kind == "background"), None)
    if background is None:
        return semantic
    is_thing = np.zeros(256, bool)
    is_thing[[spec.id for spec in classes if spec.kind == "thing"]] = True
    return np.where(is_thing[semantic] & ~claimed, np.uint8(background), semantic)
