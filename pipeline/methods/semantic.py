"""Classes of pixels. Objects of a thing class are its connected components: touching ones are one.

Legend: B batch, H height, W width, K classes.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.methods.base import (
    Method,
    class_lookup,
    clear_unclaimed,
    connected_components,
    drop_small,
    to_byte,
)
from pipeline.methods.losses import semantic_loss
from pipeline.records import Label, Maps, Segmentation, thing_ids


class SemanticMethod(Method):
    """One head: a softmax over the classes."""

    name = "semantic"
    judged_by = "pixels"

    @property
    def heads(self) -> dict[str, int]:
        return {"semantic": len(self.classes)}

    def targets(self, label: Label) -> dict[str, NDArray[np.generic]]:
        return {"semantic": class_lookup(self.classes)[label.semantic]}

    def loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        return semantic_loss(outputs["semantic"], targets["semantic"], self.settings)

    def maps(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        confidence, channel = outputs["semantic"].float().softmax(1).max(1)
        ids = torch.tensor([spec.id for spec in self.classes], dtype=torch.uint8)
        return {"class": ids.to(channel.device)[channel], "confidence": to_byte(confidence)}

    def decode(self, maps: Maps) -> Segmentation:
        semantic = maps["class"]
        instances = np.zeros(semantic.shape, np.int32)
        class_ids: list[int] = []
        for class_id in thing_ids(self.classes):
            found = drop_small(
                connected_components(semantic == class_id, connectivity=8), self.settings.min_area
            )
            instances = np.where(found > 0, found + len(class_ids), instances)
            class_ids += [class_id] * int(found.max(initial=0))
        areas = np.bincount(instances.ravel(), minlength=len(class_ids) + 1)[1:]
        certainty = np.bincount(
            instances.ravel(), maps["confidence"].ravel(), minlength=len(class_ids) + 1
        )[1:]
        return Segmentation(
            semantic=clear_unclaimed(semantic, instances > 0, self.classes),
            instances=instances.astype(np.int32),
            class_ids=np.array(class_ids, np.uint8),
            scores=(certainty / 255 / np.maximum(areas, 1)).astype(np.float32),
        )
