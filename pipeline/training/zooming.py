"""Annotated images enlarged or reduced, as the network sees them.

Pixels go through what `predicting.engine` does with those of images to predict, so that a network
learns from what it will see. Labels keep their values: that of the nearest pixel.

Legend: H height, W width, C channels.
"""

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.predicting.engine import resized
from pipeline.predicting.zoom import Zoom
from pipeline.records import Box, Label, ObjectMask, Pixels, Sample

P = TypeVar("P", bound=np.generic)


def zoomed(sample: Sample, zoom: Zoom) -> Sample:
    """The same image at another size; its pixels become float32."""
    if zoom.factor == 1:
        return sample
    label, shape = sample.label, sample.label.semantic.shape
    rows, columns = (_nearest(side, zoom) for side in shape)
    shown = np.ix_(rows, columns)  # which gives arrays in their usual order, row by row
    objects = tuple(
        found for one in label.objects if (found := _zoomed_object(one, rows, columns)) is not None
    )
    seen = Label(label.semantic[shown], label.instances[shown], objects, label.remarks)
    return replace(sample, pixels=_zoomed_pixels(sample.pixels, zoom), label=seen)


def zoomed_side(side: int, zoom: Zoom) -> int:
    """Pixels of the network that a side of an image is; what is begun counts as a whole one."""
    return zoom.seen(_whole(side, zoom))


def _whole(side: int, zoom: Zoom) -> int:
    """A side filled up to what is a whole number of the network's pixels."""
    step = zoom.stride(1)
    return -(-side // step) * step


def _nearest(side: int, zoom: Zoom) -> NDArray[np.int64]:
    """Which pixel of the image each of the network's shows."""
    middles = (np.arange(zoomed_side(side, zoom)) + 0.5) / float(zoom.factor)
    return np.minimum(middles.astype(np.int64), side - 1)


def _zoomed_pixels(pixels: Pixels, zoom: Zoom) -> Pixels:
    sides = [_whole(side, zoom) for side in pixels.shape[:2]]
    more = [(0, whole - side) for whole, side in zip(sides, pixels.shape[:2], strict=True)]
    planes = []
    for plane in np.moveaxis(pixels, -1, 0):  # one by one: a large image is larger as float32
        filled = torch.from_numpy(np.pad(plane, more, mode="edge").astype(np.float32))
        seen = resized(filled[None, None], *(zoom.seen(side) for side in sides))
        planes.append(seen[0, 0].numpy())
    return np.stack(planes, -1)


def _zoomed_object(
    one: ObjectMask, rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> ObjectMask | None:
    """None where the object lies between the pixels that are shown."""
    box = one.box
    y0, y1 = np.searchsorted(rows, (box.y0, box.y1)).tolist()
    x0, x1 = np.searchsorted(columns, (box.x0, box.x1)).tolist()
    mask = one.mask()[rows[y0:y1] - box.y0][:, columns[x0:x1] - box.x0]
    if not mask.any():
        return None
    return ObjectMask.pack(one.id, one.class_id, Box(y0, x0, y1, x1), mask)
