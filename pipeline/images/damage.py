"""What goes wrong in decoding → one reject, worded alike wherever an image is read."""

import contextlib
import re
from collections.abc import Iterator

from pipeline.errors import RejectError, TesseraError

_LONGEST = 200  # characters of what a decoder says
_NOISE = re.compile(r" at 0x[0-9a-fA-F]+| \(\d+ bytes not processed\)")
"""The address of a Python object, another one in every run; how much Pillow had not yet used."""


@contextlib.contextmanager
def refused(what: str) -> Iterator[None]:
    """Whatever is raised inside, and is not ours, is a reject: corrupt, or memory where that lacks.

    Args:
        what: how its message begins, such as `damaged TIFF`.
    """
    try:
        yield
    except TesseraError:
        raise
    except MemoryError as error:
        raise RejectError(
            "memory", "needs more memory to decode than a process may have"
        ) from error
    except Exception as error:  # decoders have no common base for what damaged bytes make them say
        reason = " ".join(_NOISE.sub("", str(error)).split()) or type(error).__name__
        raise RejectError("corrupt", f"{what}: {reason[:_LONGEST]}") from error
