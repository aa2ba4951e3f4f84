"""The maps around a part → the part's objects, and what it says to its neighbours.

An object that lies wholly in the part is a row already, but for its number. Of one that reaches
a side behind which there is more image, the sums and the runs of its pixels are handed on.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import MethodSettings
from pipeline.large.grid import Grid
from pipeline.large.keeping import Keep, columns, list_rows, one_row
from pipeline.methods.base import Ballot, PartitionMethod, count_votes, likeliest, paint
from pipeline.methods.components import keep_labels, renumbered
from pipeline.predicting.merging import runs_of
from pipeline.predicting.objects import ObjectSums, encode_masks, measures_of, sum_objects
from pipeline.predicting.stitch import Seams
from pipeline.records import Box, Classes, InstanceMap, Maps, Pixels, SemanticMap
from pipeline.scores import object_scores, sure_enough
from pipeline.tables.masks import encode_tiles
from pipeline.tables.schema import MASKS
from pipeline.tables.shard import object_rows

_LINES = ("top", "left", "right", "below")


@dataclass(frozen=True)
class Cut:
    """Objects of a part that may go on in other parts."""

    labels: NDArray[np.int64]
    """(S,) in the part."""
    sums: ObjectSums
    votes: NDArray[np.int64]
    """(S, T) pixels that say each class of things, in the order of ids."""
    certainty: NDArray[np.int64]
    """(S,) sum of 255 times the probability of each pixel."""
    runs: list[NDArray[np.int32]]
    """(R, 3) of each."""


@dataclass(frozen=True)
class _Seen:
    """The N objects of a part."""

    instances: InstanceMap
    votes: NDArray[np.int64]
    """(N, T) pixels that say each class of things, in the order of ids."""
    certainty: NDArray[np.int64]
    """(N,) sum of 255 times the probability of each pixel."""
    cut: NDArray[np.int64]
    """Those that may go on in other parts."""

    @classmethod
    def of(
        cls, labels: InstanceMap, ballot: Ballot, classes: Classes, core: Box, grid: Grid
    ) -> "_Seen":
        instances, n = renumbered(labels)
        votes = count_votes(instances, n, ballot, classes)
        certainty = _certainty(instances, n, ballot)
        return cls(instances, votes, certainty, _cut_labels(instances, core, grid))

    @property
    def n(self) -> int:
        return len(self.certainty)

    def without_doubtful(self, typical_area: float, settings: MethodSettings) -> "_Seen":
        """Those that are sure enough, as far as that can be told from one part."""
        areas = np.bincount(self.instances.ravel(), minlength=self.n + 1)[1:]
        scores = object_scores(self.certainty, areas, typical_area, settings)
        keep = sure_enough(scores, settings)
        keep[self.cut - 1] = True
        numbers = np.cumsum(keep, dtype=np.int64)
        return _Seen(
            keep_labels(self.instances, keep),
            self.votes[keep],
            self.certainty[keep],
            numbers[self.cut - 1],
        )


def label_part(
    keep: Keep,
    part: int,
    grid: Grid,
    method: PartitionMethod,
    maps: Maps,
    window: Box,
    scale: NDArray[np.int64],
    pixels: Pixels,
    key: tuple[str, str],
) -> None:
    """Label a part and keep what comes of it; done once this returns.

    Args:
        maps: (H, W) of the window around the part that `Method.halo` asks for.
        pixels: (H, W, C) of the part.
        key: the image and the shard.
    """
    core = grid.core(part)
    labels = method.label(maps, scale)
    y, x = core.y0 - window.y0, core.x0 - window.x0
    inside = (slice(y, y + core.y1 - core.y0), slice(x, x + core.x1 - core.x0))
    ballot = method.ballot({name: plane[inside] for name, plane in maps.items()})
    seen = _Seen.of(labels[inside], ballot, method.classes, core, grid)
    said = likeliest(seen.votes, method.classes)
    semantic = paint(maps["class"][inside], seen.instances, said, method.classes)
    typical_area = method.typical_area(scale)
    found = seen.without_doubtful(typical_area, method.settings)
    instances, n, cut = found.instances, found.n, found.cut
    sums = sum_objects(instances, pixels, n, core[:2])
    whole = np.setdiff1d(np.arange(1, n + 1), cut)
    rles = encode_masks(instances, sums.boxes, core[:2], whole)
    measures = measures_of(sums.take(whole - 1), rles, grid.height, grid.width)
    certain = object_scores(
        found.certainty[whole - 1], measures.areas, typical_area, method.settings
    )
    class_ids = likeliest(found.votes[whole - 1], method.classes)
    rows = object_rows(key, whole, class_ids, certain, measures, method.classes)
    keep.write("objects", part, rows)
    keep.write("masks", part, tiles_table(semantic, instances, n, core, key))
    going_on = Cut(
        cut,
        sums.take(cut - 1),
        found.votes[cut - 1],
        found.certainty[cut - 1],
        runs_of(instances, cut.tolist(), core[:2]),
    )
    keep.write("cut", part, cut_table(going_on))
    seams = _seams(labels, labels[inside], instances, n, (y, x))
    pixels_said = np.bincount(semantic.ravel(), minlength=256)
    keep.write("seams", part, seams_table(seams, pixels_said, typical_area))


def read_seams(keep: Keep, part: int) -> tuple[Seams, NDArray[np.int64], float]:
    """What a part says to its neighbours, its pixels of each class (256,), and what all parts say.

    That is the typical area of the image's objects.
    """
    row = keep.read("seams", part).to_pylist()[0]
    lines = {name: np.array(row[name], np.int32) for name in _LINES}
    return Seams(row["n"], **lines), np.array(row["pixels"], np.int64), row["typical_area"]


def read_cut(keep: Keep, part: int) -> Cut:
    """The objects of a part that may go on in others."""
    table = keep.read("cut", part)
    return Cut(
        table["label"].to_numpy(),
        ObjectSums(
            list_rows(table, "boxes"),
            table["area"].to_numpy(),
            list_rows(table, "moments"),
            list_rows(table, "values"),
            list_rows(table, "deviations"),
        ),
        list_rows(table, "votes"),
        table["certainty"].to_numpy(),
        [np.frombuffer(data, np.int32).reshape(-1, 3) for data in table["runs"].to_pylist()],
    )


def cut_table(cut: Cut) -> pa.Table:
    """What `read_cut` reads."""
    sums = cut.sums
    found = columns(
        {
            "label": cut.labels,
            "boxes": sums.boxes,
            "area": sums.areas,
            "moments": sums.moments,
            "values": sums.values,
            "deviations": sums.deviations,
            "votes": cut.votes,
            "certainty": cut.certainty,
        }
    )
    found["runs"] = pa.array([runs.tobytes() for runs in cut.runs], pa.large_binary())
    return pa.table(found)


def seams_table(seams: Seams, pixels: NDArray[np.int64], typical_area: float = 0.0) -> pa.Table:
    """What `read_seams` reads."""
    lines = [(name, getattr(seams, name).tolist(), pa.list_(pa.int32())) for name in _LINES]
    counts = ("pixels", pixels.tolist(), pa.list_(pa.int64()))
    size = ("typical_area", typical_area, pa.float64())
    return one_row([("n", seams.n, pa.int64()), *lines, counts, size])


def _seams(
    labels: InstanceMap,
    inside: InstanceMap,
    instances: InstanceMap,
    n: int,
    corner: tuple[int, int],
) -> Seams:
    """The lines along a core that lies at `corner` of a labelled window."""
    numbers = np.full(int(labels.max(initial=0)) + 1, n + 1, np.int32)  # n + 1: not in the core
    numbers[inside.ravel()] = instances.ravel()
    numbers[0] = 0
    (y, x), (height, width) = corner, instances.shape
    right = numbers[labels[y : y + height, x + width : x + width + 1]].ravel()
    below = numbers[labels[y + height : y + height + 1, max(x - 1, 0) : x + width + 1]].ravel()
    if len(below):
        missing = (int(x == 0), int(x + width == labels.shape[1]))
        below = np.pad(below, missing)
    return Seams(n, instances[0], instances[:, 0], right, below)


def _cut_labels(instances: InstanceMap, core: Box, grid: Grid) -> NDArray[np.int64]:
    """Labels at those sides of a part behind which there is more image."""
    sides = [
        instances[0] if core.y0 > 0 else None,
        instances[:, 0] if core.x0 > 0 else None,
        instances[-1] if core.y1 < grid.height else None,
        instances[:, -1] if core.x1 < grid.width else None,
    ]
    found = [np.unique(side) for side in sides if side is not None]
    labels = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return labels[labels > 0].astype(np.int64)


def tiles_table(
    semantic: SemanticMap, instances: InstanceMap, n: int, core: Box, key: tuple[str, str]
) -> pa.Table:
    """Rows of the masks table that name objects by their labels in the part."""
    tiles = encode_tiles(semantic, instances, n, core[:2])
    named = [{"image_id": key[0], "shard": key[1], **tile} for tile in tiles]
    return pa.Table.from_pylist(named, MASKS)


def _certainty(instances: InstanceMap, n: int, ballot: Ballot) -> NDArray[np.int64]:
    claimed = instances > 0
    total = np.bincount(instances[claimed], ballot.certainty[claimed], minlength=n + 1)[1:]
    return total.astype(np.int64)
