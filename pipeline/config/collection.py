"""Which images of the input, and how their results are divided into folders."""

from pydantic import Field, field_validator

from pipeline.config.base import VERBATIM, JobSettings


class CollectionSettings(JobSettings):
    """The settings of a job that walks over a collection of images."""

    partition: tuple[str, ...] = Field(
        (),
        description="folder of the results for each value of NAME=REGEX, found in the image's URI "
        r"(its first group, or all of it), such as date=(\d{4}-\d{2}-\d{2}), or of NAME, a column "
        "of the manifest; may be given several times, outermost first",
        json_schema_extra=VERBATIM,
    )
    where: str | None = Field(
        None,
        description="only these images: an SQL condition on uri, version, size (in bytes, -1 where "
        "unknown) and the partitions, such as \"date >= '2026-10-01' and site = 'a'\"",
    )

    @field_validator("partition", mode="before")
    @classmethod
    def _one_is_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value
