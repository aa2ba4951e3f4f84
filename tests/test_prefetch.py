"""Items made ahead of their use: the same ones in the same order, on one core, up to an error."""

from collections.abc import Iterator

import pytest
import torch

from pipeline.training.prefetch import prefetch


def test_the_same_items_in_the_same_order() -> None:
    assert list(prefetch(iter(range(50)))) == list(range(50))


def test_an_error_is_raised_where_the_items_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second is broken")

    ready = prefetch(items())
    assert next(ready) == 1
    with pytest.raises(ValueError, match="second"):
        next(ready)


def test_making_items_leaves_the_threads_to_those_who_use_them() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = (torch.get_num_threads() for _ in range(3))
        assert list(prefetch(threads)) == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_left_unused_is_not_made() -> None:
    made = []

    def items() -> Iterator[int]:
        for item in range(1000):
            made.append(item)
            yield item

    ready = prefetch(items(), depth=2)
    assert next(ready) == 0
    ready.close()
    assert len(made) < 10
