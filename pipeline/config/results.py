"""How results are measured, counted and shown."""

from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg, SettingsConfigDict

from pipeline.config.base import JobSettings, PictureName
from pipeline.config.labels import VAL_FRACTION, LabelSettings


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
    calibrate: bool = Field(
        False,
        description="from now on jobs.count tells the error of these predictions' counts as these "
        "images show it, instead of as the model's validation did",
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
    picture: PictureName = Field("overlay.png", description="PNG to write")
    images: int = Field(9, ge=1, le=100, description="images to draw")
    side: int = Field(320, ge=32, description="each is scaled to fit this many pixels")


class ExportSettings(JobSettings):
    """Write predicted objects in a format that other tools open."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.export")

    dataset: CliPositionalArg[str] = Field(description="folder or URI of the output dataset")
    to: Literal["ome-zarr", "geojson", "coco", "tiff"] = Field(
        description="ome-zarr: a pyramid of labels, for napari and QuPath; geojson: polygons; "
        "coco: one JSON of instances; tiff: tiled labels"
    )
    target: str = Field("export", description="folder or URI to write to")
    images: str | None = Field(
        None, description="only images whose URI or file name matches, such as *.tif"
    )


class DemoSettings(JobSettings):
    """Make a small synthetic collection, train on it, predict, evaluate, count and draw."""

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.demo")

    output: str = Field("demo", description="folder where everything is written")
    epochs: int = Field(
        5,
        ge=1,
        description="how long to train; not by the clock, so that a busy machine is "
        "slower and no worse",
    )
