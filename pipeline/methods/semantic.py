"""Classes of pixels. Objects of a thing class are its connected components: touching ones are one.

Legend: B batch, H height, W width, K classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.methods.base import Ballot, PartitionMethod, class_lookup, to_byte
from pipeline.methods.components import connected_components, drop_small
from pipeline.methods.losses import semantic_loss
from pipeline.records import InstanceMap, Maps, thing_ids


class SemanticMethod(PartitionMethod):
    """One head: a softmax over the classes."""

    name = "semantic"
    judged_by = "pixels"

    @property
    def heads(self) -> dict[str, int]:
        return {"semantic": len(self.classes)}

    def targets(
        self, semantic: Tensor, instances: Tensor, covered: Tensor | None = None
    ) -> dict[str, Tensor]:
        return {"semantic": class_lookup(self.classes).to(semantic.device)[semantic.long()]}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        return semantic_loss(outputs["semantic"], targets["semantic"], self.settings)

    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        confidence, channel = outputs["semantic"].float().softmax(1).max(1)
        ids = torch.tensor([spec.id for spec in self.classes], dtype=torch.uint8)
        return {"class": ids.to(channel.device)[channel], "confidence": to_byte(confidence)}

    def halo(self, scale: NDArray[np.int64]) -> int:
        # Specks are dropped, and a speck is less long than it has pixels.
        return self.settings.least_area + 1

    def label(self, maps: Maps, scale: NDArray[np.int64]) -> InstanceMap:
        labels = np.zeros(maps["class"].shape, np.int32)
        last = 0
        for class_id in thing_ids(self.classes):
            mask = maps["class"] == class_id
            found = drop_small(connected_components(mask, connectivity=8), self.settings.least_area)
            labels = np.where(found > 0, found + last, labels)
            last += int(found.max(initial=0))
        return labels.astype(np.int32, copy=False)

    def ballot(self, maps: Maps) -> Ballot:
        return Ballot(thing=maps["class"], certainty=maps["confidence"])
