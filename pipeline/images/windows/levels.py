"""Which level of a pyramid is read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import RejectError

_FURTHEST = 1.5  # times finer or coarser than asked for, that a level may be


@dataclass(frozen=True)
class Level:
    """One resolution of an image."""

    height: int
    width: int
    mpp: float | None
    """Micrometres a pixel, where the file says."""


@dataclass(frozen=True)
class LevelChoice:
    """What the user asks for: a level by number, or by the size of its pixels."""

    level: int = 0
    mpp: float | None = None


FINEST = LevelChoice()


def choose_level(levels: Sequence[Level], choice: LevelChoice) -> int:
    """The number of the level that is asked for.

    Raises:
        RejectError: the image has none such.
    """
    if choice.mpp is None:
        if choice.level >= len(levels):
            raise RejectError(
                "level", f"has {len(levels)} levels, 0 to {len(levels) - 1}, not {choice.level}"
            )
        return choice.level
    known = {i: level.mpp for i, level in enumerate(levels) if level.mpp}
    if not known:
        raise RejectError("level", "does not say how large its pixels are; ask for a level instead")
    off = {i: abs(math.log(mpp / choice.mpp)) for i, mpp in known.items()}
    nearest = min(off, key=lambda i: off[i])
    if off[nearest] > math.log(_FURTHEST):
        has = ", ".join(f"{mpp:.3g}" for mpp in known.values())
        raise RejectError("level", f"has levels of {has} µm a pixel, none near {choice.mpp:g}")
    return nearest
