"""Where the images are that a COCO file names: beside it, or wherever a tool has put them since."""

from collections import defaultdict
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataError
from pipeline.labels.base import Place
from pipeline.labels.coco_json import CocoFile, CocoImage, Id
from pipeline.labels.splits import split_of

ANNOTATIONS = "annotations"
_IMAGE_FOLDERS = ("", "images", "JPEGImages", "data")
_TRIED = 5  # images that are looked for to find their folder


def image_root(
    place: Place, file: CocoFile, images: list[CocoImage], settings: LabelSettings
) -> str:
    """The first usual folder where one of the first images is, or where all folders are looked
    through for it."""
    if settings.images is not None:
        return storage.absolute(settings.images)
    here = file.uri.rpartition("/")[0]
    above = "" if here.count("/") < 3 and "://" in here else here.rpartition("/")[0]  # no bucket
    stem = PurePosixPath(file.uri).stem.removeprefix("instances_")
    split = split_of(stem)
    folders = [*_IMAGE_FOLDERS, stem, f"images/{stem}"]
    folders += [split, f"images/{split}"] if split else []
    tried = [normal(image.file_name) for image in images[:_TRIED]]
    inside = [path for path in tried if is_inside(path)]
    roots = [
        storage.join(base, f) if f else base for base in (here, above) if base for f in folders
    ]
    for root in roots:
        if any(storage.exists(storage.join(root, path)) for path in inside):
            return root
    if not images:
        return here
    whole = place.uri
    if place.is_file:
        whole = above if above and storage.name_of(here) == ANNOTATIONS else here
    names = set(map(storage.name_of, tried))
    for base in dict.fromkeys((here, whole)):
        if any(storage.name_of(path) in names for path in storage.list_paths(base)):
            return base
    raise DataError(
        f"{file.uri}: there is no {storage.name_of(tried[0])} below {whole}; "
        "say where its images are with --labels.images"
    )


def image_paths(images: list[CocoImage], there: list[str]) -> dict[Id, str]:
    """Image id → path of its file below the folder, of images that have one.

    That is the file_name itself. Where none is there, tools have written where the images lay when
    they were annotated: then it is the only file of that name, in whatever folder.
    """
    files = set(there)
    paths = {one.id: normal(one.file_name) for one in images if is_inside(one.file_name)}
    found = {id: path for id, path in paths.items() if path in files}
    if found:
        return found
    by_name: dict[str, list[str]] = defaultdict(list)
    for path in there:
        by_name[storage.name_of(path)].append(path)
    names = {one.id: storage.name_of(normal(one.file_name)) for one in images}
    return {id: by_name[name][0] for id, name in names.items() if len(by_name[name]) == 1}


def normal(file_name: str) -> str:
    """With the slashes of a path below a folder; Windows writes others."""
    return str(PurePosixPath(file_name.replace("\\", "/")))


def is_inside(file_name: str) -> bool:
    """Whether it is a path below the folder of the images."""
    path = PurePosixPath(normal(file_name))
    return not path.is_absolute() and ".." not in path.parts and "://" not in file_name
