"""Consecutive things in groups of bounded weight."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def group_in_order(
    items: Iterable[T], weight: Callable[[T], int], most_weight: int
) -> Iterator[list[T]]:
    """Consecutive items in groups within the weight; one item may pass it alone."""
    group: list[T] = []
    total = 0
    for item in items:
        if group and total + weight(item) > most_weight:
            yield group
            group, total = [], 0
        group.append(item)
        total += weight(item)
    if group:
        yield group
