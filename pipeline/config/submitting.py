"""How a job is handed to a cluster."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from pipeline.config.base import JobSettings


class SubmitSettings(JobSettings):
    """Run a job on a Ray cluster: its name comes first, its own flags as they always are.

    python -m jobs.submit predict --address http://127.0.0.1:8265 --input s3://… --output s3://…

    The same command again follows the job while it goes on, says so when it is done, and submits it
    anew where it failed or was stopped; it goes on from there. The cluster's token is taken from
    RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, as Ray does.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.submit JOB")

    address: str = Field(description="URL of the cluster's job server")
    submission_id: str | None = Field(
        None, description="name of the submission; by default made from the command, so that the "
        "same command has the same name"
    )  # fmt: skip
    working_dir: str | None = Field(
        None,
        description="folder of this machine that is sent along and run in, for a cluster whose "
        "image has not the code; relative paths among the flags lie in it",
    )
    again: bool = Field(False, description="also when it is done: run it once more")
    detach: bool = Field(False, description="do not wait for its end")
    stop: bool = Field(False, description="stop it, in good order")
