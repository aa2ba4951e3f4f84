"""Label files → arrays: object ids, and class ids said by value or by colour.

Legend: H height, W width.
"""

from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.images.reader import has_palette
from pipeline.images.signatures import detect_format
from pipeline.labels.files import decode, decode_file, read_file
from pipeline.labels.legend import Color, Legend, Used, classes_meant
from pipeline.records import (
    VOID,
    AnnotatedImage,
    Classes,
    InstanceMap,
    Label,
    Remark,
    SemanticMap,
    thing_ids,
)

BY_COLOUR = Remark("class maps that are read by their colours, since their values say others")
AS_CLASSES = Remark(
    "object ids that look like classes: they leave no background, or are one id, in several pieces "
    "or 255 (if they are classes, or masks of 0 and 255, --labels.format semantic with a class "
    "list reads them)"
)
_LARGEST_KEPT = 2**16 - 1  # higher ids are renumbered: tables by id stay small, float32 is exact


def read_maps(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None
) -> Label:
    """The label of an image with a map of object ids, of class ids, or both.

    `image.annotation` is the legend of its class map (`Legend.to_json`).
    """
    instances = semantic = None
    remarks: tuple[Remark, ...] = ()
    if image.instances_uri:
        instances = read_instances(image.instances_uri, shape)
    if image.semantic_uri:
        known = shape if instances is None else instances.shape
        legend = Legend.from_json(image.annotation)
        semantic, remarks = read_semantic(image.semantic_uri, known, classes, void, legend)
    if semantic is None and instances is not None:
        remarks = (AS_CLASSES,) if _look_like_classes(instances) else ()
        background = next((c.id for c in classes if c.kind == "background"), 0)
        semantic = np.where(instances > 0, thing_ids(classes)[0], background).astype(np.uint8)
    if semantic is None:
        raise DataError(f"{image.image_uri} has no label")
    if instances is None:
        instances = np.zeros(semantic.shape, np.int32)
    return Label(semantic, instances, remarks=remarks)


def _look_like_classes(ids: InstanceMap) -> bool:
    most = int(ids.max(initial=0))
    if most == 0:
        return False
    is_one = bool(np.isin(ids, (0, most)).all())
    pieces = int(cc3d.connected_components(ids > 0, connectivity=8).max()) if is_one else 0
    return bool(ids.all()) or (is_one and (most == 255 or pieces > 1))


def read_instances(uri: str, shape: tuple[int, ...] | None) -> InstanceMap:
    """(H, W) object ids of a file of 8, 16 or 32 bits; very high ones are renumbered in order.

    Raises:
        DataError: they can't be read, or are places in a palette whose first is not black.
    """
    data = read_file(uri)
    pixels = decode_file(data, uri, as_indices=True)
    check_shape(uri, pixels, shape)
    if detect_format(data) == "JPEG":
        raise DataError(f"{uri} is a JPEG, which does not keep ids as they were; save PNG or TIFF")
    if pixels.shape[-1] == 3 and not pixels[..., 1:].any():
        pixels = pixels[..., :1]  # as BBBC039 has them
    ids: NDArray[np.integer] = _one_channel(uri, pixels)
    if has_palette(data):
        _check_palette(uri, ids, decode_file(data, uri))
    if ids.size and (ids.min() < 0 or ids.max() >= 2**63):
        raise DataError(f"{uri} holds ids below 0 or over 63 bits")
    if ids.max(initial=0) > _LARGEST_KEPT:
        present, flat = np.unique(ids, return_inverse=True)
        numbers = np.arange(len(present)) + (0 if present[0] == 0 else 1)
        renumbered: InstanceMap = numbers.astype(np.int32)[flat.reshape(ids.shape)]
        return renumbered
    return ids.astype(np.int32)


def _check_palette(uri: str, ids: NDArray[np.integer], shown: NDArray[Any]) -> None:
    """Refuse places in a palette that an encoder made up: which of them is background, it says."""
    black: NDArray[np.bool_] = shown.max(-1) == 0
    if not black[ids == 0].all() or (ids.all() and black.any()):
        raise DataError(
            f"{uri} has a palette in which 0, which is no object, is not black; save plain integers"
        )


def read_ids(uri: str, shape: tuple[int, ...] | None) -> NDArray[np.integer]:
    """(H, W) whole numbers of a file of one channel, in its own type."""
    pixels = decode(uri, as_indices=True)
    check_shape(uri, pixels, shape)
    return _one_channel(uri, pixels)


def read_semantic(
    uri: str, shape: tuple[int, ...] | None, classes: Classes, void: int, legend: Legend
) -> tuple[SemanticMap, tuple[Remark, ...]]:
    """(H, W) class ids, VOID where nobody labelled, of a map of values or of colours."""
    data = read_file(uri)
    pixels = decode_file(data, uri, as_indices=True)
    check_shape(uri, pixels, shape)
    if detect_format(data) == "JPEG":
        pixels = _without_traces(pixels, uri, legend)
    if legend.colours and pixels.shape[-1] == 3 and pixels.dtype == np.uint8:
        return _from_colours(pixels.astype(np.uint32), uri, legend), ()
    ids = _one_channel(uri, pixels)
    meanings = {spec.id: spec.id for spec in classes} | dict.fromkeys((void, *legend.void), VOID)
    used = _used(uri, data, ids, meanings, legend)
    meant = classes_meant(used, legend)
    table = np.zeros(256, np.uint8)
    table[list(used.values)] = meant
    is_doubtful = meant != used.by_value and None not in used.by_value
    return table[ids], (BY_COLOUR,) if is_doubtful else ()


def _without_traces(pixels: NDArray[Any], uri: str, legend: Legend) -> NDArray[Any]:
    """A JPEG in black and white as it was meant; of others, what is beside an edge is lost."""
    if {color for color, _ in legend.colours} != {(0, 0, 0), (255, 255, 255)}:
        raise DataError(
            f"{uri} is a JPEG, which does not keep values as they were; save PNG or TIFF (two "
            "classes are read where the class list has the colours 0,0,0 and 255,255,255)"
        )
    return np.where(pixels >= 128, 255, 0).astype(np.uint8)


def _used(
    uri: str, data: bytes, ids: NDArray[np.integer], meanings: dict[int, int], legend: Legend
) -> Used:
    """The values of a map with their meaning, and their colours where the legend has some."""
    values = tuple(np.unique(ids).tolist())
    colours: tuple[Color, ...] = ((-1, -1, -1),) * len(values)
    has_colours = bool(legend.colours) and ids.dtype == np.uint8
    if has_colours:
        shown = decode_file(data, uri)
        somewhere = np.zeros(256, np.intp)  # a pixel of each value
        somewhere[ids.ravel()] = np.arange(ids.size)
        rows = shown.reshape(ids.size, -1)[somewhere[list(values)]]
        colours = tuple((r, g, b) for r, g, b in np.broadcast_to(rows, (len(values), 3)).tolist())
    named = dict(legend.colours)
    return Used(
        uri=uri,
        values=values,
        by_value=tuple(meanings.get(value) for value in values),
        colours=colours,
        by_colour=tuple(named.get(color) for color in colours),
        in_palette=has_colours and has_palette(data),
    )


def check_shape(uri: str, pixels: NDArray[np.generic], shape: tuple[int, ...] | None) -> None:
    """Refuse a map of another height and width than its image has."""
    if shape is not None and pixels.shape[:2] != tuple(shape):
        raise DataError(
            f"{uri} is {pixels.shape[0]} x {pixels.shape[1]}, its image {shape[0]} x {shape[1]}"
        )


def _one_channel(uri: str, pixels: NDArray[np.generic]) -> NDArray[np.integer]:
    ids: NDArray[Any] = pixels[..., 0]
    if pixels.shape[-1] == 1 and ids.dtype.kind == "f":
        # ImageJ keeps 32-bit label images as floats.
        whole: NDArray[np.int64] = np.nan_to_num(ids, nan=-1, posinf=-1, neginf=-1).astype(np.int64)
        if np.array_equal(whole, ids):
            return whole
    is_gray = pixels.shape[-1] == 3 and bool((pixels == pixels[..., :1]).all())
    if (pixels.shape[-1] != 1 and not is_gray) or ids.dtype.kind not in "ui":
        raise DataError(
            f"{uri} takes one channel of integer ids, not {pixels.shape[-1]} of {pixels.dtype}"
        )
    return ids


def _from_colours(pixels: NDArray[np.uint32], uri: str, legend: Legend) -> SemanticMap:
    """(H, W, 3) red, green, blue → class ids."""
    rows = sorted((*color, value) for color, value in legend.colours)
    entries = np.array(rows, np.uint32)  # by colour, so by key
    keys = entries[:, 0] << 16 | entries[:, 1] << 8 | entries[:, 2]
    wanted = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    unknown = np.unique(wanted[keys[place] != wanted])
    if len(unknown):
        named = [(int(k) >> 16, int(k) >> 8 & 255, int(k) & 255) for k in unknown[:3]]
        raise DataError(f"{uri} holds colours that the palette does not name: {named}")
    found: SemanticMap = entries[place, 3].astype(np.uint8)
    return found
