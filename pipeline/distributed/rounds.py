"""Shards computed until each is committed, whatever dies on the way.

A round is one execution of the prediction's graph over some shards. What a round leaves
uncommitted, because a process, a node or the store went away, is the next round's work. Who is to
blame is asked only when a shard fails again: then its images are tried alone (see `poison`).
Everything is bounded: a shard in tries, rounds without any commit in number.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice

from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import RayError

from pipeline import storage
from pipeline.distributed.failures import Failure
from pipeline.distributed.large import LargeShards, OnParts
from pipeline.distributed.listening import listening
from pipeline.distributed.poison import Poison, find_poison
from pipeline.distributed.predict import stream_shards
from pipeline.distributed.reading import is_listed_large
from pipeline.distributed.session import Resources, renew_session, user_error
from pipeline.distributed.stages import GraphSettings, ShardResult
from pipeline.distributed.witness import gives_others
from pipeline.errors import TesseraError
from pipeline.records import Shard
from pipeline.tables.layout import shard_file
from pipeline.tables.runs import Run
from pipeline.tables.tally import tally_shard

_WAVE = 1024  # shards of one execution: bounds what the driver and Ray know at a time
_WAVE_PER_WORKER = 64  # on a large cluster an execution must still be worth its start
_SUSPECT = 2  # failed tries after which a shard's images are tried alone
_TRIES = 5  # of one shard
_BARREN = 4  # rounds in a row that commit nothing
_WAIT_SECONDS = (1.0, 30.0)  # first and longest, between rounds that commit nothing

OnTrouble = Callable[[str], None]


class Rounds:
    """The rounds of one run.

    Args:
        check: called all the time; raises to end the work (a signal, a lost lease).
        on_trouble: is told in one line what is being done about a fault.
        on_parts: is told how far large images are.
    """

    def __init__(
        self,
        run: Run,
        settings: GraphSettings,
        resources: Resources,
        check: Callable[[], None],
        on_trouble: OnTrouble,
        on_parts: OnParts,
    ) -> None:
        self.run = run
        self.settings = settings
        self.resources = resources
        self.check = check
        self.on_trouble = on_trouble
        self.poison = run.poison()
        self.recovered: set[str] = set()
        """Shards that took more than one round."""
        self.large = LargeShards(
            settings, lambda: self.resources, self._start_afresh, check, on_trouble, on_parts
        )

    def compute(self, shards: Iterable[Shard]) -> Iterator[ShardResult]:
        """Yields each shard when it is committed.

        Raises:
            TesseraError: something that no further try would mend, or too many in vain.
        """
        waiting = iter(shards)
        wave = max(_WAVE, _WAVE_PER_WORKER * int(self.resources.cpus))
        while chosen := list(islice(waiting, wave)):
            yield from self._finish({shard.id: shard for shard in chosen})

    def _finish(self, left: dict[str, Shard]) -> Iterator[ShardResult]:
        tries: Counter[str] = Counter()
        barren = 0
        predict = self.settings.predict
        yield from self._in_parts(
            left, [one for one in left if is_listed_large(left[one], predict)]
        )
        while left:
            before, failures = len(left), dict[str, Failure]()
            problem = yield from self._round(left, failures)
            yield from self._found_committed(left)
            large = [one for one, why in failures.items() if why.too_large and one in left]
            yield from self._in_parts(left, large)
            failures = {shard: why for shard, why in failures.items() if shard in left}
            if not left:
                return
            barren = 0 if len(left) < before else barren + 1
            self._stop_if_hopeless(failures, problem, barren)
            if problem is None or isinstance(problem, ExecutionTimeoutError):
                tries.update(list(left))
            if problem is not None:
                self._start_afresh()
            self.recovered |= left.keys()
            self.on_trouble(_describe(left, failures, problem))
            if self._found_poison(left, failures, tries):
                barren = 0
            elif barren:
                self._wait(barren)

    def _start_afresh(self) -> None:
        """Have no process that hangs keep its share of the cluster.

        The signal handlers stay those of this run, not Ray's.
        """
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self.resources = renew_session()
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _round(
        self, left: dict[str, Shard], failures: dict[str, Failure]
    ) -> Generator[ShardResult, None, Exception | None]:
        """Takes what is committed out of `left`; returns what ended the execution, if anything."""

        def results() -> Generator[ShardResult, None, None]:
            chosen = list(left.values())
            yield from stream_shards(chosen, self.poison, self.settings, self.resources)

        try:
            for result in listening(results(), self.check):
                if result.failure is not None:
                    failures[result.shard] = result.failure
                elif left.pop(result.shard, None) is not None:
                    yield result
        except (RayError, ExecutionTimeoutError) as error:
            mine = user_error(error)
            if mine is not None:
                raise mine from None
            return error
        return None

    def _in_parts(self, left: dict[str, Shard], chosen: list[str]) -> Iterator[ShardResult]:
        """Shards that are too large for one process."""
        for result in self.large.compute([left[shard] for shard in chosen], self.poison):
            del left[result.shard]
            yield result

    def _found_committed(self, left: dict[str, Shard]) -> Iterator[ShardResult]:
        """Shards whose commit came through, though the word of it did not."""
        waiting = list(left.values())
        if not waiting:
            return
        dataset = self.settings.dataset
        files = [shard_file(dataset, "images", one.partition, one.id) for one in waiting]
        for shard, file in zip(waiting, storage.stat_many(files), strict=True):
            if file is not None:
                del left[shard.id]
                counted = tally_shard(dataset, shard.partition, shard.id)
                yield ShardResult(
                    shard.id,
                    images=counted.images,
                    objects=counted.objects,
                    reject_codes=tuple(counted.reject_codes.elements()),
                    pixels=counted.pixels,
                )

    def _stop_if_hopeless(
        self, failures: Mapping[str, Failure], problem: Exception | None, barren: int
    ) -> None:
        for failure in failures.values():
            failure.raise_if_fatal()
        if barren < _BARREN:
            return
        if failures:
            reason = next(iter(failures.values())).message
        elif problem is not None:
            reason = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
        else:
            reason = (
                "the processes that work on the images die; memory may be short, or the disk full "
                "that Ray moves objects to when it is"
            )
        raise TesseraError(f"no image could be finished in {barren} tries: {reason}")

    def _found_poison(
        self,
        left: Mapping[str, Shard],
        failures: Mapping[str, Failure],
        tries: Counter[str],
    ) -> bool:
        """Try the images of shards that failed again and again; whether that told anything."""
        known = len(self.poison)
        alive: bool | None = None  # asked once: a store that is away takes long to say so
        for shard in left.values():
            if tries[shard.id] < _SUSPECT:
                continue
            failure = failures.get(shard.id)
            found: Poison = {}
            if failure is None or not failure.of_the_store:
                found = find_poison(shard, self.settings, self.check)
            elif failure.unreadable and tries[shard.id] > _SUSPECT:
                if alive is None:
                    alive = gives_others(self.settings.dataset, shard.images[0].uri)
                if alive:
                    # The store gives others, and never these.
                    reason = ("unreadable", failure.message)
                    found = {image.image_id: reason for image in shard.images}
            if found:
                self.poison |= found
                self.run.keep_poison(self.poison)
                self.on_trouble(f"{len(found)} of {len(shard.images)} images can't be worked on")
            elif tries[shard.id] >= _TRIES:
                told = "the process that works on it dies" if failure is None else failure.message
                raise TesseraError(f"shard {shard.id} failed {tries[shard.id]} times: {told}")
        return len(self.poison) > known

    def _wait(self, barren: int) -> None:
        first, longest = _WAIT_SECONDS
        end = time.monotonic() + min(first * 2**barren, longest)
        while time.monotonic() < end:
            self.check()
            time.sleep(0.1)


def _describe(
    left: Mapping[str, Shard], failures: Mapping[str, Failure], problem: Exception | None
) -> str:
    if problem is not None:
        reason = f"the execution ended early ({type(problem).__name__})"
    elif failures:
        reason = next(iter(failures.values())).message
    else:
        reason = "a process that worked on them died"
    return f"shards to try again: {len(left):,}, since {reason}"
