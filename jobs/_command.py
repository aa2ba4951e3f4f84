"""Settings → the command line that a user would type for them."""

import shlex
from collections.abc import Collection, Iterator

from pydantic import BaseModel

from pipeline.config import JobSettings
from pipeline.parsing import positionals


def command(settings: JobSettings) -> str:
    """With what was given, by flags or a file, and nothing that is there by default."""
    bare = positionals(type(settings))
    words = [str(getattr(settings, name)) for name in bare if name in settings.model_fields_set]
    words += _flags(settings, {*bare, "config"})
    return f"{type(settings).model_config.get('cli_prog_name')} {shlex.join(words)}"


def _flags(values: BaseModel, left_out: Collection[str] = (), prefix: str = "") -> Iterator[str]:
    for name, info in type(values).model_fields.items():
        value, key = getattr(values, name), prefix + (info.alias or name).replace("_", "-")
        if name in left_out or name not in values.model_fields_set:
            continue
        if value is info.default and isinstance(value, bool):
            continue  # numbers say something as they are by default, too: they are not learned
        if isinstance(value, BaseModel):
            yield from _flags(value, prefix=f"{key}.")
        elif isinstance(value, bool):
            yield f"--{key}" if value else f"--no-{key}"
        elif value is not None:
            for item in value if isinstance(value, list | tuple) else [value]:
                yield from (f"--{key}", str(item))
