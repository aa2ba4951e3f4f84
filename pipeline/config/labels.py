"""How annotations are found and read."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import Section

VAL_FRACTION = 0.15
"""Share of the images that is held out where nothing names the splits."""


class LabelSettings(Section):
    """How the annotations are found and read."""

    format: Literal[
        "auto",
        "folder",
        "masks",
        "coco",
        "outlines",
        "semantic",
        "voc",
        "cityscapes",
        "nnunet",
        "manifest",
    ] = Field("auto", description="annotation format; auto: the one whose files are there")
    images: str | None = Field(
        None, description="folder or URI of COCO's images, where they are not beside the JSON"
    )
    classes: str | None = Field(
        None,
        description="class list: YAML as classes.yaml, CSV with name,r,g,b, or a text file with a "
        "name, 'id name' or 'r g b name' a line; by default the one beside the images",
    )
    palette: str | None = Field(
        None, description="colours of the classes in colour-coded maps: CSV or text as for classes"
    )
    void: int | None = Field(
        None, ge=0, le=255, description="value in semantic maps that nobody labelled; default: 255"
    )
