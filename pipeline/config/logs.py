"""How a job tells what it does."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import JobSettings


class LogSettings(JobSettings):
    """Settings of jobs whose output may be for people or for programs."""

    log: Literal["text", "json"] = Field(
        "text", description="json: a JSON object a line, for log collectors"
    )
