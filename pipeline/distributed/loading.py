"""The annotated images of a training: decoded in the object store or, where it is too small, as
streams that are read again in every epoch. Either way each image is read and measured once first.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
from ray.data.dataset import MaterializedDataset

from pipeline.config import ConfiguredSettings, TrainSettings
from pipeline.distributed.session import Resources
from pipeline.distributed.streaming import StreamedSamples, decoded_bytes
from pipeline.distributed.survey import Survey, read_images, summarise, survey
from pipeline.labels import AnnotatedData
from pipeline.survey.fingerprint import USED_SPLITS


@dataclass(frozen=True)
class Loaded:
    """What the images say, and their pixels where there is room for them."""

    survey: Survey
    decoded: Mapping[str, MaterializedDataset[Any]]
    """Of each split, in the object store that all workers share; empty where it is too small."""

    def streams(self, settings: ConfiguredSettings) -> dict[str, StreamedSamples]:
        """Of each split; empty where the decoded images are in memory."""
        if self.decoded:
            return {}
        data, facts = self.survey.data, self.survey.facts
        return {
            split: StreamedSamples.of(
                data, split, facts, settings.channels, settings.normalize, settings.zoom
            )
            for split in USED_SPLITS
        }


def load(data: AnnotatedData, settings: TrainSettings, resources: Resources) -> Loaded:
    """Read every image of both splits."""
    budget = settings.cache_bytes
    if budget is None:
        budget = resources.store_bytes // 2
    if decoded_bytes(data) > budget:
        return Loaded(survey(data, settings.channels, splits=USED_SPLITS), {})
    images = {split: data.split(split) for split in USED_SPLITS}
    decoded: dict[str, MaterializedDataset[Any]] = {
        split: read_images(data, members, keep_pixels=True).materialize()
        for split, members in images.items()
        if members
    }
    everything = [image for members in images.values() for image in members]
    facts = _facts(list(decoded.values()))
    return Loaded(summarise(data, everything, facts, settings.channels), decoded)


def _facts(splits: Sequence[MaterializedDataset[Any]]) -> Iterable[pa.Table]:
    """What was found in the images, without their pixels."""
    if not splits:
        return ()
    first, *others = splits
    whole = first.union(*others) if others else first  # which Ray Data makes of two or more
    columns = whole.select_columns(["facts", "problem"])
    return cast(Iterable[pa.Table], columns.iter_batches(batch_size=None, batch_format="pyarrow"))
