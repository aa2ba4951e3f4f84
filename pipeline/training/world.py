"""The processes that train together: which one this is, and how they agree."""

from typing import TypeVar

import torch.distributed as dist

T = TypeVar("T")


def rank_and_world() -> tuple[int, int]:
    """This process's place among the processes that train, and how many they are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def from_first(value: float) -> float:
    """Clocks differ between processes; all go by the first one's."""
    if rank_and_world()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(part: T) -> list[T]:
    """The parts of all processes, in every process."""
    world = rank_and_world()[1]
    if world == 1:
        return [part]
    parts: list[T] = [part] * world
    dist.all_gather_object(parts, part)
    return parts
