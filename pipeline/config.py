"""Every setting of every job: typed, validated, described once.

`pipeline.parsing` fills them in from a YAML file and flags.
"""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)


class Section(BaseModel):
    """A group of settings inside a job's settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    )

    config: str | None = Field(
        None, description="YAML file or URI with settings; flags win over it"
    )

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


_CHOSEN = "by default chosen from the data"


class NetworkSettings(Section):
    """The U-Net's shape."""

    depth: int | None = Field(
        None, ge=1, le=7, description=f"times the resolution is halved; {_CHOSEN}"
    )
    width: int | None = Field(
        None, ge=1, description=f"channels at full resolution; doubled at each level; {_CHOSEN}"
    )
    max_width: int = Field(256, ge=1, description="the doubling stops at this many channels")
    full_resolution: Literal["full", "light"] | None = Field(
        None,
        description="what is computed at full resolution: as much as at every other, or only a "
        f"last convolution that sees the image, which is half as much work; {_CHOSEN}",
    )
    norm: Literal["batch", "group", "instance", "none"] = Field(
        "batch",
        description="normalisation layer; group and instance look at the whole region, so regions "
        "of one image no longer agree exactly",
    )

    def widths(self) -> list[int]:
        """Channels at each resolution, the full one first.

        Raises:
            ValueError: depth or width is still to be chosen.
        """
        if self.depth is None or self.width is None:
            raise ValueError("network takes a depth and a width")
        most = max(self.width, self.max_width)
        return [min(self.width * 2**level, most) for level in range(self.depth + 1)]


class NormalizeSettings(Section):
    """How file values become the network's input."""

    kind: Literal["percentile", "range", "none"] | None = Field(
        None,
        description="percentile: low to 0 and high to 1, measured in each image; range: the "
        f"integer type's full range to 0..1; none: as stored; {_CHOSEN}",
    )
    low: float = Field(1.0, ge=0, lt=50, description="percentile that becomes 0")
    high: float = Field(99.8, gt=50, le=100, description="percentile that becomes 1")
    per_channel: bool | None = Field(
        None, description="measure each channel for itself; by default for all but 3-channel colour"
    )


class MethodSettings(Section):
    """How the network's outputs become classes and objects."""

    name: Literal["auto", "semantic", "instance"] = Field(
        "auto",
        description="semantic: classes of pixels; instance: also tells touching objects apart; "
        "auto: instance when the labels hold instances",
    )
    class_weights: list[float] | None = Field(
        None, description=f"weight of each class in the loss, in the order of ids; {_CHOSEN}"
    )
    focal: float = Field(
        0.0,
        ge=0,
        le=5,
        description="how much less pixels count in the cross-entropy that are right already; "
        "0: all alike, 2 is usual",
    )
    miss_weight: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="weight in the overlap loss of pixels that are missed, against those that are "
        "false; 0.5 is Dice, more finds more of rare classes",
    )
    foreground_threshold: float = Field(
        0.5, gt=0, lt=1, description="probability from which a pixel belongs to an object"
    )
    vote_blur: float = Field(
        0.3,
        gt=0,
        le=2,
        description="how far the votes for an object's middle are spread, as a share of the way "
        "that a vote of the image typically goes: less parts objects sooner, more joins them",
    )
    reach: int | None = Field(
        None, ge=16, description=f"pixels from which an object's middle is found; {_CHOSEN}"
    )
    min_area: int = Field(
        8, ge=1, description="objects of fewer pixels are taken for noise and dropped"
    )


class AugmentSettings(Section):
    """Random changes to training crops, so that the network sees more than the data holds."""

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
        description=f"share of the crops that show a class drawn evenly from all; {_CHOSEN}",
    )
    objects: float | None = Field(
        None, ge=0, le=1, description=f"share of the crops that show an object; {_CHOSEN}"
    )

    @model_validator(mode="after")
    def _leave_no_more_than_all(self) -> Self:
        if (self.rare_class or 0) + (self.objects or 0) > 1:
            raise ValueError("rare_class and objects together take at most 1")
        return self


VAL_FRACTION = 0.15
"""Share of the images that is held out where nothing names the splits."""


class LabelSettings(Section):
    """How the annotations are found and read."""

    format: Literal["auto", "folder", "masks", "coco", "semantic", "cityscapes", "manifest"] = (
        Field("auto", description="annotation format; auto: the one whose files are there")
    )
    images: str | None = Field(
        None, description="folder or URI of COCO's images, where they are not beside the JSON"
    )
    classes: str | None = Field(
        None,
        description="class list: YAML as classes.yaml, CSV with name,r,g,b, or a text file with a "
        "name or 'r g b name' a line; by default the one beside the images",
    )
    palette: str | None = Field(
        None, description="colours of the classes in colour-coded maps: CSV or text as for classes"
    )
    void: int | None = Field(
        None, ge=0, le=255, description="value in semantic maps that nobody labelled; default: 255"
    )


class OptimizerSettings(Section):
    """AdamW with warm-up and a cosine to zero."""

    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(1e-4, ge=0)
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

    metrics: bool = Field(True, description="metrics.jsonl in the bundle: a line an epoch")
    tensorboard: bool = Field(
        True, description="event files for TensorBoard in OUTPUT/tensorboard, with pictures"
    )
    mlflow: bool = Field(True, description="a run in MLflow, where MLFLOW_TRACKING_URI is set")
    curve: bool = Field(True, description="curve.png in the bundle: loss, figures, calibration")
    card: bool = Field(True, description="README.md in the bundle: the model card")


def _as_number(value: object) -> object:
    """Flags are text, which a list of numbers does not know."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


Precision = Literal["auto", "float32", "bfloat16"]
_PRECISION = "of the network; auto: bfloat16 where the processor has it in hardware"


class TrainSettings(JobSettings):
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
    channels: int | None = Field(None, ge=1, description=f"input channels; {_CHOSEN}")
    crop: int | None = Field(
        None, ge=16, description=f"side of the training crops, in pixels; {_CHOSEN}"
    )
    batch_size: int | None = Field(
        None, ge=1, description=f"crops a step, over all workers together; {_CHOSEN}"
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
    precision: Precision = Field("auto", description=_PRECISION)
    bundle_weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="type of the convolutions' weights in the bundle; bfloat16 is half the size, "
        "and is what is validated",
    )
    seed: int = Field(0, ge=0)
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
        0.05, gt=0, le=1, description="largest share of the time spent validating on the way"
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
    picture: str | None = Field(
        None, description="PNG to write: telling images with their labels, and histograms"
    )
    images: int = Field(9, ge=1, le=100, description="images in the picture")
    json_output: bool = Field(False, alias="json", description="print JSON instead of tables")


class ReaderSettings(Section):
    """What counts as a readable image."""

    max_pixels: int = Field(
        100_000_000, ge=1, description="images with more pixels (height x width) are rejected"
    )
    allow_misnamed: bool = Field(
        False, description="decode a file by its content when its name says another format"
    )


class RegionSettings(Section):
    """How the network walks over an image."""

    size: int = Field(1024, ge=16, description="side of a region's core, in pixels")
    halo: int | None = Field(
        None, ge=0, description="pixels read around the core; by default the network's context"
    )
    batch_pixels: int = Field(
        8 * 256 * 256, ge=1, description="pixels that go through the network at once"
    )


class PredictSettings(JobSettings):
    """Predict a collection of images and write masks, objects and counts as Parquet.

    Re-running the same command goes on where it stopped; images that are done are not repeated.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.predict")

    input: str = Field(
        description="folder or URI of images, or a Parquet or CSV manifest with a uri column"
    )
    model: str = Field(description="folder or URI of the model bundle")
    output: str = Field(description="folder or URI of the output dataset")
    dry_run: bool = Field(False, description="print what would be done, and stop")
    workers: int | None = Field(
        None,
        ge=1,
        description="predicting processes, which share the cores out among them; by default one a "
        "GPU, or one a core. For a few large images, 1 is faster on a CPU",
    )
    images_per_shard: int = Field(64, ge=1, description="most images that are committed together")
    bytes_per_shard: int = Field(
        32 << 20, ge=1, description="most bytes of files that are committed together"
    )
    memory_in_flight: int = Field(
        512 << 20, ge=1 << 20, description="bytes of images and maps kept between the stages"
    )
    max_reject_share: float = Field(
        0.1, ge=0, le=1, description="exit with 3 when more than this share of the run is rejected"
    )
    precision: Precision = Field("auto", description=_PRECISION)
    views: Annotated[Literal[1, 2, 4, 8], BeforeValidator(_as_number)] = Field(
        1,
        description="mirrored and turned views of each region that the network looks at and whose "
        "outputs are averaged: a little more accurate, and as many times slower",
    )
    foreground_threshold: float | None = Field(
        None, gt=0, lt=1, description="instead of the bundle's"
    )
    vote_blur: float | None = Field(None, gt=0, le=2, description="instead of the bundle's")
    min_area: int | None = Field(None, ge=1, description="instead of the bundle's")
    regions: RegionSettings = RegionSettings()
    reader: ReaderSettings = ReaderSettings()

    def decoding(self, method: MethodSettings) -> MethodSettings:
        """The bundle's method settings with this job's thresholds in their place."""
        keys = ("foreground_threshold", "vote_blur", "min_area")
        chosen = {key: getattr(self, key) for key in keys if getattr(self, key) is not None}
        return method.model_copy(update=chosen)

    def results_fingerprint(self) -> str:
        """Hash of the settings that change results; the others only change how fast they come."""
        keys = {
            "precision", "views", "foreground_threshold", "vote_blur", "min_area", "regions"
        }  # fmt: skip
        return fingerprint(self.model_dump(include=keys) | {"reader": self.reader.model_dump()})


class EvaluateSettings(JobSettings):
    """Compare an output dataset with annotated images."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.evaluate")

    predictions: str = Field(description="folder or URI of the output dataset")
    data: str = Field(description="folder or URI of the annotated images")
    split: str | None = Field(None, description="only images of this split, such as val")
    val_fraction: float = Field(
        VAL_FRACTION, gt=0, lt=1, description="share held out where nothing names the splits"
    )
    labels: LabelSettings = LabelSettings()
    by: str | None = Field(
        None, description="also a row for each value of this column of the data's manifest"
    )
    json_output: bool = Field(False, alias="json", description="print JSON instead of tables")


class CountSettings(JobSettings):
    """Count the objects and pixels of an output dataset."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.count")

    dataset: CliPositionalArg[str] = Field(description="folder or URI of the output dataset")
    by: Literal["class", "image", "partition"] = Field("class", description="a row for each")
    limit: int = Field(50, ge=1, description="rows printed; all are counted")
    json_output: bool = Field(False, alias="json", description="print JSON, every row")


class OverlaySettings(JobSettings):
    """Draw predicted objects over their images, in one picture."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.overlay")

    dataset: CliPositionalArg[str] = Field(description="folder or URI of the output dataset")
    picture: str = Field("overlay.png", description="PNG to write")
    images: int = Field(9, ge=1, le=100, description="images to draw")
    side: int = Field(320, ge=32, description="each is scaled to fit this many pixels")


class DemoSettings(JobSettings):
    """Make a small synthetic collection, train on it, predict, evaluate, count and draw."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.demo")

    output: str = Field("demo", description="folder where everything is written")
    max_minutes: float = Field(1.0, gt=0, description="time to train in")


def fingerprint(value: object) -> str:
    """A short content hash of anything JSON can say; equal values give equal hashes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
