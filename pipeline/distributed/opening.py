"""Large images are looked at: how large they are, and what their intensities are."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.distributed.failures import Failure
from pipeline.distributed.part_stages import open_image
from pipeline.distributed.parts import grid_of, keep_of
from pipeline.distributed.predict import DEATHS
from pipeline.distributed.session import user_error
from pipeline.distributed.stages import GraphSettings
from pipeline.distributed.witness import gives_others
from pipeline.errors import TesseraError
from pipeline.images.lookup import MISSING
from pipeline.large.keeping import Keep, Opened, Rejected
from pipeline.records import Shard, SourceImage

TRIES = 3
"""Rounds in which an image or a part of it may fail."""
_WAIT_SECONDS = (1.0, 30.0)  # first and longest
_SECONDS = 0.5


@dataclass
class LargeImage:
    """A large image, or a small one of the same shard."""

    shard: Shard
    source: SourceImage
    keep: Keep
    found: Opened | Rejected
    pixels: "ray.ObjectRef[Any] | None" = None
    """Of one that is not read by window."""
    parts: int = 0


@dataclass
class Group:
    """Shards that are worked on together."""

    shards: list[Shard] = field(default_factory=list)
    images: list[LargeImage] = field(default_factory=list)

    @property
    def parts(self) -> int:
        return sum(image.parts for image in self.images)

    @property
    def decoded(self) -> int:
        shapes = [
            one.found.shape
            for one in self.images
            if one.pixels is not None and isinstance(one.found, Opened)
        ]
        return sum(height * width * channels for height, width, channels in shapes)


class Opener:
    """Looks at the images of shards, several at once.

    Args:
        check: called all the time; raises to end the work.
    """

    def __init__(self, settings: GraphSettings, check: Callable[[], None]) -> None:
        self.settings = settings
        self.check = check

    def open(self, shard: Shard, poison: Mapping[str, tuple[str, str]]) -> list[LargeImage]:
        """Look at the images of a shard, several at once."""
        images = []
        for source in shard.images:
            keep = keep_of(shard.id, source, self.settings)
            known = poison.get(source.image_id)
            rejected = None if known is None else Rejected("process", *known)
            if source.version == MISSING:
                rejected = Rejected("read", "not_found", "does not exist")
            images.append(LargeImage(shard, source, keep, rejected or Opened((0, 0, 0))))
        self.look([image for image in images if isinstance(image.found, Opened)])
        for image in images:
            if isinstance(image.found, Opened):
                image.parts = len(grid_of(image.found, self.settings))
        return images

    def look(self, images: Sequence[LargeImage]) -> None:
        """Find out what each is, again where its pixels went away with a session."""
        tries = Counter[str]()
        todo = list(images)
        while todo:
            failed = self._open_all(todo, tries)
            if len(failed) == len(todo):
                wait(max(tries.values()), self.check)
            todo = failed

    def _open_all(self, images: Sequence[LargeImage], tries: Counter[str]) -> list[LargeImage]:
        """Several at once; returns those that have to be tried again."""
        settings = ray.put(self.settings)
        refs = [
            cast(list[Any], _open_image.remote(image.source, image.keep, settings))
            for image in images
        ]
        return [
            image
            for image, (found, pixels) in zip(images, refs, strict=True)
            if not self._opened(image, found, pixels, tries)
        ]

    def _opened(self, image: LargeImage, found: Any, pixels: Any, tries: Counter[str]) -> bool:
        """What became of one; false where it has to be tried again."""
        try:
            image.found = get(found, self.check)
        except RayError as error:
            failure = failure_of(error)
            if failure is not None:
                failure.raise_if_fatal()
            tries[image.source.image_id] += 1
            if tries[image.source.image_id] < TRIES:
                return False
            if failure is not None and failure.of_the_store:
                dataset, uri = self.settings.dataset, image.source.uri
                if not (failure.unreadable and gives_others(dataset, uri)):
                    raise TesseraError(failure.message) from None
            image.found = blamed(failure)
            image.keep.keep_opened(image.found)
            return True
        if isinstance(image.found, Opened) and not image.found.by_window:
            image.pixels = pixels
        return True


def get(ref: "ray.ObjectRef[Any]", check: Callable[[], None]) -> Any:
    """What a task returns, with `check` called again and again while it is waited for."""
    while not ray.wait([ref], timeout=_SECONDS, fetch_local=False)[0]:
        check()
    return ray.get(ref)


def wait(barren: int, check: Callable[[], None]) -> None:
    """After so many rounds in a row of which nothing came."""
    first, longest = _WAIT_SECONDS
    end = time.monotonic() + min(first * 2**barren, longest)
    while time.monotonic() < end:
        check()
        time.sleep(0.1)


def failure_of(error: RayError) -> Failure | None:
    """The exception that a task ended with; None where its process died."""
    found = user_error(error)
    if found is None and isinstance(error, RayTaskError):
        found = error.cause
    return None if found is None else Failure.of(found)


def blamed(failure: Failure | None) -> Rejected:
    """What an image does, a part of which has failed too often."""
    if failure is None:
        return Rejected("process", "crash", "ends the process that works on a part of it")
    if failure.kind == MemoryError.__name__:
        return Rejected("process", "memory", "needs more memory than a process may have")
    if failure.of_the_store:
        return Rejected("read", "unreadable", failure.message)
    return Rejected("process", "defect", f"{failure.message}; please report this")


@ray.remote(num_returns=2, max_retries=DEATHS)
def _open_image(source: SourceImage, keep: Keep, settings: GraphSettings) -> tuple[Any, Any]:
    return open_image(source, keep, settings)
