"""The error tree.

    TesseraError             says in one line what is wrong and what to do; a job exits 1
    ├── SettingsError        a setting, flag or settings file is wrong; a job exits 2
    ├── StorageError         a file or an object store did not answer as asked
    │   ├── MissingError         it does not exist
    │   ├── ForbiddenError       this object may not be read or written
    │   ├── CredentialsError     credentials are missing, wrong or expired
    │   └── UnavailableError     a fault that passes: time-outs, resets, a store under load
    │       └── IncompleteError  not as many bytes came as the object has
    ├── DataError            annotated images that cannot be trained on or evaluated with
    │   └── DataProblems     several things wrong with them, a line each
    ├── StoppedError         the work was told to stop, and did so
    ├── BundleError          a model bundle that is missing, damaged or unsafe
    ├── DatasetError         an output dataset that cannot be read or may not be written
    │   ├── ChangedError         it was changed while it was read: read again
    │   ├── LeaseError           another run is writing to it
    │   └── LeaseLostError       another run has taken over the writing
    └── RejectError          one input image that cannot be processed: becomes a reject row

Only `TesseraError` is meant for a user's eyes. Anything else that escapes is a defect.
"""


class TesseraError(Exception):
    """Base of every error whose message is written for the user."""


class SettingsError(TesseraError):
    """A setting is unknown or has a value that it does not take."""


class StorageError(TesseraError):
    """A URI could not be listed, read or written."""


class MissingError(StorageError):
    """It does not exist."""


class ForbiddenError(StorageError):
    """This object may not be read or written with the credentials at hand."""


class CredentialsError(StorageError):
    """Credentials are missing, wrong or expired: nothing in the store can be reached."""


class UnavailableError(StorageError):
    """The store did not answer, or not as it should; trying again later may help."""


class IncompleteError(UnavailableError):
    """Not as many bytes came as the object is known to have."""


class DataError(TesseraError):
    """Annotated data is missing, inconsistent or unreadable."""


class DataProblems(DataError):
    """Annotated data has problems: one line each.

    Attributes:
        problems: the lines.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(self.problems)


class StoppedError(TesseraError):
    """A job was told to stop by a signal, and can go on.

    Attributes:
        signal: the number of the signal, where it was one.
    """

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class BundleError(TesseraError):
    """A model bundle is missing, damaged, from another version, or unsafe to load."""


class DatasetError(TesseraError):
    """An output dataset is missing, or holds the results of something else."""


class ChangedError(DatasetError):
    """The files of an output dataset were replaced while they were read."""


class LeaseError(DatasetError):
    """Another run is writing to the dataset."""


class LeaseLostError(DatasetError):
    """Another run has taken over the writing of the dataset; this one must stop."""


class RejectError(TesseraError):
    """One input image cannot be processed.

    Attributes:
        code: a short, stable word for grouping, such as ``truncated``.
        message: what is wrong and what to do, without the URI.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type["RejectError"], tuple[str, str]]:
        # Exceptions are pickled by their `args`; ours has two, the base class keeps one.
        return (type(self), (self.code, self.message))
