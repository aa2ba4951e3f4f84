"""Where an export goes: a folder that is its own, so that nobody else's files are written over."""

import json

from pipeline import storage
from pipeline.errors import SettingsError

_MARKER_NAME = "export.json"


def claim_target(target: str, dataset: str, to: str) -> None:
    """Say in a new or empty folder what it holds; one that an export has made may be used again.

    Args:
        target: folder or URI.
        dataset: URI of what is exported.
        to: the format.

    Raises:
        SettingsError: it holds something else.
    """
    names = storage.list_names(target)
    if names and _MARKER_NAME not in names:
        raise SettingsError(
            f"setting target: {target} holds {names[0]}, which no export wrote; give a new or an "
            "empty folder"
        )
    said = {"dataset": dataset, "format": to}
    storage.write_bytes(storage.join(target, _MARKER_NAME), json.dumps(said, indent=2).encode())
