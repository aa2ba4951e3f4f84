"""The checkpoints of Ray Train, written and read by our own door to stores.

Ray would copy them by pyarrow, which passes over what goes wrong at the end of a file: a checkpoint
that is not there would count as written, and the one before it would be removed.
"""

from collections.abc import Callable

import ray.train
from ray.train import Checkpoint

from pipeline import storage


def uri_of(checkpoint: Checkpoint, run_uri: str) -> str:
    """Where a checkpoint of a run lies."""
    return storage.join(run_uri, storage.name_of(checkpoint.path))


def uploader(run_uri: str) -> Callable[[Checkpoint, str], Checkpoint]:
    """What a worker gives Ray to upload with: a local checkpoint, and its name → the stored one."""
    place = ray.train.get_context().get_storage()

    def upload(local: Checkpoint, name: str) -> Checkpoint:
        storage.copy_folder(local.path, storage.join(run_uri, name))
        return Checkpoint(f"{place.experiment_fs_path}/{name}", place.storage_filesystem)

    return upload
