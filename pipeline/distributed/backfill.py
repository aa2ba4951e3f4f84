"""One run over a collection: list, plan or resume, stream, sum up."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version

from pipeline import __version__, storage
from pipeline.config import PredictSettings, fingerprint
from pipeline.distributed.notices import without_known_notices
from pipeline.distributed.predict import GraphSettings, stream_shards
from pipeline.distributed.session import check_fits, ray_session, unwrapped_errors
from pipeline.errors import DataError
from pipeline.images.collection import Collection, list_collection
from pipeline.models.bundle import BundleSpec, load_spec, read_weights
from pipeline.parsing import to_yaml
from pipeline.plan import plan_shards, remaining_shards
from pipeline.records import Shard
from pipeline.tables.dataset import DatasetSpec, OutputDataset, Run

OnProgress = Callable[["Progress"], None]


@dataclass(frozen=True)
class Work:
    """What a prediction would do, before it does it."""

    collection: Collection
    done: int
    """Images of the collection that have a row already."""
    resumed: Run | None
    shards: tuple[Shard, ...]
    given_up: tuple[str, ...] = ()
    """Shards of the resumed plan that will never be committed: another run did their images."""

    @property
    def images(self) -> int:
        return sum(len(shard.images) for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(max(image.size, 0) for shard in self.shards for image in shard.images)


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    total: int
    images: int = 0
    objects: int = 0
    rejects: int = 0
    reject_codes: Mapping[str, int] = field(default_factory=dict)
    """Code → number of rejects."""
    pixels: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    seconds: float = 0.0
    first_commit_seconds: float | None = None

    @property
    def done(self) -> int:
        """Images with a result, good or bad."""
        return self.images + self.rejects


class Backfill:
    """A collection, a model and an output dataset, held together for one command."""

    def __init__(self, settings: PredictSettings) -> None:
        """Reads what there is; writes nothing.

        Raises:
            TesseraError: the input, the bundle or the output can't be used.
        """
        self.settings = settings
        self.model_uri = storage.absolute(settings.model)
        self.bundle: BundleSpec = load_spec(self.model_uri)
        read_weights(self.model_uri, self.bundle)  # damaged ones stop the job before it starts
        self.collection = list_collection(settings.input)
        if not self.collection.images:
            raise DataError(f"{self.collection.uri} holds no PNG, JPEG or TIFF image")
        spec = DatasetSpec(
            classes=self.bundle.classes,
            model=self.bundle.fingerprint,
            settings=settings.results_fingerprint(),
        )
        self.results = fingerprint([spec.model, spec.settings])
        self.dataset = OutputDataset.prepare(settings.output, spec, create=False)

    def plan(self) -> Work:
        """An interrupted run's plan where there is one, otherwise what is not done yet."""
        done = self.dataset.done()
        pending = [image for image in self.collection.images if image not in done]
        n_done = len(self.collection.images) - len(pending)
        wanted = {image.image_id for image in pending}
        committed = self.dataset.committed_shards()
        for run in self.dataset.unfinished_runs():
            shards, given_up = remaining_shards(
                self.dataset.plan_of(run), committed, done, self.results
            )
            if any(image.image_id in wanted for shard in shards for image in shard.images):
                return Work(self.collection, n_done, run, tuple(shards), tuple(given_up))
        shards = plan_shards(
            pending,
            done,
            images_per_shard=self.settings.images_per_shard,
            bytes_per_shard=self.settings.bytes_per_shard,
            results=self.results,
        )
        return Work(self.collection, n_done, None, tuple(shards))

    def execute(self, work: Work, on_progress: OnProgress) -> Progress:
        """Compute and commit the work's shards, and write the run's summary."""
        started = time.time()
        progress = Progress(total=work.images)
        on_progress(progress)
        with without_known_notices(), ray_session() as resources, unwrapped_errors():
            if self.settings.workers:
                check_fits(self.settings.workers, resources)
            for shard_id in work.given_up:
                self.dataset.discard(shard_id)
            run = work.resumed or self._new_run(work.shards)
            graph = GraphSettings(
                dataset=self.dataset.uri,
                run=run.id,
                model_uri=self.model_uri,
                model=self.bundle.fingerprint,
                classes=self.bundle.classes,
                method=self.settings.decoding(self.bundle.method),
                predict=self.settings,
            )
            for result in stream_shards(work.shards, graph, resources):
                seconds = time.time() - started
                progress = Progress(
                    total=progress.total,
                    images=progress.images + result.images,
                    objects=progress.objects + result.objects,
                    rejects=progress.rejects + len(result.reject_codes),
                    reject_codes=dict(
                        Counter(progress.reject_codes) + Counter(result.reject_codes)
                    ),
                    pixels=progress.pixels + result.pixels,
                    bytes_read=progress.bytes_read + result.bytes_read,
                    bytes_written=progress.bytes_written + result.bytes_written,
                    seconds=seconds,
                    first_commit_seconds=progress.first_commit_seconds or seconds,
                )
                on_progress(progress)
            self.dataset.finish(run, self._summary(run, progress))
        return progress

    def _new_run(self, shards: Sequence[Shard]) -> Run:
        OutputDataset.prepare(self.dataset.uri, self.dataset.spec, create=True)
        about = {"input": self.collection.uri, "model": self.model_uri, "results": self.results}
        return self.dataset.new_run(list(shards), to_yaml(self.settings), about)

    def _summary(self, run: Run, progress: Progress) -> dict[str, object]:
        """Of this attempt: a resumed run's earlier shards are in the tables, not in here."""
        return {
            "run": run.id,
            "input": self.collection.uri,
            "model": self.bundle.fingerprint,
            **asdict(progress),
            "versions": {
                "tessera": __version__,
                **{name: version(name) for name in ("ray", "torch", "pyarrow")},
            },
        }
