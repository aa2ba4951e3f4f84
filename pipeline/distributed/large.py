"""Shards with large images: their parts are worked on by all workers, then put together.

Three steps, each a Ray Data graph over the parts that still lack it: *predict* (read → network →
keep), *label*, and *finish*, which commits a shard. A part that fails is tried again by itself, so
who is to blame is plain: an image of which one part ends its process again and again is a reject.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import ray
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from pipeline import storage
from pipeline.distributed.failures import Failure
from pipeline.distributed.listening import listening
from pipeline.distributed.opening import TRIES, Group, LargeImage, Opener, blamed, wait
from pipeline.distributed.part_graphs import find_fault, label_parts, predict_parts
from pipeline.distributed.parts import Part, grid_of
from pipeline.distributed.predict import DEATHS
from pipeline.distributed.session import Resources, user_error
from pipeline.distributed.stages import GraphSettings, ShardResult
from pipeline.distributed.timing import NO_SECONDS, StageSeconds
from pipeline.errors import TesseraError
from pipeline.large.keeping import Keep, Opened, Rejected, parts_folder
from pipeline.memory import peak_memory
from pipeline.records import Reject, Shard, SourceImage

S = TypeVar("S")
T = TypeVar("T")

_PARTS = 4096  # of one group of shards: bounds what the driver knows and the disk holds at a time
_DECODED = 400_000_000  # values of images that are decoded whole, of one group
_MOST_TRIES = 6
_SECONDS = 0.5

Graph = Callable[[Group, Sequence[Part], GraphSettings, Resources], Generator[Part, None, None]]
OnParts = Callable[[int, int], None]
"""Told how many parts are done, of how many, in all steps of the images at hand."""


@dataclass(frozen=True)
class _Cost:
    """What the work on parts has taken."""

    peak_memory: int = 0
    """Most bytes that a process held."""
    seconds: StageSeconds = NO_SECONDS

    def __add__(self, other: "_Cost") -> "_Cost":
        return _Cost(max(self.peak_memory, other.peak_memory), self.seconds + other.seconds)


class LargeShards:
    """The shards of one run that are worked on in parts.

    Args:
        resources: what the cluster has now.
        renew: starts the session afresh after an execution that hung, and returns what there is.
        check: called all the time; raises to end the work.
    """

    def __init__(
        self,
        settings: GraphSettings,
        resources: Callable[[], Resources],
        renew: Callable[[], None],
        check: Callable[[], None],
        on_trouble: Callable[[str], None],
        on_parts: OnParts,
    ) -> None:
        self.settings = settings
        self.resources = resources
        self.renew = renew
        self.check = check
        self.on_trouble = on_trouble
        self.on_parts = on_parts
        self.opener = Opener(settings, check)

    def compute(
        self, shards: Iterable[Shard], poison: Mapping[str, tuple[str, str]]
    ) -> Iterator[ShardResult]:
        """Yields each shard when it is committed.

        Args:
            poison: image id → code and message of the images that are not to be touched.

        Raises:
            TesseraError: something that no further try would mend, or too many in vain.
        """
        for group in self._groups(shards, poison):
            cost = self._work(group, "scales", predict_parts)
            self._sum_scales(group)
            cost += self._work(group, "seams", label_parts)
            yield from self._finish(group, cost)

    def _groups(
        self, shards: Iterable[Shard], poison: Mapping[str, tuple[str, str]]
    ) -> Iterator[Group]:
        group = Group()
        for shard in shards:
            group.images += self.opener.open(shard, poison)
            group.shards.append(shard)
            if group.parts >= _PARTS or group.decoded >= _DECODED:
                yield group
                group = Group()
        if group.shards:
            yield group

    def _work(
        self,
        group: Group,
        step: str,
        graph: Graph,
    ) -> "_Cost":
        """Take every part of a group through a step."""
        cost, barren = _Cost(), 0
        tries: Counter[tuple[str, str, int]] = Counter()
        while True:
            done = {id(image): image.keep.done(step) for image in group.images}
            waiting = list(_waiting(group, done))
            if not waiting:
                return cost
            left = {part.key: (image, part) for image, part in waiting}
            failures: dict[tuple[str, str, int], Failure] = {}
            problem: Exception | None = None
            parts = [part for _, part in waiting]
            running = graph(group, parts, self.settings, self.resources())
            try:
                for part in listening(running, self.check):
                    image, _ = left[part.key]
                    cost += _Cost(part.peak_memory, part.seconds)
                    if part.failure is not None:
                        failures[part.key] = part.failure
                        continue
                    del left[part.key]
                    if part.reject is not None:
                        self._reject(image, part.reject)
                    else:
                        done[id(image)].add(part.number)
                    self._tell(group, step, done)
            except (RayError, ExecutionTimeoutError) as error:
                mine = user_error(error)
                if mine is not None:
                    raise mine from None
                problem = error
            if not left:
                continue
            for failure in failures.values():
                failure.raise_if_fatal()
            barren = barren + 1 if len(left) == len(waiting) else 0
            if problem is not None:
                self._start_afresh(group)
            gone = {key for key in left if key not in failures} if problem is None else set()
            self._judge(group, step, left, failures, gone, tries, barren)
            if barren and problem is None:
                wait(barren, self.check)

    def _judge(
        self,
        group: Group,
        step: str,
        left: Mapping[tuple[str, str, int], tuple[LargeImage, Part]],
        failures: Mapping[tuple[str, str, int], Failure],
        gone: Set[tuple[str, str, int]],
        tries: Counter[tuple[str, str, int]],
        barren: int,
    ) -> None:
        """What becomes of the parts that a round has left.

        Args:
            gone: parts of which nothing came but that processes died, in a round that went on:
                suspects, of which one an image is tried alone at once.
        """
        tries.update(left.keys())
        reason = next(iter(failures.values())).message if failures else "a process died"
        self.on_trouble(f"parts of large images to try again: {len(left):,}, since {reason}")
        tried: set[int] = set()
        for key, (image, part) in left.items():
            suspect = key in gone and id(image) not in tried
            if isinstance(image.found, Rejected) or not (suspect or tries[key] >= TRIES):
                continue
            tried.add(id(image))
            failure = failures.get(key)
            if failure is not None and failure.of_the_store and barren:
                raise TesseraError(f"no part could be finished in {tries[key]} tries: {reason}")
            if failure is not None:
                self._reject(image, blamed(failure))
            elif fault := find_fault(group, part, step, self.settings, self.check):
                self._reject(image, Rejected("process", *fault))
            elif tries[key] >= _MOST_TRIES:
                raise TesseraError(
                    f"a part of {image.source.uri} failed {tries[key]} times, though nothing is "
                    "wrong with it: the process that works on it dies"
                )

    def _reject(self, image: LargeImage, reject: Rejected) -> None:
        if isinstance(image.found, Opened):
            image.found = reject
            image.keep.keep_opened(reject)

    def _tell(self, group: Group, step: str, done: Mapping[int, set[int]]) -> None:
        first = 0 if step == "scales" else group.parts
        self.on_parts(first + sum(map(len, done.values())), 2 * group.parts)

    def _start_afresh(self, group: Group) -> None:
        """Images that are decoded whole are gone with the session."""
        self.renew()
        self.opener.look([image for image in group.images if image.pixels is not None])

    def _sum_scales(self, group: Group) -> None:
        images = [image for image in group.images if isinstance(image.found, Opened)]
        for _ in self._insist(lambda image: _sum_scale.remote(image.keep, image.parts), images):
            pass

    def _finish(self, group: Group, cost: "_Cost") -> Iterator[ShardResult]:
        """Commit the shards of a group, several at once."""
        settings = ray.put(self.settings)
        share = _Cost(cost.peak_memory, cost.seconds / len(group.shards))

        def start(shard: Shard) -> "ray.ObjectRef[ShardResult]":
            images = [image for image in group.images if image.shard is shard]
            found = [(image.source, image.keep, image.found) for image in images]
            return _finish_shard.remote(shard, found, settings, share)

        for result in self._insist(start, group.shards):
            yield result
            folder = parts_folder(self.settings.dataset, self.settings.run)
            storage.remove_folder(storage.join(folder, result.shard))

    def _insist(self, start: Callable[[S], "ray.ObjectRef[T]"], items: Iterable[S]) -> Iterator[T]:
        """What a task makes of each item, as it comes; one that fails is tried again.

        Each task may be done twice: it writes the same files again.
        """
        running = {start(item): (item, 1) for item in items}
        while running:
            ready, _ = ray.wait(list(running), timeout=_SECONDS)
            self.check()
            for ref in ready:
                item, tries = running.pop(ref)
                try:
                    yield ray.get(ref)
                except RayError as error:
                    mine = user_error(error)
                    if mine is not None:
                        Failure.of(mine).raise_if_fatal()
                    if tries >= TRIES:
                        raise
                    self.on_trouble(
                        f"large images are put together again, since {_reason(mine, error)}"
                    )
                    wait(tries, self.check)
                    running[start(item)] = (item, tries + 1)


def _reason(mine: TesseraError | None, error: RayError) -> str:
    return str(mine) if mine is not None else f"a process died ({type(error).__name__})"


def _waiting(group: Group, done: Mapping[int, set[int]]) -> Iterator[tuple[LargeImage, Part]]:
    for image in group.images:
        if isinstance(image.found, Opened):
            for number in range(image.parts):
                if number not in done[id(image)]:
                    yield image, Part(image.shard.id, image.source, number, image.found)


@ray.remote(num_cpus=0.5)
def _sum_scale(keep: Keep, parts: int) -> None:
    """What labelling has to know of the whole image, from what it knows of the parts."""
    if not keep.has_scale():
        first, *others = (keep.read_scale(part) for part in range(parts))
        keep.write_scale(sum(others, start=first))


@ray.remote(max_retries=DEATHS)
def _finish_shard(
    shard: Shard,
    images: Sequence[tuple[SourceImage, Keep, Opened | Rejected]],
    settings: GraphSettings,
    cost: _Cost,
) -> ShardResult:
    """Write the rows of a shard whose parts are all labelled, and commit it."""
    began = time.perf_counter()
    from pipeline.large.finish import finish_image
    from pipeline.tables.growing import growing_shard
    from pipeline.tables.lease import check_held
    from pipeline.tables.shard import Provenance, reject_rows

    provenance = Provenance(shard.id, settings.run, settings.model, shard.partition)
    objects = pixels = done = 0
    codes = []
    held = partial(check_held, settings.lease)
    with growing_shard(settings.dataset, provenance, shard.images, held) as out:
        for source, keep, found in images:
            if isinstance(found, Rejected):
                reject = Reject(source, found.stage, found.code, found.message)
                out.add("rejects", reject_rows([reject]))
                codes.append(found.code)
                continue
            grid = grid_of(found, settings)
            objects += finish_image(
                keep, grid, source, found, settings.classes, settings.method, out
            )
            pixels += found.shape[0] * found.shape[1]
            done += 1
    return ShardResult(
        shard=shard.id,
        images=done,
        objects=objects,
        reject_codes=tuple(codes),
        pixels=pixels,
        bytes_read=sum(max(source.size, 0) for source in shard.images),
        bytes_written=out.written,
        peak_memory=max(cost.peak_memory, peak_memory()),
        seconds=cost.seconds + StageSeconds(commit=time.perf_counter() - began),
    )
