"""The contract of an image that is read by window."""

from typing import Protocol

from pipeline.records import Box, Pixels


class WindowedImage(Protocol):
    """An image of which any window can be read without the rest."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        ...

    def read(self, box: Box) -> Pixels:
        """(H, W, C) of a box inside the image.

        Raises:
            RejectError: the window is damaged.
            StorageError: the store did not give it.
        """
        ...


class WholeImage:
    """An image in memory, as one that is read by window."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.pixels.shape
        return height, width, channels

    def read(self, box: Box) -> Pixels:
        return self.pixels[box.y0 : box.y1, box.x0 : box.x1]
