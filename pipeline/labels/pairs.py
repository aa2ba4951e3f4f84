"""Images and the maps that label them, in pairs of folders:

    train/ and trainannot/ or train_labels/, also for val/ and test/              CamVid
    images/ and masks/, labels/ or annotations/, also with train/, val/ inside    ADE20K, fast.ai
    train/images/ and train/masks/, also for val/ and test/                       StarDist
    JPEGImages/ and SegmentationClass/                                            Pascal VOC
    701_StillsRaw_full/ and LabeledApproved_full/                                 CamVid's own
    x.png and x_masks.png, or x_img.png and x_masks.png, in one folder            Cellpose
    imagesTr/x_0000.png and labelsTr/x.png                                        nnU-Net

A map's name is the image's, or that followed by one of `_ENDINGS`. What its values mean, classes
or objects, names don't tell.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.images.signatures import READABLE
from pipeline.labels.base import Place, first_few
from pipeline.labels.classes import LIST_FILES
from pipeline.labels.files import by_stem, is_image, stem
from pipeline.labels.foreign import advice
from pipeline.labels.splits import is_split, split_of
from pipeline.records import Problem
from pipeline.wording import plural

SEMANTIC = "semantic"
"""Class maps beside the object ids in labels/."""
IMAGES = ("images", "image", "imgs")
MAPS = ("masks", "mask", "labels", "annotations", "labelmaps")
OBJECT_MAPS = ("labels", SEMANTIC, "masks", "mask")
"""The same where objects are looked for: those of labels/ come first."""
VOC = ("JPEGImages", "SegmentationClass", "ImageSets")
VOC_OBJECTS = "SegmentationObject"
CHANNEL = "_0000"
"""What nnU-Net ends an image's name with, as the number of its first channel."""
_CAMVID = ("701_StillsRaw_full", "LabeledApproved_full")
_AFTER_SPLIT = ("annot", "_labels", "_annot", "_masks", "_mask", "_label", "labels", "masks")
_ENDINGS = ("_L", "_P", "_mask", "_masks", "_cp_masks", "_label", "_labels", "-labelled", "_gt",
            "_seg", "_segmentation")  # fmt: skip
_IMAGE_ENDINGS = ("", "_img", "_image", "_sat", CHANNEL)  # that maps in the same folder lack
_OF_OBJECTS = ("labels", SEMANTIC)
_CVAT = "default"  # the split of what is in none


@dataclass(frozen=True)
class Pair:
    """A folder of images, that of their maps, and the split that the folders' names say."""

    images: tuple[str, ...]
    maps: tuple[str, ...]
    split: str | None
    tells_objects: bool = False
    """The maps' names say that they are of object ids."""

    @property
    def maps_folder(self) -> str:
        """The folder of the maps, for sentences."""
        return "/".join((*self.maps, ""))


def find_pairs(place: Place, maps: tuple[str, ...] = MAPS) -> list[Pair]:
    """The pairs that are there; `maps` are names that a folder of maps may have."""
    found = [*_alike(place), *_by_name(place), *_two_folders(place, maps)]
    return found or [*_in_splits(place, maps)] or [*_beside(place)]


def are_objects(place: Place) -> bool:
    """Whether names say that maps are of object ids, and no class list that they are of classes."""
    if set(LIST_FILES) & set(place.names):
        return False
    return any(pair.tells_objects for pair in find_pairs(place, OBJECT_MAPS))


def match(
    place: Place, pair: Pair, problems: list[Problem], notes: list[Problem]
) -> dict[str, tuple[str, str | None]]:
    """Name → URIs of the image and of its map, None where it has none.

    Maps without an image are a note: the image may be of a kind that is not read.

    Raises:
        DataError: the folder of images or of maps holds other files instead.
    """
    folder, maps_folder = place.join(*pair.images), place.join(*pair.maps)
    images = by_stem(folder, problems)
    endings: tuple[str, ...] = ("", *_ENDINGS)
    if pair.images == pair.maps:
        endings = _ENDINGS
        maps = {name: images.pop(name) for name in _maps_beside(set(images))}
    else:
        maps = by_stem(maps_folder, problems)
        if not maps and (other := advice(place.below(*pair.maps))):
            raise DataError(other)
    if not images and (other := advice(place.below(*pair.images))):
        raise DataError(other)
    if not images:
        problems.append(Problem(folder, f"holds no {READABLE} image"))
    found: dict[str, tuple[str, str | None]] = {}
    for name, uri in images.items():
        bases = dict.fromkeys(name.removesuffix(end) for end in _IMAGE_ENDINGS)
        fitting = (base + end for base in bases for end in endings)
        found[name] = uri, next((maps.pop(one) for one in fitting if one in maps), None)
    if maps and images:
        number, where = plural(len(maps), "map"), "/".join(pair.images)
        what = f"holds {number} of which there is no image in {where}/"
        notes.append(Problem(maps_folder, f"{what}: {first_few(sorted(maps))}"))
    return found


def distinct_name(name: str, pair: Pair, taken: Collection[str]) -> str:
    """The same name in the folders of two splits is told apart by the split's."""
    return f"{pair.split or '/'.join(pair.images)}/{name}" if name in taken else name


def _alike(place: Place) -> Iterator[Pair]:
    names = set(place.names)
    for name in place.names:
        split = split_of(name)
        maps = [name + end for end in _AFTER_SPLIT if name + end in names]
        if maps and (split or name == _CVAT):
            yield Pair((name,), (maps[0],), split)


def _by_name(place: Place) -> Iterator[Pair]:
    for images, maps in (VOC[:2], _CAMVID):
        if {images, maps} <= set(place.names):
            yield Pair((images,), (maps,), None)


def _two_folders(place: Place, maps: tuple[str, ...]) -> Iterator[Pair]:
    for images, labels, inside in _folders(place, maps):
        tells = labels in _OF_OBJECTS
        splits = [name for name in inside if "." not in name and split_of(name)]
        if splits and not any(is_image(n) for s in splits for n in place.below(labels, s).names):
            continue  # such as YOLO's text files
        for split in splits:
            yield Pair((images, split), (labels, split), split_of(split), tells)
        if splits:
            return
        if any(map(is_image, inside)):  # not COCO's annotations/, which holds JSON
            yield Pair((images,), (labels,), None, tells)
            return


def _in_splits(place: Place, maps: tuple[str, ...]) -> Iterator[Pair]:
    for split in filter(is_split, place.names):
        for images, labels, inside in _folders(place.below(split), maps):
            if any(map(is_image, inside)):
                tells = labels in _OF_OBJECTS
                yield Pair((split, images), (split, labels), split_of(split), tells)
                break


def _beside(place: Place) -> Iterator[Pair]:
    for split in filter(is_split, place.names):
        maps = _maps_beside(_stems(place.below(split).names))
        if maps:
            yield Pair((split,), (split,), split_of(split), _are_masks(maps))
    maps = _maps_beside(_stems(place.names))
    if maps:
        yield Pair((), (), None, _are_masks(maps))


def _are_masks(maps: Iterable[str]) -> bool:
    """Cellpose's name for object ids; others end in _mask."""
    return all(name.endswith("_masks") for name in maps)


def _folders(place: Place, maps: tuple[str, ...]) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """The folder of images, and each that may be of their maps, with what is in it."""
    images = next((name for name in IMAGES if name in place.names), None)
    for labels in maps if images else ():
        if images and labels in place.names:
            yield images, labels, place.below(labels).names


def _stems(names: Iterable[str]) -> set[str]:
    return {stem(name) for name in names if is_image(name)}


def _maps_beside(stems: set[str]) -> list[str]:
    """Those of the files in one folder that are maps of others."""

    def is_map(name: str) -> bool:
        bases = [name.removesuffix(end) for end in _ENDINGS if name.endswith(end)]
        return any(base + end in stems for base in bases for end in _IMAGE_ENDINGS)

    return sorted(filter(is_map, stems))
