"""How the processes that train together agree."""

from typing import TypeVar

import torch
import torch.distributed as dist

from pipeline.collective import is_alone, rank_and_world

T = TypeVar("T")


def from_first(values: list[float]) -> list[float]:
    """The first process's numbers, in every process: clocks differ, and all go by one."""
    if is_alone():
        return values
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    numbers = torch.tensor(values, dtype=torch.float64, device=device)
    dist.broadcast(numbers, src=0)
    return [float(number) for number in numbers.tolist()]


def gather(part: T) -> list[T]:
    """The parts of all processes, in every process."""
    if is_alone():
        return [part]
    world = rank_and_world()[1]
    parts: list[T] = [part] * world
    dist.all_gather_object(parts, part)
    return parts
