"""Where files of outlines lie that are named as images are, and which belongs to which image."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline import storage
from pipeline.labels.base import Place, first_few
from pipeline.labels.files import by_stem, is_image, stem
from pipeline.labels.outline_files import READERS, looks_like_labelme
from pipeline.labels.pairs import IMAGES, Pair, distinct_name
from pipeline.labels.splits import is_split, split_of
from pipeline.records import Problem
from pipeline.wording import plural

YOLO = ".txt"
"""The files that every image has where it has objects."""
_LABELME = ".json"
_FOLDERS = ("labels", "annotations", "geojson", "json")


@dataclass(frozen=True)
class Layout:
    """What kind of files of outlines a data set has, and in which folders."""

    suffix: str
    pairs: list[Pair]


@dataclass(frozen=True)
class Outlined:
    """An image and the file of its outlines."""

    image: str
    outlines: str | None
    split: str | None
    """What folders say of it."""


def find_layout(place: Place) -> Layout | None:
    """Of what kind most files are that have an image's name, and where they lie."""
    best: Layout | None = None
    most = 0
    candidates = list(_candidates(place))
    for suffix in READERS:
        counts = {pair: len(_paired(place, pair, suffix)) for pair in candidates}
        pairs, count = [pair for pair in candidates if counts[pair]], sum(counts.values())
        if count > most and (suffix != _LABELME or _is_labelme(place, pairs[0])):
            best, most = Layout(suffix, pairs), count
    return best


def _is_labelme(place: Place, pair: Pair) -> bool:
    name = _paired(place, pair, _LABELME)[0]
    return looks_like_labelme(place.join(*pair.maps, name))


def _candidates(place: Place) -> Iterator[Pair]:
    around = [((name,), split_of(name)) for name in place.names if is_split(name)]
    for parts, split in [((), None), *around]:
        names = _below(place, parts).names
        images = next(((*parts, name) for name in IMAGES if name in names), parts)
        outlines = [(*parts, name) for name in _FOLDERS if name in names]
        for folder in dict.fromkeys([*outlines, images, parts]):
            yield Pair(images, folder, split)
            for inside in filter(is_split, _below(place, images).names if images else ()):
                if inside in _below(place, folder).names and images != parts:
                    yield Pair((*images, inside), (*folder, inside), split_of(inside))


def _below(place: Place, parts: tuple[str, ...]) -> Place:
    return place.below(*parts) if parts else place


def _paired(place: Place, pair: Pair, suffix: str) -> list[str]:
    """The files of outlines in a pair of folders that have an image."""
    names = [n for n in _below(place, pair.maps).names if n.lower().endswith(suffix)]
    if not names:
        return []
    images = [name for name in _below(place, pair.images).names if is_image(name)]
    stems = {*images, *map(stem, images)}
    return [name for name in names if name[: -len(suffix)] in stems]


def match_outlines(
    place: Place, layout: Layout, problems: list[Problem], notes: list[Problem]
) -> dict[str, Outlined]:
    """Name → its files; an image without outlines is left out or, where YOLO's are, is empty."""
    found: dict[str, Outlined] = {}
    bare = []
    taken: set[str] = set()
    for pair in layout.pairs:
        names = _paired(place, pair, layout.suffix)
        there = {n[: -len(layout.suffix)]: place.join(*pair.maps, n) for n in names}
        for key, image in by_stem(place.join(*pair.images), problems).items():
            if image in taken:  # outlined in two folders: the first is
                continue
            outlines = there.get(key) or there.get(storage.name_of(image))
            if outlines is None:
                bare.append(key)
            if outlines or layout.suffix == YOLO:
                taken.add(image)
                name = distinct_name(key, pair, found)
                if name in found:
                    problems.append(Problem(image, f"has the name of {found[name].image}"))
                found[name] = Outlined(image, outlines, pair.split)
    if bare:
        what = "taken for empty" if layout.suffix == YOLO else "left out"
        number, few = plural(len(bare), "image"), first_few(sorted(bare))
        notes.append(Problem(place.uri, f"has {number} without outlines, {what}: {few}"))
    return found
