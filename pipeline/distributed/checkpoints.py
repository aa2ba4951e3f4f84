"""The checkpoints of Ray Train, written and read by our own door to stores.

Ray would copy them by pyarrow, which passes over what goes wrong at the end of a file: a checkpoint
that is not there would count as written, and the one before it would be removed. And it would copy
them from the disk, where a process that is killed leaves them behind: here they go from memory to
the store.
"""

import threading
from collections.abc import Callable
from functools import partial

import ray.train
from ray.train import Checkpoint, CheckpointUploadMode

from pipeline import storage
from pipeline.errors import UnavailableError

PATIENCE = 600.0
"""Seconds that a store may be away: training goes on meanwhile, with what is in memory."""

Content = Callable[[str], None]
"""Writes a checkpoint to the URI that it is given; what it writes does not change any more."""


def uri_of(checkpoint: Checkpoint, run_uri: str) -> str:
    """Where a checkpoint of a run lies."""
    return storage.join(run_uri, storage.name_of(checkpoint.path))


class Uploads:
    """The checkpoints of a worker on their way to the store, one after the other."""

    def __init__(self, run_uri: str, on_trouble: Callable[[str], None]) -> None:
        """`on_trouble` is told, in a sentence, that a store is away."""
        self._run_uri, self._on_trouble = run_uri, on_trouble
        self._free = threading.Event()
        self._free.set()

    @property
    def busy(self) -> bool:
        """Whether one is on its way: another would have to wait, and be old when it is there."""
        return not self._free.is_set()

    def report(self, progress: float, content: Content | None, *, last: bool) -> None:
        """Tell Ray Train where the training stands; all workers take part, the first with content.

        Training goes on while a checkpoint is written; for the last one it waits.

        Raises:
            StorageError: the last can't be written. For those before, Ray ends the worker by it.
        """
        checkpoint = None
        if content:
            self._free.clear()
            checkpoint = self._stored("")  # Ray wants to see one, and asks where it is afterwards
        ray.train.report(
            {"progress": progress},
            checkpoint=checkpoint,
            checkpoint_upload_mode=(
                CheckpointUploadMode.SYNC if last else CheckpointUploadMode.ASYNC
            ),
            delete_local_checkpoint_after_upload=False,
            checkpoint_upload_fn=partial(self._upload, content) if content else None,
        )

    def _upload(self, content: Content, checkpoint: Checkpoint, name: str) -> Checkpoint:
        uri = storage.join(self._run_uri, name)
        storage.outlasting(partial(content, uri), PATIENCE, self._tell)
        self._free.set()
        return self._stored(name)

    def _stored(self, name: str) -> Checkpoint:
        place = ray.train.get_context().get_storage()
        return Checkpoint(f"{place.experiment_fs_path}/{name}", place.storage_filesystem)

    def _tell(self, error: UnavailableError) -> None:
        self._on_trouble(f"{error}; the checkpoint is tried again for {PATIENCE / 60:.0f} minutes")
