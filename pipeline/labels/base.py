"""What an annotation format is, and what opening one finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.errors import DataProblems, SettingsError
from pipeline.records import AnnotatedImage, Classes, Label, Problem

_NAMED = 3  # of all that a note counts


def first_few(names: Sequence[str]) -> str:
    """The first few of many names, and how many more there are."""
    more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


@dataclass(frozen=True)
class Place:
    """Where a user says that annotated images are."""

    uri: str
    names: tuple[str, ...]
    """What lies directly below it; nothing below a file."""
    _below: dict[str, "Place"] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def look(cls, uri: str) -> "Place":
        """List it, but for what its name says is a file."""
        place = cls(storage.absolute(uri), ())
        return place if place.is_file else replace(place, names=tuple(storage.list_names(uri)))

    def below(self, *parts: str) -> "Place":
        """A folder in it, which is listed once: several formats ask, and it may be large."""
        uri = self.join(*parts)
        if uri not in self._below:
            self._below[uri] = Place(uri, tuple(storage.list_names(uri)))
        return self._below[uri]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.uri).suffix.lower()

    @property
    def is_file(self) -> bool:
        return self.suffix in (".json", ".csv", ".parquet")

    def join(self, *parts: str) -> str:
        return storage.join(self.uri, *parts)


@dataclass(frozen=True)
class AnnotatedData:
    """A data set of annotated images, as found; nothing is decoded yet."""

    uri: str
    format: str
    images: tuple[AnnotatedImage, ...]
    classes: Classes
    void: int
    """Value in the files' semantic maps for pixels that nobody labelled; below 0 where none is."""
    problems: tuple[Problem, ...] = field(default=(), repr=False)
    """What is wrong with parts of it, which are not among the images."""
    notes: tuple[Problem, ...] = field(default=(), repr=False)
    """What is worth a look, and stops nothing."""

    @property
    def has_instances(self) -> bool:
        return any(image.instances_uri for image in self.images)

    def split(self, name: str) -> list[AnnotatedImage]:
        """The images of one split."""
        return [image for image in self.images if image.split == name]

    def check(self) -> "AnnotatedData":
        """Itself, where nothing is wrong with it.

        Raises:
            DataProblems: with every problem, a line each.
        """
        if self.problems:
            raise DataProblems(tuple(str(problem) for problem in self.problems))
        return self


Opener = Callable[[Place, LabelSettings, float], AnnotatedData]
"""(where, settings, share held out where nothing names the splits) → what is there."""
LabelReader = Callable[[AnnotatedImage, Classes, int, tuple[int, ...] | None], Label]
"""(image, classes, void, (H, W) that the label must have where known) → its label."""


@dataclass(frozen=True)
class Format:
    """One way in which people keep annotations."""

    looks_for: str
    """What tells that data is of this format, in words."""
    settings: frozenset[str]
    """The label settings that mean something here, beside `format`."""
    fits: Callable[[Place], bool]
    """Whether data is of this format, from names and a file's header at most."""
    open: Opener
    read: LabelReader

    def check_settings(self, name: str, settings: LabelSettings) -> None:
        """Refuse a setting that would be passed over."""
        given = {key for key, value in settings if key != "format" and value is not None}
        for key in sorted(given - self.settings):
            raise SettingsError(f"setting labels.{key} means nothing to the format {name}")
