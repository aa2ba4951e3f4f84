"""The collection minus what is done → shards. A shard's id is a hash of what it holds."""

import sys
from collections.abc import Callable, Container, Iterable, Iterator
from typing import TypeVar

from pipeline.config import fingerprint
from pipeline.records import Shard, SourceImage

T = TypeVar("T")


def plan_shards(
    images: Iterable[SourceImage],
    done: Container[SourceImage],
    *,
    images_per_shard: int,
    bytes_per_shard: int,
    results: str,
) -> list[Shard]:
    """Group what is not done, in order, within both limits; one image may pass the bytes alone.

    Args:
        results: fingerprint of the model and the settings that change results.
    """
    pending = (image for image in images if image not in done)
    groups = group_in_order(
        pending, lambda image: max(image.size, 0), bytes_per_shard, images_per_shard
    )
    return [make_shard(group, results) for group in groups]


def remaining_shards(
    planned: Iterable[Shard], committed: Container[str], done: Container[SourceImage], results: str
) -> tuple[list[Shard], list[str]]:
    """What an interrupted plan still has to do, and the ids that it gives up.

    A shard of which another run did some images in the meantime goes on as a smaller shard with
    an id of its own, so that no image is ever in two committed shards.
    """
    remaining, given_up = [], []
    for shard in planned:
        if shard.id in committed:
            continue
        left = [image for image in shard.images if image not in done]
        if len(left) == len(shard.images):
            remaining.append(shard)
            continue
        given_up.append(shard.id)
        if left:
            remaining.append(make_shard(left, results))
    return remaining, given_up


def make_shard(images: Iterable[SourceImage], results: str) -> Shard:
    """A shard of these images; the same images and results give the same id."""
    members = tuple(images)
    return Shard(fingerprint([results, *(image.image_id for image in members)]), members)


def group_in_order(
    items: Iterable[T], weight: Callable[[T], int], most_weight: int, most_items: int = sys.maxsize
) -> Iterator[list[T]]:
    """Consecutive items in groups within both limits; one item may pass the weight alone."""
    group: list[T] = []
    total = 0
    for item in items:
        if group and (len(group) == most_items or total + weight(item) > most_weight):
            yield group
            group, total = [], 0
        group.append(item)
        total += weight(item)
    if group:
        yield group
