"""How an output dataset is checked and kept in shape."""

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from pipeline.config.writing import WritingSettings


class VerifySettings(WritingSettings):
    """Check that an output dataset is whole: every image once, every table in agreement."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.verify")

    dataset: CliPositionalArg[str] = Field(description="folder or URI of the output dataset")
    repair: bool = Field(
        False,
        description="remove what counts for nothing, and plan again what is missing or damaged; "
        "the next jobs.predict computes it",
    )
    limit: int = Field(50, ge=1, description="findings printed; all are counted")


class CompactSettings(WritingSettings):
    """Turn many small files of an output dataset into few large sorted ones."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.compact")

    dataset: CliPositionalArg[str] = Field(description="folder or URI of the output dataset")
    target_bytes: int = Field(
        128 << 20, ge=1, description="size that a shard's files should have together"
    )
    dry_run: bool = Field(False, description="print what would be done, and stop")
