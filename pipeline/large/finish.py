"""All parts of a large image → its rows, a part at a time.

What is held of the whole image are the lines along its seams and the objects that touch them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import MethodSettings
from pipeline.errors import TesseraError
from pipeline.large.grid import Grid
from pipeline.large.keeping import Keep, Opened
from pipeline.large.label import Cut, read_cut, read_seams
from pipeline.large.overlapping import ids_in_masks
from pipeline.methods.base import likeliest
from pipeline.predicting.merging import add_up, encode_runs, merge_sums
from pipeline.predicting.objects import ObjectSums, measures_of
from pipeline.predicting.stitch import Stitching, stitch
from pipeline.records import Classes, SourceImage
from pipeline.scores import object_scores, sure_enough
from pipeline.tables.growing import GrowingShard
from pipeline.tables.masks import keep_in_tile, repaint_tile
from pipeline.tables.schema import MASKS
from pipeline.tables.shard import ClassTotals, count_rows, image_row, object_rows

_TOGETHER = 4096  # objects at seams whose masks are joined at a time


@dataclass(frozen=True)
class _Crossing:
    """Objects that touch a seam: G of them, from S parts."""

    ids: NDArray[np.int64]
    """(G,) in the image."""
    owner: NDArray[np.int64]
    """(S,) the object of each part, from 0."""
    part: NDArray[np.int64]
    """(S,) the part of the image that it lies in."""
    label: NDArray[np.int64]
    """(S,) in that part."""
    class_ids: NDArray[np.uint8]
    """(G,)."""
    said: NDArray[np.uint8]
    """(S,) the class that it was painted with."""
    scores: NDArray[np.float32]
    """(G,)."""
    sums: ObjectSums
    runs: list[NDArray[np.int32]]
    """(R, 3) of each of the S."""
    kept: NDArray[np.bool_]
    """(G,) which are sure enough."""

    @property
    def gone(self) -> NDArray[np.int64]:
        """Ids of those that are not, in order."""
        return self.ids[~self.kept]

    def renumbered(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Ids in the image, of objects that are kept, as they are without the others."""
        numbers: NDArray[np.int64] = ids - np.searchsorted(self.gone, ids)
        return numbers


def finish_image(
    keep: Keep,
    grid: Grid,
    source: SourceImage,
    opened: Opened,
    classes: Classes,
    settings: MethodSettings,
    out: GrowingShard,
) -> int:
    """Write the rows of an image whose parts are all labelled. Returns its objects.

    Raises:
        TesseraError: parts disagree about a seam: a defect.
    """
    said = [read_seams(keep, part) for part in range(len(grid))]
    stitching = stitch((grid.down, grid.across), [seams for seams, _, _ in said])
    if stitching.torn:
        raise TesseraError(
            f"{source.uri}: parts differ about {stitching.torn} pixels at their seams; "
            "please report this"
        )
    crossing = _crossing(keep, grid, stitching, classes, said[0][2], settings)
    pixels = np.sum([counts for _, counts, _ in said], axis=0)
    objects, areas = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for part in range(len(grid)):
        ids = stitching.object_ids(part)
        rows = keep.read("objects", part)
        numbers = pa.array(crossing.renumbered(ids[rows["object_id"].to_numpy() - 1]), pa.int64())
        out.add_table("objects", rows.set_column(1, rows.schema.field(1), numbers))
        _count(objects, areas, rows)
        if settings.overlapping:
            ids = ids_in_masks(keep, part, grid, stitching.first)
        masks, moved = _masks(keep.read("masks", part), ids, crossing, part)
        out.add_table("masks", masks)
        pixels += moved
    for rows in _crossing_rows(crossing, grid, source, classes, out.provenance.shard):
        out.add_table("objects", rows)
        _count(objects, areas, rows)
    out.add("counts", count_rows(source, ClassTotals(pixels, objects, areas), classes))
    n_objects = stitching.n_objects - len(crossing.gone)
    out.add("images", [image_row(source, opened.shape, n_objects, out.provenance)])
    return n_objects


def _count(objects: NDArray[np.int64], areas: NDArray[np.int64], rows: pa.Table) -> None:
    class_ids = rows["class_id"].to_numpy()
    objects += np.bincount(class_ids, minlength=256)
    areas += np.bincount(class_ids, rows["area"].to_numpy(), minlength=256).astype(np.int64)


def _crossing(
    keep: Keep,
    grid: Grid,
    stitching: Stitching,
    classes: Classes,
    typical_area: float,
    settings: MethodSettings,
) -> _Crossing:
    cuts = [read_cut(keep, part) for part in range(len(grid))]
    part = np.repeat(np.arange(len(grid)), [len(cut.labels) for cut in cuts])
    label = np.concatenate([cut.labels for cut in cuts])
    ids, owner = np.unique(stitching.ids_of(stitching.first[part] + label - 1), return_inverse=True)
    votes = _joined(cuts, "votes")
    total = add_up(votes, owner, len(ids))
    sums = merge_sums(ObjectSums.joined([cut.sums for cut in cuts]), owner, len(ids))
    certainty = add_up(_joined(cuts, "certainty"), owner, len(ids))
    scores = object_scores(certainty, sums.areas, typical_area, settings)
    return _Crossing(
        ids=ids,
        owner=owner,
        part=part,
        label=label,
        class_ids=likeliest(total, classes),
        said=likeliest(votes, classes),
        scores=scores,
        sums=sums,
        runs=[runs for cut in cuts for runs in cut.runs],
        kept=sure_enough(scores, settings),
    )


def _joined(cuts: list[Cut], name: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.concatenate([getattr(cut, name) for cut in cuts])
    return found


def _crossing_rows(
    crossing: _Crossing, grid: Grid, source: SourceImage, classes: Classes, shard: str
) -> Iterator[pa.Table]:
    """Rows of the objects that touch seams."""
    order = np.argsort(crossing.owner, kind="stable")
    ends = np.searchsorted(crossing.owner[order], np.arange(len(crossing.ids) + 1))
    kept = np.flatnonzero(crossing.kept)
    for start in range(0, len(kept), _TOGETHER):
        chosen = kept[start : start + _TOGETHER]
        sums = crossing.sums.take(chosen)
        rles = [
            encode_runs(
                np.concatenate([crossing.runs[i] for i in order[ends[k] : ends[k + 1]]]), box
            )
            for k, box in zip(chosen, sums.boxes.tolist(), strict=True)
        ]
        yield object_rows(
            (source.image_id, shard),
            crossing.renumbered(crossing.ids[chosen]),
            crossing.class_ids[chosen],
            crossing.scores[chosen],
            measures_of(sums, rles, grid.height, grid.width),
            classes,
        )


def _masks(
    rows: pa.Table, ids: NDArray[np.int64], crossing: _Crossing, part: int
) -> tuple[pa.Table, NDArray[np.int64]]:
    """The tiles of a part with the numbers of its objects, and how many pixels changed class."""
    here = np.flatnonzero(crossing.part == part)
    differs = here[crossing.class_ids[crossing.owner[here]] != crossing.said[here]]
    changed: dict[int, int] = {}
    moved = np.zeros(256, np.int64)
    for i in differs.tolist():
        now, runs = int(crossing.class_ids[crossing.owner[i]]), crossing.runs[i]
        area = int((runs[:, 2] - runs[:, 1]).sum())
        moved[crossing.said[i]] -= area
        moved[now] += area
        changed[int(crossing.label[i])] = now
    tiles = rows.to_pylist()
    if changed:
        tiles = [repaint_tile(tile, changed) for tile in tiles]
    return pa.Table.from_pylist([_named(tile, ids, crossing) for tile in tiles], MASKS), moved


def _named(tile: dict[str, Any], ids: NDArray[np.int64], crossing: _Crossing) -> dict[str, Any]:
    """A tile with the objects that are kept, as they are called in the image."""
    names = ids[np.array(tile["object_ids"], np.int64) - 1]
    keep = ~np.isin(names, crossing.gone)
    if not keep.all():
        tile = keep_in_tile(tile, keep)
    return {**tile, "object_ids": crossing.renumbered(names[keep]).tolist()}
