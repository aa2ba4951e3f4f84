"""Some of many images, spread evenly over them: neighbours often resemble each other."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from pipeline.records import Sample

_GOLDEN = (math.sqrt(5) - 1) / 2


def evenly(images: int, count: int) -> list[int]:
    """The numbers of so many images, the first and the last among them; always the same ones."""
    numbers: list[int] = np.linspace(0, images - 1, min(images, count)).round().astype(int).tolist()
    return numbers


@dataclass(frozen=True)
class Some(Sequence[Sample]):
    """Some of many images, in an order of their own; each is read when it is asked for."""

    samples: Sequence[Sample]
    numbers: Sequence[int]

    @classmethod
    def shuffled(cls, samples: Sequence[Sample]) -> "Some":
        """All, so that however many are taken from the beginning are spread evenly."""
        # Multiples of the golden ratio fill the space between two whole numbers evenly.
        return cls(samples, np.argsort(np.arange(len(samples)) * _GOLDEN % 1).tolist())

    def first(self, count: int) -> "Some":
        """So many from the beginning, in the order in which they are numbered."""
        return Some(self.samples, sorted(self.numbers[:count]))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Some": ...
    def __getitem__(self, index: int | slice) -> "Sample | Some":
        if isinstance(index, slice):
            return Some(self.samples, self.numbers[index])
        return self.samples[self.numbers[index]]

    def __len__(self) -> int:
        return len(self.numbers)
