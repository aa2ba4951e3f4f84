"""How a large image is cut: parts that tile it exactly, row by row."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.records import Box


@dataclass(frozen=True)
class Grid:
    """The parts of an image."""

    height: int
    width: int
    side: int
    """Of a part, in pixels; those at the right and below may be smaller."""

    @property
    def down(self) -> int:
        return -(-self.height // self.side)

    @property
    def across(self) -> int:
        return -(-self.width // self.side)

    def __len__(self) -> int:
        return self.down * self.across

    def core(self, part: int) -> Box:
        """What a part answers for."""
        row, column = divmod(part, self.across)
        y0, x0 = row * self.side, column * self.side
        return Box(y0, x0, min(y0 + self.side, self.height), min(x0 + self.side, self.width))

    def around(self, box: Box, halo: int) -> Box:
        """A box with so many pixels around it, inside the image."""
        return Box(
            max(box.y0 - halo, 0),
            max(box.x0 - halo, 0),
            min(box.y1 + halo, self.height),
            min(box.x1 + halo, self.width),
        )

    def parts_in(self, box: Box) -> Iterator[int]:
        """The parts that a box touches."""
        for row in range(box.y0 // self.side, -(-box.y1 // self.side)):
            for column in range(box.x0 // self.side, -(-box.x1 // self.side)):
                yield row * self.across + column
