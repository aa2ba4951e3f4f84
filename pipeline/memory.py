"""How much memory a process has needed."""

import resource


def peak_memory() -> int:
    """Most bytes that this process has held at once, what it shares with others included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
