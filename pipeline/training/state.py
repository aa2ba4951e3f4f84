"""All that a training needs to go on as if it had never stopped, and its two files:

    state.json            where the training stands
    state.safetensors     weights, their average, the best so far, and the optimiser's moments

Nothing random has a state of its own: a crop follows from the seed, its epoch and its position.
"""

from dataclasses import dataclass

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from pipeline import storage
from pipeline.errors import DataError, MissingError
from pipeline.training.reports import Validation

STATE_NAME = "state.json"
TENSORS_NAME = "state.safetensors"


class TrainingState(BaseModel):
    """Where a training stands, but for its tensors."""

    model_config = ConfigDict(extra="forbid")

    format_version: int = 1
    epoch: int = Field(1, description="being worked on, from 1")
    step: int = Field(0, description="steps of that epoch that are done")
    done: int = Field(0, description="steps done in all")
    progress: float = Field(0.0, description="0 to 1")
    elapsed: float = Field(0.0, description="seconds on the training's clock")
    first: float | None = Field(None, description="seconds on that clock at the first step")
    best_score: float | None = None
    best_epoch: int = Field(0, description="the first that was as good")
    best_validation: Validation | None = None
    validation_images: int | None = Field(None, description="that there is time to look at")
    validated: int = Field(0, description="steps done at the last validation")
    validated_progress: float = 0.0
    validation_seconds: float = Field(0.0, description="that the last validation took")
    decoding_seconds: float = Field(0.0, description="of which for decoding and judging")
    training_seconds: float = Field(0.0, description="since the last validation")
    loss_sum: float = Field(0.0, description="over the steps since the last validation")
    finished: bool = False
    tensors_hash: str = ""

    @property
    def in_vain(self) -> bool:
        """Whether its time was over before anything was learned: there is nothing to go on with."""
        return self.finished and self.best_validation is None


@dataclass(frozen=True)
class Snapshot:
    """A training at one moment."""

    state: TrainingState
    tensors: dict[str, Tensor]


def save_snapshot(snapshot: Snapshot, uri: str) -> None:
    """Write the two files; the JSON comes last and names the content of the other."""
    data = safetensors.torch.save(snapshot.tensors)
    state = snapshot.state.model_copy(update={"tensors_hash": storage.content_hash(data)})
    storage.write_bytes(storage.join(uri, TENSORS_NAME), data)
    storage.write_bytes(storage.join(uri, STATE_NAME), state.model_dump_json(indent=2).encode())


def load_snapshot(uri: str) -> Snapshot | None:
    """The snapshot in a folder; None where there is none that is whole.

    Raises:
        StorageError: the store does not answer, which says nothing about the snapshot.
    """
    try:
        state = TrainingState.model_validate_json(storage.read_bytes(storage.join(uri, STATE_NAME)))
        data = storage.read_bytes(storage.join(uri, TENSORS_NAME))
    except (MissingError, ValidationError):
        return None
    if storage.content_hash(data) != state.tensors_hash:
        return None
    return Snapshot(state, safetensors.torch.load(data))


def load_whole_snapshot(uri: str) -> Snapshot:
    """The snapshot in a folder, which was whole when it was chosen.

    Raises:
        DataError: it is no longer, and to begin from scratch is not what was asked for.
    """
    snapshot = load_snapshot(uri)
    if snapshot is None:
        raise DataError(
            f"the checkpoint {uri} has gone or is damaged: the same command with --resume goes on "
            "from an older one, where there is one"
        )
    return snapshot


def packed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU under names that begin with `prefix.`, free of later changes."""
    return {f"{prefix}.{name}": tensor for name, tensor in kept(tensors).items()}


def kept(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors on the CPU, free of later changes."""
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in tensors.items()}


def unpacked(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`, by the rest of their names."""
    start = prefix + "."
    return {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments as `parameter.moment`; its settings are not among them."""
    return {
        f"{index}.{name}": value
        for index, moments in optimizer.state_dict()["state"].items()
        for name, value in moments.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, moment = name.partition(".")
        moments.setdefault(int(index), {})[moment] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if value.shape == parameter.shape:  # in the parameter's own order in memory
                state[name] = torch.empty_like(parameter).copy_(value)
