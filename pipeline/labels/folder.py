"""Annotated images in a folder or under a prefix:

    images/NAME.png       any readable image
    labels/NAME.png       object ids: an integer PNG or TIFF, 0 is background   (and, or)
    semantic/NAME.png     class ids: an 8-bit PNG or TIFF
    classes.yaml          the classes; needed with semantic/
    manifest.csv          optional: name, split, and further columns

Without classes.yaml there is one class of things, named `object`.
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline import storage
from pipeline.config import ReaderSettings
from pipeline.errors import DataError, RejectError, SettingsError, StorageError
from pipeline.images.reader import FORMATS, decode_image
from pipeline.parsing import parse_yaml
from pipeline.records import (
    VOID,
    AnnotatedImage,
    Classes,
    ClassSpec,
    Label,
    Sample,
    SemanticMap,
    thing_ids,
)

DEFAULT_CLASSES: Classes = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="object", kind="thing"),
)


class _ClassFile(BaseModel):
    """What classes.yaml holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: tuple[ClassSpec, ...] = Field(min_length=1)
    void: int = Field(VOID, ge=0, le=255)


@dataclass(frozen=True)
class AnnotatedData:
    """A data set of annotated images, as found; nothing is decoded yet."""

    uri: str
    images: tuple[AnnotatedImage, ...]
    classes: Classes
    void: int
    """Value in the files' semantic maps for pixels that nobody labelled."""

    @property
    def has_instances(self) -> bool:
        return any(image.instances_uri for image in self.images)

    def split(self, name: str) -> list[AnnotatedImage]:
        """The images of one split."""
        return [image for image in self.images if image.split == name]


def open_folder(uri: str, val_fraction: float) -> AnnotatedData:
    """Find the images, labels, classes and splits of an annotated folder.

    Raises:
        DataError: one line that names what is missing or does not fit.
    """
    uri = storage.absolute(uri)
    images = _by_stem(uri, "images")
    if not images:
        raise DataError(f"{uri}/images holds no PNG, JPEG or TIFF image")
    instances, semantic = _by_stem(uri, "labels"), _by_stem(uri, "semantic")
    classes, void = _read_classes(uri, bool(semantic))
    manifest = _read_manifest(uri, val_fraction, images)
    found = []
    for name, row in manifest.items():
        if name not in instances and name not in semantic:
            raise DataError(f"{images[name]} has no label: neither labels/{name}.* nor semantic/")
        if semantic and name not in semantic:
            raise DataError(f"{images[name]} has no class map: semantic/{name}.* is missing")
        attributes = {k: v for k, v in row.items() if k not in ("name", "split")}
        found.append(
            AnnotatedImage(
                name=name,
                split=row["split"],
                image_uri=images[name],
                instances_uri=instances.get(name),
                semantic_uri=semantic.get(name),
                attributes=attributes,
            )
        )
    return AnnotatedData(uri, tuple(found), classes, void)


def read_sample(image: AnnotatedImage, classes: Classes, void: int) -> Sample:
    """Decode an image and its labels.

    Raises:
        DataError: one line that names the file and what is wrong with it.
    """
    pixels = _decode(image.image_uri)
    return Sample(image.name, pixels, read_label(image, classes, void, pixels.shape[:2]))


def read_label(
    image: AnnotatedImage, classes: Classes, void: int, shape: tuple[int, ...] | None = None
) -> Label:
    """Decode an image's labels alone; `shape` (H, W) is what they must have, where known."""
    instances = semantic = None
    if image.instances_uri:
        instances = _decode_ids(image.instances_uri, shape).astype(np.int32)
    if image.semantic_uri:
        ids = _decode_ids(image.semantic_uri, shape if instances is None else instances.shape)
        semantic = _to_class_ids(ids, image.semantic_uri, classes, void)
    if semantic is None and instances is not None:
        background = next((c.id for c in classes if c.kind == "background"), 0)
        thing = thing_ids(classes)[0]
        semantic = np.where(instances > 0, thing, background).astype(np.uint8)
    if semantic is None:
        raise DataError(f"{image.image_uri} has no label")
    if instances is None:
        instances = np.zeros(semantic.shape, np.int32)
    return Label(semantic, instances)


def _by_stem(uri: str, folder: str) -> dict[str, str]:
    """Stem → URI of the images in a sub-folder; none where it is missing."""
    names = [n for n in storage.list_names(storage.join(uri, folder)) if _is_image(n)]
    twice = [stem for stem, n in Counter(PurePosixPath(n).stem for n in names).items() if n > 1]
    if twice:
        raise DataError(f"{uri}/{folder} holds more than one file named {twice[0]}.*")
    return {PurePosixPath(name).stem: storage.join(uri, folder, name) for name in names}


def _is_image(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in FORMATS and not name.startswith(".")


def _read_classes(uri: str, has_semantic: bool) -> tuple[Classes, int]:
    path = storage.join(uri, "classes.yaml")
    if not storage.exists(path):
        if has_semantic:
            raise DataError(
                f"{path} is missing: semantic/ needs a list of classes, such as "
                "'classes: [{id: 0, name: background, kind: background}, …]'"
            )
        return DEFAULT_CLASSES, VOID
    try:
        found = _ClassFile.model_validate(parse_yaml(storage.read_bytes(path).decode(), path))
    except SettingsError as error:
        raise DataError(str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}") from error
    ids = [spec.id for spec in found.classes]
    if len(set(ids)) < len(ids) or len({spec.name for spec in found.classes}) < len(ids):
        raise DataError(f"{path}: two classes have the same id or name")
    if not has_semantic and len(thing_ids(found.classes)) != 1:
        raise DataError(f"{path}: without semantic/ there can be only one class of things")
    return tuple(sorted(found.classes, key=lambda spec: spec.id)), found.void


def _read_manifest(
    uri: str, val_fraction: float, images: dict[str, str]
) -> dict[str, dict[str, str]]:
    """Name → the manifest's row, with a split; without a manifest, a split by name."""
    path = storage.join(uri, "manifest.csv")
    if not storage.exists(path):
        return {name: {"split": split} for name, split in _split_by_name(images, val_fraction)}
    rows = list(csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig"))))
    if not rows or "name" not in rows[0] or "split" not in rows[0]:
        raise DataError(f"{path} needs a header with the columns name and split")
    manifest: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["name"] not in images:
            raise DataError(f"{path} names {row['name']}, of which there is no image")
        if row["name"] in manifest:
            raise DataError(f"{path} names {row['name']} twice")
        manifest[row["name"]] = row
    return manifest


def _split_by_name(names: Iterable[str], val_fraction: float) -> list[tuple[str, str]]:
    """Held out by a hash of the name: adding images moves none from one split to the other."""
    place = {n: int(hashlib.blake2b(n.encode(), digest_size=4).hexdigest(), 16) for n in names}
    limit = val_fraction * 2**32
    held_out = {name for name, value in place.items() if value < limit}
    ordered = sorted(place, key=lambda name: place[name])
    if not held_out and len(ordered) > 1:
        held_out = {ordered[0]}
    if len(held_out) == len(ordered) and len(ordered) > 1:
        held_out.remove(ordered[-1])
    return [(name, "val" if name in held_out else "train") for name in sorted(place)]


def _decode(uri: str) -> NDArray[np.generic]:
    try:
        return decode_image(storage.read_bytes(uri), uri, ReaderSettings())
    except RejectError as error:
        raise DataError(f"{uri} {error.message}") from error
    except StorageError as error:
        raise DataError(str(error)) from error


def _decode_ids(uri: str, shape: tuple[int, ...] | None) -> NDArray[np.generic]:
    ids = _decode(uri)
    if ids.shape[-1] != 1 or ids.dtype.kind not in "ui":
        raise DataError(
            f"{uri} takes one channel of integer ids, not {ids.shape[-1]} of {ids.dtype}"
        )
    if shape is not None and ids.shape[:2] != tuple(shape):
        raise DataError(
            f"{uri} is {ids.shape[0]} x {ids.shape[1]}, its image {shape[0]} x {shape[1]}"
        )
    return ids[..., 0]


def _to_class_ids(ids: NDArray[np.generic], uri: str, classes: Classes, void: int) -> SemanticMap:
    table = np.full(256, VOID, np.int32)
    table[[spec.id for spec in classes]] = [spec.id for spec in classes]
    known = {spec.id for spec in classes} | {void}
    unknown = sorted(set(np.unique(ids).tolist()) - known)
    if unknown:
        raise DataError(f"{uri} holds class ids that classes.yaml does not name: {unknown[:5]}")
    return np.where(ids == void, VOID, table[np.minimum(ids, 255)]).astype(np.uint8)
