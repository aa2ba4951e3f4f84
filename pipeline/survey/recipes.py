"""What suits a kind of device, before the data has its say: `rules` bends it to that."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Hardware:
    """What the training runs on."""

    cpus: float
    """Of one machine."""
    gpus: int
    memory: int
    """Bytes of one machine."""
    workers: int
    bfloat16: bool
    """Whether its processors compute in it."""


@dataclass(frozen=True)
class Recipe:
    """What suits a kind of device, before the data has its say."""

    name: str
    detail: float
    """Images are reduced only as far as they show all so many times as large as it has to be: finer
    outlines are worth it where there is time."""
    depth: int
    width: int
    crop: int
    """Side where objects are small: many crops of few pixels teach more than few of many."""
    scene: int
    """Side where what is around says what something is."""
    step_pixels: int
    """In the crops of a step, together."""
    full_resolution: Literal["full", "light"]
    most_batch: int
    """However small the crops are."""


CPU = Recipe(
    "CPU",
    detail=1,
    depth=4,
    width=16,
    crop=160,
    scene=256,
    step_pixels=4 * 256**2,
    full_resolution="light",
    most_batch=8,
)
GPU = Recipe(
    "GPU",
    detail=2,
    depth=5,
    width=32,
    crop=512,
    scene=512,
    step_pixels=16 * 512**2,
    full_resolution="full",
    most_batch=64,
)
