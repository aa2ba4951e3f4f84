"""The error tree.

    TesseraError             says in one line what is wrong and what to do; a job exits 1
    ├── SettingsError        a setting, flag or settings file is wrong; a job exits 2
    ├── StorageError         a file or an object store did not answer as asked
    ├── DataError            annotated images that cannot be trained on or evaluated with
    │   └── DataProblems     several things wrong with them, a line each
    ├── BundleError          a model bundle that is missing, damaged or unsafe
    ├── DatasetError         an output dataset that cannot be read or may not be written
    └── RejectError          one input image that cannot be processed: becomes a reject row

Only `TesseraError` is meant for a user's eyes. Anything else that escapes is a defect.
"""


class TesseraError(Exception):
    """Base of every error whose message is written for the user."""


class SettingsError(TesseraError):
    """A setting is unknown or has a value that it does not take."""


class StorageError(TesseraError):
    """A URI could not be listed, read or written."""


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


class BundleError(TesseraError):
    """A model bundle is missing, damaged, from another version, or unsafe to load."""


class DatasetError(TesseraError):
    """An output dataset is missing, or holds the results of something else."""


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
