"""What writes that never ended have left: local temporary files. Object stores keep none."""

import os
import re
from collections.abc import Iterator

from pipeline.storage.door import is_local
from pipeline.storage.faults import named
from pipeline.storage.uris import absolute

_TEMPORARY = re.compile(r"\..+\.tessera-[0-9a-f]{8}")


def unfinished_files(uri: str) -> Iterator[str]:
    """Temporary files of writers that died, below a folder; of writers at work as well."""
    if not is_local(uri):
        return
    with named(uri, "list"):
        for folder, _, names in os.walk(absolute(uri)):
            for name in names:
                if _TEMPORARY.fullmatch(name):
                    yield os.path.join(folder, name)
