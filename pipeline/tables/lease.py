"""The lease of a dataset: one run at a time writes.

`_lease/<generation>.json` says who holds it; the highest generation does. The holder renews by
overwriting its file. Whoever wants it takes the next generation, which has one winner (see
`storage.create_bytes`), once the newest file says *released*, or its process on this machine is
dead, or the file has not changed for `ttl` seconds of the watcher's own clock. No two machines'
clocks are ever compared.

A holder that was cut off may go on for a moment after another took over: it finds out by `lost`,
`check` or `check_held`, and whatever it then does must be harmless.
"""

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

from pipeline import storage
from pipeline.errors import LeaseError, LeaseLostError, MissingError, StorageError
from pipeline.tables.holder import Holder, this_process
from pipeline.tables.layout import LEASE

TTL = 30.0
"""Seconds without a renewal after which a holder counts as gone."""
RENEW = 10.0
"""Seconds between renewals."""


@dataclass(frozen=True)
class Claim:
    """What a generation's file says."""

    holder: Holder
    purpose: str
    since: str
    """For people: no decision depends on it."""
    ttl: float
    """Seconds."""
    token: str
    counter: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"{self.purpose} by {self.holder}, since {self.since}"

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self), indent=1).encode()


@dataclass(frozen=True)
class Hold:
    """What those who work for the holder of a lease, in whatever process, know it by."""

    dataset: str
    generation: int
    token: str
    """Of the claim: where a dataset was removed and made anew, generations begin anew as well."""


class Lease:
    """A lease that is held, and renewed by a thread until it is released or lost.

    Attributes:
        hold: what others check it by.
        generation: grows with every holder.
        lost: set when another run has taken over, or may have because no renewal got through.
        loss: which of the two, once it is lost.
    """

    def __init__(
        self,
        dataset: str,
        generation: int,
        claim: Claim,
        renew: float = RENEW,
        created: float | None = None,
        lasting: bool = False,
    ) -> None:
        """`created` is when the writing of its file began, by `time.monotonic`; now if None.

        `lasting`: see `hold_lease`.
        """
        self.dataset = dataset
        self.generation = generation
        self.hold = Hold(dataset, generation, claim.token)
        self.lost = threading.Event()
        self.loss = _lost(dataset)
        self._trouble = ""
        self._claim = claim
        self._renew = renew
        self._renewed = time.monotonic() if created is None else created
        self._ended = threading.Event()
        self._writing = threading.Lock()
        # A renewal may hang in a stalled store: the clock is watched by another thread.
        for target in (
            (self._keep_renewing,) if lasting else (self._keep_renewing, self._watch_clock)
        ):
            threading.Thread(target=target, name="lease", daemon=True).start()

    def check(self) -> None:
        """Make sure that this run still is the one that writes.

        Raises:
            LeaseLostError: it is not.
            StorageError: the lease could not be looked at.
        """
        if self.lost.is_set():
            raise self.loss
        try:
            check_held(self.hold)
        except LeaseLostError as error:
            self.loss = error
            self.lost.set()
            raise

    def release(self) -> None:
        """Let the next run have it at once."""
        self._ended.set()
        if self.lost.is_set():
            return
        # A renewal on its way must not come after; one that hangs is not waited for.
        free = self._writing.acquire(timeout=5)
        # Where this does not get through, the next run waits out the `ttl`.
        with contextlib.suppress(StorageError, LeaseLostError):
            self.check()  # the file of that name may be another's, in a dataset made anew
            self._write(replace(self._claim, released=True))
        if free:
            self._writing.release()

    def _keep_renewing(self) -> None:
        # A slow store may have used up much of the time until the first renewal.
        wait = self._renewed + self._renew - time.monotonic()
        while not self._ended.wait(wait) and not self.lost.is_set():
            wait = self._renew
            try:
                self._renew_once()
                self._trouble = ""
            except LeaseLostError:
                return
            except StorageError as error:  # the clock decides
                self._trouble = f" ({error})"

    def _renew_once(self) -> None:
        # From before the write: a watcher sees it, and starts to count, only afterwards.
        before = time.monotonic()
        self.check()
        self._claim = replace(self._claim, counter=self._claim.counter + 1)
        with self._writing:
            if not self._ended.is_set():
                self._write(self._claim)
                self._renewed = before

    def _watch_clock(self) -> None:
        while (left := self._renewed + self._claim.ttl - time.monotonic()) > 0:
            if self._ended.wait(left):
                return
        if not self.lost.is_set():
            self.loss = LeaseLostError(
                f"the lease of {self.dataset} could not be renewed for {self._claim.ttl:.0f} s"
                f"{self._trouble}; this run stops, and what it had committed stays"
            )
        self.lost.set()

    def _write(self, claim: Claim) -> None:
        storage.write_bytes(_file(self.dataset, self.generation), claim.to_bytes())


@contextlib.contextmanager
def hold_lease(
    dataset_uri: str,
    purpose: str,
    *,
    wait: float = 0,
    on_wait: Callable[[str], None] | None = None,
    hint: str = "; --wait-minutes waits for it",
    ttl: float = TTL,
    renew: float = RENEW,
    lasting: bool = False,
) -> Iterator[Lease]:
    """Hold the lease of a dataset for the length of a `with` block.

    Args:
        dataset_uri: the dataset.
        purpose: what for, for people: the job and its run.
        wait: how many seconds to wait for a holder that is alive.
        on_wait: is told, once, what is being waited for.
        hint: what else one may do who is refused, as the end of a sentence.
        ttl: seconds without a renewal after which others may take this lease over.
        renew: seconds between renewals.
        lasting: it is not given up where no renewal gets through for so long, but renewed when one
            does: for whoever only writes what is of no harm to another, who may take over.

    Raises:
        LeaseError: another run holds it and is alive.
        StorageError: the lease could not be read or written.
    """
    try:
        on_wait = on_wait or (lambda text: None)
        lease = _take(dataset_uri, purpose, wait, on_wait, ttl, renew, lasting)
    except LeaseError as error:
        raise LeaseError(f"{error}{hint}") from None
    try:
        yield lease
    finally:
        lease.release()


def check_held(hold: Hold) -> None:
    """Make sure, from any process, that a lease is still the one that holds.

    Raises:
        LeaseLostError: a later one does, or one of a dataset that was made anew.
        StorageError: the lease could not be looked at.
    """
    if _newest(hold.dataset) == hold.generation:
        claim = _claim(_content(_file(hold.dataset, hold.generation)) or b"")
        if claim is not None and claim.token == hold.token:
            return
    raise _lost(hold.dataset)


def writer(dataset: str) -> str | None:
    """Who may be writing to a dataset now, for people; None when it is certain that nobody does."""
    newest = _newest(dataset)
    content = _content(_file(dataset, newest)) if newest else None
    if content is None:
        return None
    claim = _claim(content)
    gone = claim is not None and (claim.released or claim.holder.is_dead())
    return None if gone else _who(claim)


def _take(
    dataset: str,
    purpose: str,
    wait: float,
    on_wait: Callable[[str], None],
    ttl: float,
    renew: float,
    lasting: bool,
) -> Lease:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    claim = Claim(this_process(), purpose, since, ttl, uuid.uuid4().hex)
    patience = _Patience(dataset, time.monotonic() + wait, wait, on_wait)
    while True:
        newest = _newest(dataset)
        if newest and not patience.is_free(newest, ttl):
            continue
        generation = newest + 1
        # From before the write, as in a renewal: others count from when they see the file.
        created = time.monotonic()
        if not storage.create_bytes(_file(dataset, generation), claim.to_bytes()):
            continue
        if _newest(dataset) == generation:
            _remove_older(dataset, generation)
            return Lease(dataset, generation, claim, renew, created, lasting)
        # Others had come and gone since the listing, so that the name was free again.
        storage.remove(_file(dataset, generation))


class _Patience:
    """Waits until a generation is free, as long as its holder may be gone or we are to wait."""

    def __init__(
        self, dataset: str, end: float, wait: float, on_wait: Callable[[str], None]
    ) -> None:
        self._dataset, self._end, self._wait, self._on_wait = dataset, end, wait, on_wait
        self._told = False

    def is_free(self, generation: int, ttl: float) -> bool:
        """Whether the holder of a generation is gone; False when there is a newer one.

        Raises:
            LeaseError: it is alive, and we have waited long enough.
        """
        uri = _file(self._dataset, generation)
        seen, changed = _content(uri), time.monotonic()
        while seen is not None:
            claim = _claim(seen)
            if claim and (claim.released or claim.holder.is_dead()):
                return True
            term = max(ttl, claim.ttl) if claim else ttl
            if time.monotonic() - changed >= term:
                return True
            self._tell(claim, term)
            time.sleep(min(1.0, term / 20))
            content = _content(uri)
            if content != seen:
                if time.monotonic() >= self._end and not _is_released(content):
                    raise self._refusal(content or seen)
                seen, changed = content, time.monotonic()
        return False

    def _tell(self, claim: Claim | None, term: float) -> None:
        if not self._told:
            self._told = True
            how = f"up to {self._wait:.0f} s" if self._wait else f"to see if it lives, {term:.0f} s"
            self._on_wait(f"{self._dataset} is being written: {_who(claim)}; waiting {how}")

    def _refusal(self, content: bytes) -> LeaseError:
        return LeaseError(
            f"{self._dataset} is being written by another run: {_who(_claim(content))}. "
            "Let it finish, or stop it, and start again"
        )


def _who(claim: Claim | None) -> str:
    return str(claim) if claim else "an unknown holder"


def _is_released(content: bytes | None) -> bool:
    if content is None:
        return True  # superseded: the next look is at its successor
    claim = _claim(content)
    return claim is not None and claim.released


def _content(uri: str) -> bytes | None:
    try:
        return storage.read_bytes(uri)
    except MissingError:
        return None


def _claim(content: bytes) -> Claim | None:
    """What a lease file says; None when it is not one that this version understands."""
    try:
        fields = json.loads(content)
        return Claim(**{**fields, "holder": Holder(**fields["holder"])})
    except (ValueError, TypeError, KeyError):
        return None


def _newest(dataset: str) -> int:
    """The highest generation, 0 where there is none."""
    return max(_generations(dataset), default=0)


def _generations(dataset: str) -> list[int]:
    names = (name.removesuffix(".json") for name in storage.list_names(_folder(dataset)))
    return [int(name) for name in names if name.isdecimal()]


def _remove_older(dataset: str, generation: int) -> None:
    for older in _generations(dataset):
        if older < generation:
            storage.remove(_file(dataset, older))


def _folder(dataset: str) -> str:
    return storage.join(dataset, LEASE)


def _file(dataset: str, generation: int) -> str:
    return storage.join(_folder(dataset), f"{generation:08d}.json")


def _lost(dataset: str) -> LeaseLostError:
    return LeaseLostError(
        f"another run has taken over the writing of {dataset}; this one stops, and what it had "
        "committed stays"
    )
