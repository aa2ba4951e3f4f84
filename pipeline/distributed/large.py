"""Shards with large images: their parts are worked on by all workers, then put together.

Three steps, each a Ray Data graph over the parts that still lack it: *predict* (read → network →
keep), *label*, and *finish*, which commits a shard. A part that fails is tried again by itself, so
who is to blame is plain: an image of which one part ends its process again and again is a reject.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from pipeline import storage
from pipeline.distributed.failures import Failure
from pipeline.distributed.listening import listening
from pipeline.distributed.parts import (
    KeepPart,
    LabelPart,
    Part,
    PredictPart,
    grid_of,
    keep_of,
    open_image,
    part_of,
    read_part,
    to_table,
)
from pipeline.distributed.predict import DEATHS, placement, set_context
from pipeline.distributed.session import Resources, user_error
from pipeline.distributed.stages import GraphSettings, ShardResult
from pipeline.errors import TesseraError
from pipeline.images.collection import MISSING
from pipeline.large.keeping import Keep, Opened, Rejected, parts_folder
from pipeline.records import Reject, Shard, SourceImage

_PARTS = 4096  # of one group of shards: bounds what the driver knows and the disk holds at a time
_DECODED = 400_000_000  # values of images that are decoded whole, of one group
_TRIES = 3  # rounds that a part may fail, or that nothing at all may come of
_WAIT_SECONDS = (1.0, 30.0)
_SECONDS = 0.5

OnParts = Callable[[int, int], None]
"""Told how many parts are done, of how many, in all steps of the images at hand."""


@dataclass
class _Image:
    """A large image, or a small one of the same shard."""

    shard: Shard
    source: SourceImage
    keep: Keep
    found: Opened | Rejected
    pixels: "ray.ObjectRef[Any] | None" = None
    """Of one that is not read by window."""
    parts: int = 0


@dataclass
class _Group:
    """Shards that are worked on together."""

    shards: list[Shard] = field(default_factory=list)
    images: list[_Image] = field(default_factory=list)

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
            peak = self._work(group, "scales", self._predict)
            self._sum_scales(group)
            peak = max(peak, self._work(group, "seams", self._label))
            yield from self._finish(group, peak)

    def _groups(
        self, shards: Iterable[Shard], poison: Mapping[str, tuple[str, str]]
    ) -> Iterator[_Group]:
        group = _Group()
        for shard in shards:
            group.images += self._open(shard, poison)
            group.shards.append(shard)
            if group.parts >= _PARTS or group.decoded >= _DECODED:
                yield group
                group = _Group()
        if group.shards:
            yield group

    def _open(self, shard: Shard, poison: Mapping[str, tuple[str, str]]) -> list[_Image]:
        """Look at the images of a shard, several at once."""
        images = []
        for source in shard.images:
            keep = keep_of(shard.id, source, self.settings)
            known = poison.get(source.image_id)
            rejected = None if known is None else Rejected("process", *known)
            if source.version == MISSING:
                rejected = Rejected("read", "not_found", "does not exist")
            images.append(_Image(shard, source, keep, rejected or Opened((0, 0, 0))))
        todo = [image for image in images if isinstance(image.found, Opened)]
        tries = Counter[str]()
        while todo:
            failed = self._open_all(todo, tries)
            if len(failed) == len(todo):
                self._wait(max(tries.values()))
            todo = failed
        for image in images:
            if isinstance(image.found, Opened):
                image.parts = len(grid_of(image.found, self.settings))
        return images

    def _open_all(self, images: Sequence[_Image], tries: Counter[str]) -> list[_Image]:
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

    def _opened(self, image: _Image, found: Any, pixels: Any, tries: Counter[str]) -> bool:
        """What became of one; false where it has to be tried again."""
        try:
            image.found = self._get(found)
        except RayError as error:
            mine = user_error(error)
            failure = None if mine is None else Failure.of(mine)
            if failure is not None:
                failure.raise_if_fatal()
            tries[image.source.image_id] += 1
            if tries[image.source.image_id] < _TRIES:
                return False
            if failure is not None and failure.of_the_store:
                raise TesseraError(failure.message) from None
            image.found = _blamed(failure)
            image.keep.keep_opened(image.found)
            return True
        if isinstance(image.found, Opened) and not image.found.by_window:
            image.pixels = pixels
        return True

    def _get(self, ref: "ray.ObjectRef[Any]") -> Any:
        while not ray.wait([ref], timeout=_SECONDS, fetch_local=False)[0]:
            self.check()
        return ray.get(ref)

    def _work(
        self,
        group: _Group,
        step: str,
        graph: Callable[[_Group, Sequence[Part]], Generator[Part, None, None]],
    ) -> int:
        """Take every part of a group through a step; returns the most bytes a process held."""
        peak, barren = 0, 0
        tries: Counter[tuple[str, str, int]] = Counter()
        done = {id(image): image.keep.done(step) for image in group.images}
        while waiting := list(_waiting(group, done)):
            left = {part.key: (image, part) for image, part in waiting}
            failures: dict[tuple[str, str, int], Failure] = {}
            problem: Exception | None = None
            try:
                for part in listening(graph(group, [p for _, p in waiting]), self.check):
                    image, _ = left[part.key]
                    peak = max(peak, part.peak_memory)
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
            self._judge(left, failures, tries, problem, barren)
            if problem is not None:
                self._start_afresh(group)
            elif barren:
                self._wait(barren)
        return peak

    def _judge(
        self,
        left: Mapping[tuple[str, str, int], tuple[_Image, Part]],
        failures: Mapping[tuple[str, str, int], Failure],
        tries: Counter[tuple[str, str, int]],
        problem: Exception | None,
        barren: int,
    ) -> None:
        """What becomes of the parts that a round has left."""
        tries.update(left.keys())
        reason = next(iter(failures.values())).message if failures else "a process died"
        self.on_trouble(f"parts of large images to try again: {len(left):,}, since {reason}")
        for key, (image, _) in left.items():
            if tries[key] < _TRIES or isinstance(image.found, Rejected):
                continue
            failure = failures.get(key)
            if failure is not None and failure.of_the_store and barren:
                raise TesseraError(f"no part could be finished in {tries[key]} tries: {reason}")
            if failure is None and problem is not None and barren < _TRIES:
                continue  # the execution ended before its turn
            self._reject(image, _blamed(failure))

    def _reject(self, image: _Image, reject: Rejected) -> None:
        if isinstance(image.found, Opened):
            image.found = reject
            image.keep.keep_opened(reject)

    def _tell(self, group: _Group, step: str, done: Mapping[int, set[int]]) -> None:
        first = 0 if step == "scales" else group.parts
        self.on_parts(first + sum(map(len, done.values())), 2 * group.parts)

    def _start_afresh(self, group: _Group) -> None:
        """Images that are decoded whole are gone with the session."""
        self.renew()
        todo = [image for image in group.images if image.pixels is not None]
        tries = Counter[str]()
        while todo := self._open_all(todo, tries):
            self._wait(1)

    def _predict(self, group: _Group, parts: Sequence[Part]) -> Generator[Part, None, None]:
        plan = placement(self.settings.predict, self.resources(), len(parts))
        set_context(self.settings.predict)
        rows = (
            ray.data.from_arrow([to_table(part) for part in parts])
            .map_batches(
                partial(read_part, settings=self.settings, decoded=_decoded(group)),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=plan.read_cpus,
                max_retries=DEATHS,
            )
            .map_batches(
                PredictPart,
                fn_constructor_args=(self.settings, plan.threads),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(size=plan.workers),
                num_cpus=plan.actor_cpus,
                num_gpus=plan.actor_gpus,
                max_task_retries=DEATHS,
            )
            .map_batches(
                KeepPart,
                fn_constructor_args=(self.settings,),
                batch_size=None,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(min_size=1, max_size=plan.committers),
                num_cpus=plan.commit_cpus,
                max_task_retries=DEATHS,
            )
        )
        return _parts_of(rows)

    def _label(self, group: _Group, parts: Sequence[Part]) -> Generator[Part, None, None]:
        set_context(self.settings.predict)
        workers = max(1, min(int(self.resources().cpus), len(parts)))
        rows = ray.data.from_arrow([to_table(part) for part in parts]).map_batches(
            LabelPart,
            fn_constructor_args=(self.settings, _decoded(group)),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers),
            num_cpus=min(1.0, self.resources().cpus / 2),
            max_task_retries=DEATHS,
        )
        return _parts_of(rows)

    def _sum_scales(self, group: _Group) -> None:
        waiting = [
            _sum_scale.remote(image.keep, image.parts)
            for image in group.images
            if isinstance(image.found, Opened)
        ]
        for ref in waiting:
            self._get(ref)

    def _finish(self, group: _Group, peak: int) -> Iterator[ShardResult]:
        """Commit the shards of a group, several at once."""
        settings = ray.put(self.settings)
        running = {}
        for shard in group.shards:
            images = [image for image in group.images if image.shard is shard]
            found = [(image.source, image.keep, image.found) for image in images]
            running[_finish_shard.remote(shard, found, settings, peak)] = shard
        while running:
            ready, _ = ray.wait(list(running), timeout=_SECONDS)
            self.check()
            for ref in ready:
                result: ShardResult = ray.get(ref)
                shard = running.pop(ref)
                yield result
                folder = parts_folder(self.settings.dataset, self.settings.run)
                storage.remove_folder(storage.join(folder, shard.id))

    def _wait(self, barren: int) -> None:
        first, longest = _WAIT_SECONDS
        end = time.monotonic() + min(first * 2**barren, longest)
        while time.monotonic() < end:
            self.check()
            time.sleep(0.1)


def _waiting(group: _Group, done: Mapping[int, set[int]]) -> Iterator[tuple[_Image, Part]]:
    for image in group.images:
        if isinstance(image.found, Opened):
            for number in range(image.parts):
                if number not in done[id(image)]:
                    yield image, Part(image.shard.id, image.source, number, image.found)


def _decoded(group: _Group) -> dict[str, Any]:
    return {
        image.source.image_id: image.pixels for image in group.images if image.pixels is not None
    }


def _parts_of(rows: "ray.data.Dataset") -> Generator[Part, None, None]:
    for batch in rows.iter_batches(batch_size=None, batch_format="pyarrow"):
        table = cast(pa.Table, batch)
        for row in range(table.num_rows):
            yield part_of(table.slice(row, 1))


def _blamed(failure: Failure | None) -> Rejected:
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
    peak: int,
) -> ShardResult:
    """Write the rows of a shard whose parts are all labelled, and commit it."""
    from pipeline.distributed.stages import peak_memory
    from pipeline.large.finish import finish_image
    from pipeline.tables.growing import growing_shard
    from pipeline.tables.lease import check_held
    from pipeline.tables.shard import Provenance, reject_rows

    provenance = Provenance(shard.id, settings.run, settings.model, shard.partition)
    objects = pixels = done = 0
    codes = []
    held = partial(check_held, settings.dataset, settings.lease)
    with growing_shard(settings.dataset, provenance, shard.images, held) as out:
        for source, keep, found in images:
            if isinstance(found, Rejected):
                reject = Reject(source, found.stage, found.code, found.message)
                out.add("rejects", reject_rows([reject]))
                codes.append(found.code)
                continue
            grid = grid_of(found, settings)
            objects += finish_image(keep, grid, source, found, settings.classes, out)
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
        peak_memory=max(peak, peak_memory()),
    )
