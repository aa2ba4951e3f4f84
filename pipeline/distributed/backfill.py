"""One prediction command: plan or go on, compute, replace, sum up."""

import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import pyarrow.compute as pc

from pipeline import storage
from pipeline.config import PredictSettings
from pipeline.distributed.notices import without_known_notices
from pipeline.distributed.pruning import find_gone, prune
from pipeline.distributed.rewriting import sweep_all
from pipeline.distributed.rounds import OnTrouble, Rounds
from pipeline.distributed.session import Resources, check_fits, ray_session, unwrapped_errors
from pipeline.distributed.stages import GraphSettings
from pipeline.distributed.stopping import Stop, stop_on_signals
from pipeline.distributed.story import (
    Attempt,
    OnProgress,
    Progress,
    last_success,
    newest_prediction,
    newest_rate,
    reject_share,
    run_summary,
)
from pipeline.errors import DataError, StoppedError, StorageError
from pipeline.images.collection import Collection, open_collection
from pipeline.images.partitions import PartitionSpec
from pipeline.images.signatures import READABLE
from pipeline.models.bundle import BundleSpec, load_spec, read_weights
from pipeline.parsing import to_yaml
from pipeline.plan import Gone, Plan, plan_work, remaining
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import Lease, hold_lease
from pipeline.tables.orphans import remove_orphans
from pipeline.tables.runs import Renewal, Run, covers, new_run, shards_of
from pipeline.tables.spec import DatasetSpec
from pipeline.tables.tally import Tally, tally_attempts, tally_snapshot
from pipeline.wording import plural

_PARTS_OF_COMMANDS = ("sweep", "prune")
"""Kinds of runs that no command is of: they come at the end of one."""


@dataclass(frozen=True)
class Work:
    """What is to be done, before it is done."""

    plan: Plan
    resumed: Run | None
    """The interrupted run whose plan it is."""
    rate: float | None
    """Images a second of the newest finished run."""
    renews: Renewal
    """What of the images that were done it does again."""
    asked: Renewal
    """What of them it was asked to do again."""

    @property
    def renews_enough(self) -> bool:
        """Whether all that was asked to be done again then is; once is enough."""
        return covers(self.renews, self.asked)

    @property
    def nothing(self) -> bool:
        """Neither images nor an interrupted run that wants an end."""
        return self.plan.images == 0 and self.resumed is None

    @property
    def seconds(self) -> float | None:
        """How long it takes at the rate of the newest finished run."""
        return self.plan.images / self.rate if self.rate else None


class Backfill:
    """A collection, a model and an output dataset, held together for one command."""

    def __init__(self, settings: PredictSettings) -> None:
        """Reads what there is; writes nothing.

        Raises:
            TesseraError: the input, the bundle or the output can't be used.
        """
        self.settings = settings
        self.partitions = PartitionSpec.parse(settings.partition)
        self.model_uri = storage.absolute(settings.model)
        self.bundle: BundleSpec = load_spec(self.model_uri)
        self.method = settings.decoding(self.bundle.method, self.bundle.zoom)
        read_weights(self.model_uri, self.bundle)  # damaged ones stop the job before it starts
        self.collection: Collection = open_collection(settings.input, self.partitions)
        spec = DatasetSpec(
            classes=self.bundle.classes,
            model=self.bundle.fingerprint,
            settings=settings.results_settings(),
            partition_columns=self.partitions.names,
            overlapping=self.bundle.method.overlapping,
        )
        # With other thresholds the model finds more or fewer than when its errors were learned.
        as_trained = settings.decodes_as(self.bundle.method, self.bundle.zoom)
        known = self.bundle.counts if as_trained else {}
        self._spec = spec.model_copy(update={"counts": {spec.results: known} if known else {}})
        self.dataset = self._accepting()
        self.results = self._spec.results
        self._renews: Renewal = "rejects" if settings.retry_rejects else "nothing"
        if settings.replace:
            self._renews = "all"

    def _accepting(self) -> OutputDataset:
        replace = self.settings.replace
        return OutputDataset.accepting(self.settings.output, self._spec, replace=replace)

    @property
    def last_success(self) -> float | None:
        """When the newest run of this output that has finished did so, in Unix time."""
        return last_success(self.dataset.runs())

    @property
    def reject_share(self) -> float:
        """Of the images of the newest finished run, over all its attempts."""
        run = newest_prediction(self.dataset.runs())
        return 0.0 if run is None else reject_share(run.summary())

    @property
    def reject_codes(self) -> Mapping[str, int]:
        """Code → number of rejects of the newest finished run."""
        run = newest_prediction(self.dataset.runs())
        codes: Mapping[str, int] = {} if run is None else run.summary()["reject_codes"]
        return codes

    def some_rejects(self, codes: int) -> list[dict[str, str]]:
        """URI, code and message of one reject of the newest finished run for each of some codes."""
        run = newest_prediction(self.dataset.runs())
        if run is None:
            return []
        mine = self.dataset.snapshot().only(shard.id for shard in shards_of(run.plan()))
        where = pc.field("run") == run.id
        found: dict[str, dict[str, str]] = {}
        for batch in mine.scan("rejects", ["uri", "code", "message"], where):
            for code in batch["code"].unique().to_pylist():
                first = pc.index(batch["code"], code).as_py()
                found.setdefault(code, batch.slice(first, 1).to_pylist()[0])
            if len(found) >= codes:
                break
        return list(found.values())[:codes]

    @contextmanager
    def plan(self, *, renew: bool = True) -> Iterator[Work]:
        """An interrupted run's plan where there is one, otherwise what is not done yet.

        Args:
            renew: follow the settings that ask for what is done to be done again; once, not
                again and again.

        Raises:
            DataError: the collection holds no image.
        """
        snapshot, runs = self.dataset.snapshot(), self.dataset.runs()
        rate = newest_rate(runs)
        mine, _ = self._unfinished(runs)
        if mine is not None:
            with remaining(mine.plan(), snapshot.shards) as plan:
                yield Work(plan, mine, rate, mine.spec.renews, self._renews)
            return
        renews = self._renews if renew else "nothing"
        with plan_work(
            self.collection.batches(),
            self.dataset.live(snapshot),
            partition_columns=self.partitions.names,
            places=snapshot.shards if self.partitions.names else None,
            where=self.settings.where,
            replace=renews == "all",
            retry=snapshot.scan("rejects", ["uri"]) if renews == "rejects" else None,
            images_per_shard=self.settings.images_per_shard,
            bytes_per_shard=self.settings.bytes_per_shard,
            results=self.results,
        ) as plan:
            if self.collection.listed == 0:
                others = self.collection.ignored_suffixes
                raise DataError(
                    f"{self.collection.uri} holds no OME-Zarr, {READABLE} image"
                    f"{', but ' + others if others else ''}"
                )
            yield Work(plan, None, rate, renews, self._renews)

    @contextmanager
    def lease(
        self, on_wait: Callable[[str], None], on_closed: Callable[[int], None]
    ) -> Iterator[Lease]:
        """The right to write to the output, for the time of the `with`; plan while you hold it.

        Args:
            on_wait: is told what is being waited for.
            on_closed: is told how many interrupted runs of other commands are closed, if any are.

        Raises:
            DatasetError: the run that was waited for has written something else there.
        """
        with hold_lease(
            self.dataset.uri,
            "jobs.predict",
            wait=self.settings.wait_minutes * 60,
            on_wait=on_wait,
        ) as lease:
            self.dataset = self._accepting()  # others may have written since it was looked at
            if closed := self._settle(lease):
                on_closed(closed)
            yield lease

    @property
    def superseded(self) -> int:
        """Interrupted runs of other commands, which this one closes before it writes."""
        _, others = self._unfinished(self.dataset.runs())
        return _commands(others)

    def _unfinished(self, runs: list[Run]) -> tuple[Run | None, list[Run]]:
        """The interrupted run that this command goes on with, and all other interrupted ones."""
        unfinished = [run for run in runs if not run.finished]
        mine = next((run for run in reversed(unfinished) if self._is_mine(run)), None)
        return mine, [run for run in unfinished if run is not mine]

    def _settle(self, lease: Lease) -> int:
        """Close what other commands began, and finish their replacing; returns how many began.

        Before planning and pruning: a plan names the shards whose rows it replaces, so none may
        wait while somebody else takes rows out. For the same reason nothing is swept where an
        interrupted run is gone on with: it does so itself, at its end.
        """
        mine, others = self._unfinished(self.dataset.runs())
        swept = mine is not None or self.dataset.snapshot().swept
        if swept and not others:
            return 0
        # Before the closing, since nobody looks any more for what a closed run has left; and
        # before the sweep, whose end hides that the removal of a shard was cut off.
        remove_orphans(self.dataset.uri, lease.check)
        for run in others:
            lease.check()
            run.close("another command")
        if not swept:
            with without_known_notices(), ray_session(), unwrapped_errors():
                sweep_all(self.dataset, lease)
        return _commands(others)

    def execute(
        self, work: Work, lease: Lease, on_progress: OnProgress, on_trouble: OnTrouble
    ) -> Progress:
        """Compute and commit the work's shards, take out what they replace, sum up.

        Raises:
            StoppedError: SIGTERM or Ctrl-C came; the same command goes on.
            LeaseLostError: somebody else may write now.
        """
        on_progress(Progress(work.plan.images))
        with (
            without_known_notices(),
            ray_session() as resources,
            stop_on_signals(signal.SIGTERM, signal.SIGINT) as stop,
            unwrapped_errors(),
        ):
            if self.settings.workers:
                check_fits(self.settings.workers, resources)
            run = self._begin(work, lease)
            attempt = Attempt(run, work.plan.images, on_progress)
            try:
                check = partial(_may_go_on, stop, lease)
                self._compute(work, attempt, lease, resources, check, on_trouble)
                sweep_all(self.dataset, lease, check)
            except BaseException as error:
                # Where the store is away, what ended the run is told all the same.
                with suppress(StorageError):
                    attempt.tell(str(error) or type(error).__name__)
                raise
            attempt.tell("done")
            settings = self.settings.model_dump(mode="json", exclude={"config"})
            run.finish(run_summary(run, self._tally(run), settings, self.bundle.fingerprint))
        return attempt.progress

    def gone(self) -> Gone:
        """What is done of images that the collection no longer holds.

        Raises:
            DataError: it is more than may be pruned.
        """
        found, most = find_gone(self.dataset, self.collection), self.settings.max_prune_share
        if found.share > most:
            raise DataError(
                f"{plural(found.number, 'image that is', 'images that are')} done, "
                f"{found.share:.0%}, {'is' if found.number == 1 else 'are'} no longer in "
                f"{self.collection.uri}, and their rows stay: the limit is {most:.0%}. Where that "
                "many are gone indeed, give a larger --max-prune-share"
            )
        return found

    def prune(self, gone: Gone, lease: Lease) -> None:
        """Take out the rows of images that are gone."""
        with without_known_notices(), ray_session(), unwrapped_errors():
            prune(self.dataset, gone, self.collection, lease)

    def _begin(self, work: Work, lease: Lease) -> Run:
        lease.check()
        self.dataset.create()
        remove_orphans(self.dataset.uri, lease.check)
        if work.resumed is not None:
            return work.resumed
        return new_run(
            self.dataset.uri,
            work.plan.batches(),
            to_yaml(self.settings),
            lease.check,
            kind="predict",
            results=self.results,
            input=self.collection.uri,
            where=self.settings.where,
            renews=work.renews,
            model=self.model_uri,
        )

    def _compute(
        self,
        work: Work,
        attempt: Attempt,
        lease: Lease,
        resources: Resources,
        check: Callable[[], None],
        on_trouble: OnTrouble,
    ) -> None:
        graph = GraphSettings(
            dataset=self.dataset.uri,
            run=attempt.run.id,
            lease=lease.hold,
            model_uri=self.model_uri,
            model=self.bundle.fingerprint,
            classes=self.bundle.classes,
            method=self.method,
            predict=self.settings,
            bundle=self.bundle,
        )
        rounds = Rounds(attempt.run, graph, resources, check, on_trouble, attempt.parts)
        for result in rounds.compute(shards_of(work.plan.batches())):
            attempt.add(result, len(rounds.recovered))

    def _is_mine(self, run: Run) -> bool:
        """Whether this command goes on with an unfinished run: its own, or what a repair owes."""
        spec = run.spec
        if spec.kind == "repair":
            return spec.results == self.results
        return (
            spec.kind == "predict"
            and spec.results == self.results
            and spec.is_of(self.collection.uri)
            and spec.where == self.settings.where
        )

    def _tally(self, run: Run) -> Tally:
        """What a finished run came to: told by its attempts, or by its tables.

        An attempt that was killed has told nothing, and then every file has to be looked at.
        """
        told = tally_attempts(run.attempts())
        if told.done == run.spec.images:
            return told
        snapshot = self.dataset.snapshot()
        mine = snapshot.only(shard.id for shard in shards_of(run.plan()))
        return tally_snapshot(mine)


def _commands(runs: Iterable[Run]) -> int:
    """How many runs are not a part of another."""
    return sum(run.spec.kind not in _PARTS_OF_COMMANDS for run in runs)


def _may_go_on(stop: Stop, lease: Lease) -> None:
    if stop.is_set():
        raise StoppedError(f"stopped by {stop.name}", stop.number)
    if lease.lost.is_set():
        raise lease.loss
