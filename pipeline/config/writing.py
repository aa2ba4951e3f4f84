"""What jobs that write to an output dataset have in common."""

from pydantic import Field

from pipeline.config.logs import LogSettings


class WritingSettings(LogSettings):
    """Settings of jobs that need an output dataset to themselves."""

    wait_minutes: float = Field(
        0, ge=0, description="how long to wait while another run writes to the output"
    )
