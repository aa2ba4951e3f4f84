"""How a network is trained."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from pipeline.config.base import CHOSEN, PRECISION, JobSettings, PictureName, Precision, Section
from pipeline.config.labels import VAL_FRACTION, LabelSettings
from pipeline.config.logs import LogSettings
from pipeline.config.model import (
    LEAST_ZOOM,
    MOST_ZOOM,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
)

MOST_TILT = 10
"""Degrees that an upright image is turned at most."""


class AugmentSettings(Section):
    """Random changes to training crops, so that the network sees more than the data holds."""

    upright: bool | None = Field(
        None,
        description="images have an up, as photographs of streets do: they are mirrored left to "
        f"right alone, and turned by {MOST_TILT} degrees at most; {CHOSEN}",
    )
    flip: bool = Field(True, description="mirror and turn by right angles")
    warp_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of crops that are zoomed, turned by any angle and displaced; the others "
        "keep their pixels as they are, sharp where objects touch",
    )
    scale: float = Field(1.4, ge=1, le=4, description="zoom by up to this factor, in or out")
    rotate: bool = Field(True, description="turn by any angle")
    elastic: float = Field(
        2.0, ge=0, le=50, description="standard deviation in pixels of smooth random displacements"
    )
    intensity: float = Field(
        0.3, ge=0, le=1, description="strength of contrast, brightness and gamma changes"
    )
    stain: float = Field(
        0.15, ge=0, le=1, description="strength of changes to the dyes of colour images"
    )
    gray_share: float = Field(0.1, ge=0, le=1, description="share of colour crops turned gray")
    invert_share: float = Field(
        0.05, ge=0, le=1, description="share of crops with dark and bright exchanged"
    )
    blur: float = Field(1.5, gt=0, le=4, description="largest standard deviation in pixels of blur")
    blur_share: float = Field(0.1, ge=0, le=1, description="share of crops that are blurred")
    noise: float = Field(0.03, ge=0, le=1, description="largest standard deviation of added noise")


class SamplingSettings(Section):
    """Which crops are seen, beside an even pass over all images."""

    balance: bool = Field(
        True,
        description="show images more often that look unlike most: in colour or gray, with bright "
        "objects or dark ones",
    )
    rare_class: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the crops that show a class drawn evenly from all but the "
        f"background; {CHOSEN}",
    )
    objects: float | None = Field(
        None, ge=0, le=1, description=f"share of the crops that show an object; {CHOSEN}"
    )

    @model_validator(mode="after")
    def _leave_no_more_than_all(self) -> Self:
        if (self.rare_class or 0) + (self.objects or 0) > 1:
            raise ValueError("rare_class and objects together take at most 1")
        return self


class OptimizerSettings(Section):
    """The optimiser, with warm-up and a cosine to zero."""

    kind: Literal["muon", "adamw"] = Field(
        "muon",
        description="muon: for the convolutions inside the network, and AdamW for the rest; it "
        "learns more from as many pixels",
    )
    learning_rate: float = Field(5e-3, gt=0, description="peak learning rate")
    fine_tuning: float = Field(
        0.5, gt=0, le=1, description="share of it that a pretrained network goes on with"
    )
    weight_decay: float = Field(
        1e-4, ge=0, description="how much the weights shrink at each step, times the learning rate"
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the training spent warming up")
    clip_norm: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="decay a step of the moving average of the weights, which is what is "
        "validated and kept; 0 keeps the last weights",
    )


class RecordSettings(Section):
    """What a training leaves to look at, beside the model."""

    metrics: bool = Field(True, description="metrics.jsonl in the bundle: a line a validation")
    tensorboard: bool = Field(
        True, description="event files for TensorBoard in OUTPUT/tensorboard, with pictures"
    )
    mlflow: bool = Field(True, description="a run in MLflow, where MLFLOW_TRACKING_URI is set")
    curve: bool = Field(True, description="curve.png in the bundle: loss, figures, calibration")
    card: bool = Field(True, description="README.md in the bundle: the model card")


class TrainSettings(LogSettings):
    """Train a U-Net from annotated images and write a model bundle.

    DATA holds images/, labels/ (a PNG or TIFF of integers an image; 0 is background, each object
    has its own id) and, where there are classes, semantic/ and classes.yaml. manifest.csv may name
    the splits. Or it is COCO, Cityscapes, class maps in colours, a mask file an object, or a
    manifest.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.train")

    data: str = Field(description="folder or URI of the annotated images")
    output: str = Field(description="folder or URI where the model bundle is written")
    epochs: int | None = Field(
        None, ge=1, description="passes over the training images; 60 unless --max-minutes is given"
    )
    max_minutes: float | None = Field(
        None, gt=0, description="time to train in; the learning rate is annealed to end there"
    )
    workers: int | str | None = Field(
        None,
        description="training processes; 1:4 takes as many as there is room for; by default one a "
        "GPU, or one a machine without GPUs",
    )
    resume: bool = Field(
        False, description="go on with the training that was stopped on its way to this output"
    )
    restart: bool = Field(
        False, description="start over, and drop a training that was stopped on its way"
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="stop after so many epochs without a better score; by default never, since "
        "the learning rate is annealed towards the end",
    )
    pretrained: str | None = Field(
        None,
        description="model bundle, a folder or URI, whose weights the training begins with "
        "(fine-tuning); the network and what it sees are that model's",
    )
    labels: LabelSettings = LabelSettings()
    method: MethodSettings = MethodSettings()
    network: NetworkSettings = NetworkSettings()
    normalize: NormalizeSettings = NormalizeSettings()
    augment: AugmentSettings = AugmentSettings()
    sampling: SamplingSettings = SamplingSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    record: RecordSettings = RecordSettings()
    notes: str | None = Field(
        None, description="text for the model card, such as the licence and the origin of the data"
    )
    channels: int | None = Field(None, ge=1, description=f"input channels; {CHOSEN}")
    zoom: float | None = Field(
        None,
        ge=LEAST_ZOOM,
        le=MOST_ZOOM,
        multiple_of=LEAST_ZOOM,
        description="enlarge (2) or reduce (0.5) images for the network, in steps of 0.125; all "
        "that is predicted stays in the pixels of the images, and other settings count pixels as "
        f"the network sees them; {CHOSEN}",
    )
    crop: int | None = Field(
        None, ge=16, description=f"side of the training crops, in pixels; {CHOSEN}"
    )
    batch_size: int | None = Field(
        None, ge=1, description=f"crops a step, over all workers together; {CHOSEN}"
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="parts that a batch is computed in, one by one, to save memory",
    )
    min_steps: int = Field(
        40, ge=1, description="an epoch has at least this many steps, however few images there are"
    )
    val_fraction: float = Field(
        VAL_FRACTION, gt=0, lt=1, description="share held out where nothing names the splits"
    )
    precision: Precision = Field("auto", description=PRECISION)
    bundle_weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="type of the convolutions' weights in the bundle; bfloat16 is half the size, "
        "and is what is validated",
    )
    seed: int = Field(0, ge=0, le=2**63 - 1, description="of all that is drawn at random")
    checkpoints: str | None = Field(
        None, description="folder or URI of the checkpoints; by default inside the output"
    )
    checkpoint_minutes: float = Field(
        1.0, gt=0, description="time between checkpoints: the most that a killed worker costs"
    )
    max_failures: int = Field(
        3, ge=0, description="times that lost workers are replaced before the training gives up"
    )
    validation_share: float = Field(
        0.05,
        gt=0,
        le=1,
        description="largest share of the time spent validating on the way, and of --max-minutes "
        "for one validation, which looks at so many of the images",
    )
    cache_bytes: int | None = Field(
        None,
        ge=0,
        description="decoded images of more bytes are read again in each epoch instead of kept; "
        "by default half of Ray's object store",
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _read_workers(cls, value: object) -> object:
        if value is None:
            return None
        parts = str(value).split(":")
        if not all(part.isdecimal() for part in parts) or len(parts) > 2:
            raise ValueError("takes a number, or the least and the most, such as 1:4")
        numbers = [int(part) for part in parts]
        if numbers[0] < 1 or numbers[0] > numbers[-1]:
            raise ValueError("takes at least 1, and the least before the most, such as 1:4")
        return numbers[0] if len(numbers) == 1 else str(value)

    @property
    def worker_range(self) -> tuple[int, int] | None:
        """The fewest and the most workers; None where the cluster decides."""
        if self.workers is None:
            return None
        numbers = [int(part) for part in str(self.workers).split(":")]
        return numbers[0], numbers[-1]

    def result_settings(self) -> dict[str, object]:
        """The settings that a training that goes on must share with the one that was stopped.

        The others change how long it takes, how fast it is, or where it stands.
        """
        return self.model_dump(
            mode="json",
            exclude={
                "config", "output", "workers", "resume", "restart", "epochs", "max_minutes",
                "patience", "checkpoint_minutes", "max_failures", "validation_share", "cache_bytes",
                "record", "notes", "log",
            },
        )  # fmt: skip

    @model_validator(mode="after")
    def _resumes_or_restarts(self) -> Self:
        if self.resume and self.restart:
            raise ValueError("resume and restart exclude each other")
        if self.batch_size and self.accumulate > self.batch_size:
            raise ValueError(f"accumulate takes at most the batch_size, {self.batch_size}")
        return self

    @model_validator(mode="after")
    def _crop_fits_network(self) -> Self:
        depth = self.network.depth or 1  # left open, it will be chosen to fit the crop
        if self.crop is not None and self.crop % 2**depth:
            raise ValueError(f"crop takes a multiple of {2**depth} at depth {depth}")
        return self


class ConfiguredSettings(TrainSettings):
    """Train settings in which nothing is left to be chosen."""

    channels: int
    zoom: float
    crop: int
    batch_size: int


class InspectSettings(JobSettings):
    """Look at annotated images: what is in them, what is wrong, what a training would choose.

    Exits with 1, and one line a problem, when a training would refuse them.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.inspect")

    data: CliPositionalArg[str] = Field(description="folder or URI of the annotated images")
    labels: LabelSettings = LabelSettings()
    val_fraction: float = Field(
        VAL_FRACTION, gt=0, lt=1, description="share held out where nothing names the splits"
    )
    max_minutes: float | None = Field(None, gt=0, description="time that a training would have")
    workers: int | None = Field(None, ge=1, description="processes that would train")
    pretrained: str | None = Field(
        None, description="folder or URI of the model that a training would begin with"
    )
    picture: PictureName | None = Field(
        None, description="PNG to write: telling images with their labels, and histograms"
    )
    images: int = Field(9, ge=1, le=100, description="images in the picture")
    json_output: bool = Field(False, alias="json", description="print JSON instead of tables")
