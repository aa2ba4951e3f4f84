"""Why a shard as a whole could not be computed, and whose fault that is.

Processes tell each other by name and message: an exception itself would have to be unpickled.
"""

from dataclasses import dataclass

from pipeline import errors
from pipeline.errors import TesseraError, UnavailableError

_FATAL = (
    errors.CredentialsError,
    errors.LeaseLostError,
    errors.ForbiddenError,
    errors.BundleError,
    errors.SettingsError,
)
_STORE = (errors.StorageError, errors.MissingError, errors.UnavailableError, errors.IncompleteError)


class ShardUnreadable(UnavailableError):
    """Not one image of a shard could be read, for reasons that look like the store's."""


class ShardTooLarge(TesseraError):
    """A shard whose images are too many pixels for one process: they are worked on in parts."""


@dataclass(frozen=True)
class Failure:
    """What went wrong with a shard."""

    kind: str
    """Name of the exception's class."""
    message: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """In one line of bounded length."""
        # NumPy's is a class of its own.
        kind = (MemoryError if isinstance(error, MemoryError) else type(error)).__name__
        text = str(error) if isinstance(error, TesseraError) else f"{kind}: {error}"
        return cls(kind, " ".join(text.split())[:500])

    @property
    def unreadable(self) -> bool:
        """None of its images could be read."""
        return self.kind == ShardUnreadable.__name__

    @property
    def too_large(self) -> bool:
        """It is no failure yet: its images are to be worked on in parts."""
        return self.kind == ShardTooLarge.__name__

    @property
    def of_the_store(self) -> bool:
        """It may pass, and is no image's fault."""
        return self.unreadable or self.kind in {kind.__name__ for kind in _STORE}

    def raise_if_fatal(self) -> None:
        """No further try would mend it."""
        for kind in _FATAL:
            if self.kind == kind.__name__:
                raise kind(self.message)
