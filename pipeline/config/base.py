"""What settings are made of."""

import hashlib
import inspect
import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

CHOSEN = "by default chosen from the data"
"""What the description of a setting says that self-configuration decides."""
Precision = Literal["auto", "float32", "bfloat16"]
VERBATIM: dict[str, JsonValue] = {"verbatim": True}
"""Mark of a list of texts whose flags are taken as they are typed, commas and brackets included."""
PRECISION = "of the network; auto: bfloat16 where the processor has it in hardware"


def _png(name: str) -> str:
    if not name.lower().endswith(".png"):
        raise ValueError("takes a name that ends in .png")
    return name


PictureName = Annotated[str, AfterValidator(_png)]
"""Where a picture goes, which is a PNG whatever it is called."""


class Section(BaseModel):
    """A group of settings inside a job's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, str_min_length=1)


class JobSettings(BaseSettings):
    """The settings of one job. Environment variables are not read."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_exit_on_error=False,
        protected_namespaces=(),
        allow_inf_nan=False,
        str_min_length=1,  # an empty one is a shell's variable that is not set
    )

    config: str | None = Field(
        None, description="YAML file or URI with settings; flags win over it"
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "")  # as --help prints it

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def fingerprint(value: object) -> str:
    """A short content hash of anything JSON can say; equal values give equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
