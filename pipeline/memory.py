"""How much memory a process needs."""

import ctypes
import resource


def peak_memory() -> int:
    """Most bytes that this process has held at once, what it shares with others included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def give_back_free_memory() -> None:
    """Return to the kernel what the C library holds and nobody uses; without glibc, nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
