"""YAML and flags → settings, and one line for each mistake.

A job's settings come from its defaults, then a YAML file (`--config`), then its flags; the last
one wins. Nested settings are YAML sections and dotted flags: `network: {depth: 4}` is
`--network.depth 4`. Reading the file is the caller's: nothing here touches storage.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliSettingsSource
from pydantic_settings import SettingsError as CliError

from pipeline.config import JobSettings
from pipeline.config.base import VERBATIM
from pipeline.errors import SettingsError

S = TypeVar("S", bound=JobSettings)


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """The mapping that a YAML file holds. `name` is for the error's sake."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise SettingsError(f"{name} is not valid YAML{line}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingsError(f"{name} takes settings as 'key: value' lines")
    return {str(key): item for key, item in value.items()}


def load(kind: type[S], flags: Sequence[str], values: Mapping[str, Any]) -> S:
    """Settings from values (a YAML file's) and flags; flags win.

    Raises:
        SettingsError: one line that names the first wrong key and what it takes.
        SystemExit: after printing the help, when the flags ask for it.
    """
    try:
        parsed, verbatim = _verbatim(kind, flags)
        source: CliSettingsSource[Any] = CliSettingsSource(kind, cli_parse_args=parsed)
        return kind(_cli_settings_source=source, **_underscored(values) | verbatim)
    except CliError as error:
        raise SettingsError(_flag_problem(kind, str(error))) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(_key_problem(kind, first)) from error


def to_yaml(settings: BaseModel) -> str:
    """Settings as run, in a form that `--config` takes."""
    return yaml.safe_dump(settings.model_dump(mode="json", exclude={"config"}), sort_keys=False)


def _verbatim(
    kind: type[JobSettings], flags: Sequence[str]
) -> tuple[list[str], dict[str, list[str]]]:
    """The flags that pydantic may parse, and the values of those it would take apart.

    It splits a list's flag at commas, and reads brackets and quotes as JSON.
    """
    names = {
        "--" + name.replace("_", "-"): name
        for name, info in kind.model_fields.items()
        if info.json_schema_extra == VERBATIM
    }
    others: list[str] = []
    found: dict[str, list[str]] = {}
    words = iter(flags)
    for word in words:
        flag, has_value, value = word.partition("=")
        following = value if has_value else next(words, None) if flag in names else None
        if flag in names and following is not None:
            found.setdefault(names[flag], []).append(following)
        else:
            others.append(word)
    return others, found


def _underscored(values: Mapping[str, Any]) -> dict[str, Any]:
    """YAML may spell keys as flags do: `max-minutes` is `max_minutes`."""
    return {
        key.replace("-", "_"): _underscored(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
    }


def _flag_problem(kind: type[BaseModel], message: str) -> str:
    message = message.removeprefix("error parsing CLI: ")
    wrong, _, rest = message.partition("unrecognized arguments: ")
    if wrong or not rest.startswith("--"):
        return message
    flag = rest.split()[0].split("=")[0]
    known = ["--" + key.replace("_", "-") for key in _keys(kind)]
    return f"unknown flag {flag}{_did_you_mean(flag, known)}"


def _key_problem(kind: type[BaseModel], error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting {key}{_did_you_mean(key, _keys(kind))}"
    if error["type"] == "missing":
        flag = "--" + key.replace("_", "-")
        return f"setting {key} is missing: give {flag}, or {key}: in the settings file"
    reason = error["msg"].removeprefix("Value error, ")
    if not key:
        return reason
    return f"setting {key}: {reason[0].lower()}{reason[1:]}, not {error['input']!r}"


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(known)}"


def _keys(kind: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, info in kind.model_fields.items():
        key = prefix + (info.alias or name)
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _keys(inner, key + ".")
        else:
            found.append(key)
    return found
