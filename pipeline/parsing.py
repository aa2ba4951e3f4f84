"""YAML and flags → settings, and one line for each mistake.

A job's settings come from its defaults, then a YAML file (`--config`), then its flags; the last
one wins. Nested settings are YAML sections and dotted flags: `network: {depth: 4}` is
`--network.depth 4`. Reading the file is the caller's: nothing here touches storage.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import CliSettingsSource
from pydantic_settings import SettingsError as CliError
from pydantic_settings.sources.types import _CliPositionalArg

from pipeline.config import JobSettings
from pipeline.config.base import VERBATIM
from pipeline.errors import SettingsError

S = TypeVar("S", bound=JobSettings)

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_ALIKE = (("--output", "--target", "--picture"), ("--input", "--data", "--predictions"))
"""Flags that are called differently by jobs that take different things."""
_REQUIRED = re.compile("arguments are required")
_GIVEN = re.compile(r"argument (\S+)/(\S+): ignored explicit argument (.+)")
_TAKES = {
    "int": "takes a whole number",
    "float": "takes a number",
    "finite": "takes a finite number",
    "bool": "takes true or false",
    "list": "takes a list",
    "tuple": "takes a list",
    "string": "takes a text",
}
"""What a setting takes, by the first word of the error's type in pydantic …"""
_OF_TYPE = {"parsing", "parsing_size", "type", "from_float", "number"}
"""… where the rest of it is one of these."""


class _Loader(yaml.SafeLoader):
    """No numbers to the base of 60 (`workers: 1:4` is no 64), no repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in keys[:place]:
                where = f"{self.name} at line {key.start_mark.line + 1}"
                raise SettingsError(f"{where} gives {key.value} a second time")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [
        (
            tag,
            re.compile(f"(?!.*:){pattern.pattern}", pattern.flags) if tag in _NUMBERS else pattern,
        )
        for tag, pattern in resolvers
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """The mapping that a YAML file holds. `name` is for the error's sake."""
    try:
        loader = _Loader(text)
        loader.name = name
        value = loader.get_single_data()
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
    given = _underscored(values)
    try:
        parsed, verbatim = _verbatim(kind, flags)
        try:
            source = _Source(kind, cli_parse_args=parsed)
        except CliError as error:
            if not _REQUIRED.search(str(error)):
                raise
            # What stands without a flag may come from the file, of which the parser knows nothing.
            bare = [str(given[name]) for name in positionals(kind) if name in given]
            source = _Source(kind, cli_parse_args=[*parsed, *bare])
        return kind(_cli_settings_source=source, **given | verbatim)
    except CliError as error:
        raise SettingsError(_flag_problem(kind, str(error))) from error
    except ValidationError as error:
        raise SettingsError(_problem(kind, error.errors())) from error


def positionals(kind: type[JobSettings]) -> list[str]:
    """Settings that stand on the command line without a flag, in their order."""
    return [name for name, info in kind.model_fields.items() if _CliPositionalArg in info.metadata]


class _Source(CliSettingsSource[Any]):
    """Flags, whose help tells a default only where there is one to tell, and items of lists."""

    def _metavar_format(self, obj: Any) -> str:
        told = re.sub(r"^list\[(.*)\]$", r"\1,…", super()._metavar_format(obj))
        return told.removeprefix("tuple[").removesuffix(",...]")  # whose items come one by one

    def _help_format(self, *args: Any, **kwargs: Any) -> str:
        said = super()._help_format(*args, **kwargs)
        for nothing in ("None", "()", "False"):
            said = said.removesuffix(f" (default: {nothing})")
        return said


def to_yaml(settings: BaseModel, left_out: Mapping[str, Any] | None = None) -> str:
    """Settings as run, in a form that `--config` takes.

    Args:
        left_out: what of them is not to be given again, as pydantic's ``exclude`` has it.
    """
    said = settings.model_dump(mode="json", exclude={"config": True, **(left_out or {})})
    return yaml.safe_dump(said, sort_keys=False)


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
    """YAML may spell keys as flags do: `max-minutes` is `max_minutes`, `network.depth` nested."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = str(key).replace("-", "_").split(".")
        given = {name: _underscored(value) if isinstance(value, Mapping) else value}
        for section in reversed(sections):
            given = {section: given}
        _add(found, given)
    return found


def _add(found: dict[str, Any], given: dict[str, Any], section: str = "") -> None:
    """Settings to those found before; a section's may come in several places, none comes twice."""
    for name, value in given.items():
        key, before = section + name, found.get(name)
        if name not in found:
            found[name] = value
        elif isinstance(before, dict) and isinstance(value, dict):
            _add(before, value, f"{key}.")
        elif isinstance(before, dict) or isinstance(value, dict):
            other = value if isinstance(before, dict) else before
            raise SettingsError(f"setting {key}: {_no_section(other)}")
        else:
            raise SettingsError(f"setting {key}: is given twice")


def _no_section(value: object) -> str:
    if value is None:
        return "is a section with nothing in it: indent its settings below it, or leave it out"
    return f"is a section of settings, not {value!r}"


def _flag_problem(kind: type[JobSettings], message: str) -> str:
    message = message.removeprefix("error parsing CLI: ")
    wrong, _, rest = message.partition("unrecognized arguments: ")
    bare = positionals(kind)
    if given := _GIVEN.match(message):
        return f"flag {given[1]} takes no value, not {given[3]}; {given[2]} is its opposite"
    if _REQUIRED.search(message):
        return f"{' and '.join(bare)} stands without a flag, and is missing; --help tells more"
    if wrong:
        return message
    flag = rest.split()[0].split("=")[0]
    if not flag.startswith("-"):
        return (
            f"{flag} stands without a flag, and nothing is expected there; --help lists the flags"
        )
    known = ["--" + key.replace("_", "-") for key in _keys(kind) if key not in bare]
    if flag.removeprefix("--") in bare:
        return f"{flag.removeprefix('--')} stands without a flag: leave out {flag}"
    return f"unknown flag {flag}{_did_you_mean(flag, known)}"


def _problem(kind: type[BaseModel], errors: Sequence[ErrorDetails]) -> str:
    """The first of them; of what is missing, all."""
    missing = [".".join(map(str, e["loc"])) for e in errors if e["type"] == "missing"]
    if errors[0]["type"] != "missing" or len(missing) == 1:
        return _key_problem(kind, errors[0])
    flags = ", ".join("--" + key.replace("_", "-") for key in missing)
    return f"settings {', '.join(missing)} are missing: give {flags}, or a settings file with them"


def _key_problem(kind: type[BaseModel], error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting {key}{_did_you_mean(key, _keys(kind))}"
    if error["type"] == "missing":
        flag = "--" + key.replace("_", "-")
        return f"setting {key} is missing: give {flag}, or {key}: in the settings file"
    value = error["input"]
    if error["type"] == "model_type":
        return f"setting {key}: {_no_section(value)}"
    if value == "":
        return f"setting {key}: is empty"
    word, _, rest = error["type"].partition("_")
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    reason = _TAKES.get(word, reason) if rest in _OF_TYPE else reason
    if not key:
        return reason
    return f"setting {key}: {reason[0].lower()}{reason[1:]}, not {value!r}"


def _did_you_mean(word: str, known: list[str]) -> str:
    alike = next((words for words in _ALIKE if word in words), ())
    close = [one for one in known if one in alike]
    close = close or difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else "; --help lists them"


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
