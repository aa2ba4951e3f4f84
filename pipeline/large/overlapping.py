"""The maps around a part → the part's objects, where objects may overlap.

An object belongs to the part in which the pixel lies that stands for it, and is a row there,
whole. Others reach into the part: they are drawn, and named by the part that they belong to and by
that pixel.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.large.grid import Grid
from pipeline.large.keeping import Keep, columns, list_rows
from pipeline.large.label import Cut, cut_table, seams_table, tiles_table
from pipeline.methods.base import FoundObject, OverlapMethod
from pipeline.overlaps import boxes_meet, draw_objects
from pipeline.predicting.objects import ObjectSums, measure_whole
from pipeline.predicting.stitch import Seams
from pipeline.records import Box, Classes, Maps, ObjectMask, Pixels, thing_ids
from pipeline.scores import sure_enough
from pipeline.tables.shard import object_rows


def label_whole(
    keep: Keep,
    part: int,
    grid: Grid,
    method: OverlapMethod,
    maps: Maps,
    window: Box,
    pixels: Pixels,
    key: tuple[str, str],
) -> None:
    """Find the objects of a part and keep what comes of it; done once this returns.

    Args:
        maps: (H, W) of the window around the part that `Method.halo` asks for.
        pixels: (H, W, C) of the part and what `OverlapMethod.largest` asks for around it.
        key: the image and the shard.
    """
    core = grid.core(part)
    y, x = core.y0 - window.y0, core.x0 - window.x0
    inside = (slice(y, y + core.y1 - core.y0), slice(x, x + core.x1 - core.x0))
    seen = method.find(maps)
    semantic = method.paint(maps["class"], [one.mask for one in seen])[inside]
    sure = sure_enough(method.scores(seen), method.settings)
    found = [_moved(one, window[:2]) for one, kept in zip(seen, sure, strict=True) if kept]
    own = [one for one in found if _holds(core, one.place)]
    reaching = [one for one in found if boxes_meet(core, one.mask.box)]
    others = [one for one in reaching if not _holds(core, one.place)]
    _keep_rows(keep, part, grid, method, own, pixels, key)
    named = [replace(one, mask=replace(one.mask, id=k)) for k, one in enumerate([*own, *others], 1)]
    # In the order that they have in the whole image: of equals the later one lies on top.
    ordered = sorted(named, key=lambda one: one.place)
    whole = draw_objects([_at(one.mask, window) for one in ordered], maps["class"].shape)
    instances = np.ascontiguousarray(whole[inside])
    keep.write("masks", part, tiles_table(semantic, instances, len(named), core, key))
    keep.write("places", part, _places([one.place for one in own]))
    keep.write("others", part, _places([one.place for one in others]))
    keep.write("cut", part, cut_table(_nothing_cut(pixels.shape[2], method.classes)))
    counts = np.bincount(semantic.ravel(), minlength=256)
    keep.write("seams", part, seams_table(_silent_seams(len(own), core, grid), counts))


def ids_in_masks(keep: Keep, part: int, grid: Grid, first: NDArray[np.int64]) -> NDArray[np.int64]:
    """The object, in the image, of each label in the masks of a part.

    Args:
        first: (parts,) how many objects the parts before each have.
    """
    n = keep.read("places", part).num_rows
    ids = [first[part] + np.arange(1, n + 1)]
    known: dict[int, dict[tuple[int, int], int]] = {}
    for y, x in list_rows(keep.read("others", part), "place").tolist():
        owner = next(grid.parts_in(Box(y, x, y + 1, x + 1)))
        if owner not in known:
            places = list_rows(keep.read("places", owner), "place").tolist()
            known[owner] = {(y, x): k for k, (y, x) in enumerate(places, 1)}
        ids.append(np.array([first[owner] + known[owner][y, x]]))
    return np.concatenate(ids).astype(np.int64)


def _keep_rows(
    keep: Keep,
    part: int,
    grid: Grid,
    method: OverlapMethod,
    own: list[FoundObject],
    pixels: Pixels,
    key: tuple[str, str],
) -> None:
    around = grid.around(grid.core(part), method.largest)
    masks = [one.mask for one in own]
    measures = measure_whole(
        [_at(mask, around) for mask in masks], pixels, around[:2], (grid.height, grid.width)
    )
    class_ids = np.array([mask.class_id for mask in masks], np.uint8)
    ids, scores = np.arange(1, len(own) + 1), method.scores(own)
    keep.write("objects", part, object_rows(key, ids, class_ids, scores, measures, method.classes))


def _moved(one: FoundObject, corner: tuple[int, int]) -> FoundObject:
    """From a window that begins there to the image."""
    (y, x), box = corner, one.mask.box
    moved = Box(box.y0 + y, box.x0 + x, box.y1 + y, box.x1 + x)
    place = (one.place[0] + y, one.place[1] + x)
    return replace(one, place=place, mask=replace(one.mask, box=moved))


def _at(mask: ObjectMask, window: Box) -> ObjectMask:
    """From the image to a window of it."""
    y0, x0, y1, x1 = mask.box
    box = Box(y0 - window.y0, x0 - window.x0, y1 - window.y0, x1 - window.x0)
    return replace(mask, box=box)


def _holds(box: Box, place: tuple[int, int]) -> bool:
    return box.y0 <= place[0] < box.y1 and box.x0 <= place[1] < box.x1


def _places(places: list[tuple[int, int]]) -> pa.Table:
    return pa.table(columns({"place": np.array(places, np.int64).reshape(-1, 2)}))


def _nothing_cut(channels: int, classes: Classes) -> Cut:
    """No object goes on in another part: each is whole where it belongs."""
    values = np.zeros((0, channels))
    none = np.zeros(0, np.int64)
    return Cut(
        labels=none,
        sums=ObjectSums(
            np.zeros((0, 4), np.int64), none, np.zeros((0, 5), np.int64), values, values
        ),
        votes=np.zeros((0, len(thing_ids(classes))), np.int64),
        certainty=none,
        runs=[],
    )


def _silent_seams(n: int, core: Box, grid: Grid) -> Seams:
    height, width = core.y1 - core.y0, core.x1 - core.x0
    sides = (width, height, height * (core.x1 < grid.width), (width + 2) * (core.y1 < grid.height))
    return Seams(n, *(np.zeros(side, np.int32) for side in sides))
