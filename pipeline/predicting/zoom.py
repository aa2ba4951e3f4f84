"""Images enlarged or reduced for the network, which knows objects of the sizes it was trained on.

Everything but the network's own pixels is counted in the image's: regions, maps, objects. Known
without PyTorch, so that windows can be read where there is none.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

_MARGIN = 2  # pixels on either side that a resized one is made of, in the coarser of both


@dataclass(frozen=True)
class Zoom:
    """How many pixels of the network one of the image is, along a side.

    Attributes:
        factor: 2 shows the network images of twice the height and width.
    """

    factor: Fraction = Fraction(1)

    @classmethod
    def of(cls, factor: float) -> "Zoom":
        """Of a number that is a few eighths."""
        return cls(Fraction(factor))

    def stride(self, stride: int) -> int:
        """The fewest pixels of the image that are a multiple of `stride` for the network."""
        whole = stride * self.factor.denominator
        return whole // math.gcd(whole, self.factor.numerator)

    def context(self, context: int) -> int:
        """As many pixels of the image as the network's context, and what resizing looks at."""
        if self.factor == 1:
            return context
        return math.ceil((context + _MARGIN) / self.factor) + _MARGIN

    def side(self, side: int) -> int:
        """Pixels of the image of which the network sees no more than `side`, nor are they more."""
        return math.floor(side / max(self.factor, Fraction(1)))

    def seen(self, side: int) -> int:
        """Pixels of the network that so many of the image are, which `stride` has rounded."""
        return int(side * self.factor)


NO_ZOOM = Zoom()
