"""Images of a split that nothing labels, which would otherwise be passed over in silence."""

from collections.abc import Iterator

from pipeline.labels.base import AnnotatedData, Place
from pipeline.labels.files import is_image
from pipeline.labels.pairs import IMAGES
from pipeline.labels.splits import is_split, split_of
from pipeline.records import Problem
from pipeline.wording import plural


def unlabelled(place: Place, data: AnnotatedData) -> list[Problem]:
    """A note for each folder of a split's images of which none was found with a label.

    Test images are left out, which seldom have labels, and images that are problems anyway.
    """
    told = [problem.where for problem in data.problems]
    taken = {uri.rpartition("/")[0] for uri in (*(i.image_uri for i in data.images), *told)}
    notes = []
    for folder in _folders(place, taken):
        number = sum(map(is_image, folder.names))
        if number:
            what = f"holds {plural(number, 'image')} that nothing labels; passed over"
            notes.append(Problem(folder.uri, what))
    return notes


def _folders(place: Place, taken: set[str]) -> Iterator[Place]:
    """SPLIT/, SPLIT/images/ and images/SPLIT/; what is taken may be large and is not listed."""
    around = [(name,) for name in place.names]
    inside = [(top, name) for top in IMAGES if top in place.names and place.join(top) not in taken
              for name in place.below(top).names]  # fmt: skip
    for parts in filter(_is_meant_to_be_labelled, (*around, *inside)):
        if place.join(*parts) in taken:
            continue
        split = place.below(*parts)
        yield split
        for name in IMAGES:
            if name in split.names and split.join(name) not in taken:
                yield split.below(name)


def _is_meant_to_be_labelled(parts: tuple[str, ...]) -> bool:
    """Also `val2017`, but not `val_labels`."""
    bare = parts[-1].rstrip("0123456789")
    return is_split(bare) and split_of(bare) != "test"
