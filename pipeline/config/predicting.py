"""How images are predicted."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import SettingsConfigDict

from pipeline.config.base import PRECISION, Precision, Section
from pipeline.config.collection import CollectionSettings
from pipeline.config.model import LEAST_DEPTH, LEAST_ZOOM, MOST_ZOOM, THRESHOLDS, MethodSettings
from pipeline.config.writing import WritingSettings
from pipeline.errors import SettingsError


def _as_number(value: object) -> object:
    """Flags are text, which a list of numbers does not know."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


_BUNDLES = "by default as in the bundle"
_OVERRIDES = (
    "foreground_threshold", "vote_blur", "proposal_threshold", "overlap", "min_area", "min_score",
)  # fmt: skip
_LATER = ("proposal_threshold", "overlap", "min_score", "mpp", "channel")
"""Settings that the first outputs did not know, and say nothing of where they are not given."""


class ReaderSettings(Section):
    """What counts as a readable image."""

    max_pixels: int = Field(
        100_000_000,
        ge=1,
        description="images with more pixels (height x width) are rejected, unless they are TIFF "
        "in tiles or strips, or Zarr, which are read by window",
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
    blend: Literal["core", "gaussian"] = Field(
        "core",
        description="where read boxes overlap: core takes the outputs of the region that answers "
        "for a pixel, which with the default halo are those of the whole image; gaussian the "
        "weighted mean of all that see it",
    )
    spread: int = Field(
        2048,
        ge=16,
        description="side in pixels of the parts of a large image that are worked on apart, by "
        "all workers; rounded up to whole regions",
    )
    large: int = Field(
        16 << 20,
        ge=1,
        description="pixels of the largest image that is predicted at once; others are worked on "
        "in parts",
    )
    batch_pixels: int = Field(
        8 * 256 * 256, ge=1, description="pixels that go through the network at once"
    )


class PredictSettings(CollectionSettings, WritingSettings):
    """Predict a collection of images and write masks, objects and counts as Parquet.

    Re-running the same command goes on where it stopped; images that are done are not repeated.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m jobs.predict")

    input: str = Field(
        description="folder or URI of images, a Parquet or CSV manifest with a uri column, or "
        "an S3 Inventory (its manifest.json)"
    )
    model: str = Field(description="folder or URI of the model bundle")
    output: str = Field(description="folder or URI of the output dataset")
    dry_run: bool = Field(False, description="print what would be done, and stop")
    retry_rejects: bool = Field(False, description="try again what was rejected before")
    replace: bool = Field(
        False,
        description="compute images anew that are done, also with another model or other settings, "
        "and put the new rows in the place of the old ones, shard by shard; with --where a part",
    )
    prune: bool = Field(
        False,
        description="in the end, take out the rows of images that are no longer in the input",
    )
    max_prune_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="largest share of the images done that may go; more are not pruned, since the "
        "listing may be at fault",
    )
    stall_seconds: int = Field(
        600,
        ge=10,
        description="nothing moving for so long means that something hangs: it is started again",
    )
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
    level: int = Field(
        0, ge=0, description="level of an image pyramid that is read; 0 is the finest"
    )
    mpp: float | None = Field(
        None,
        gt=0,
        description="micrometres a pixel: read the level of a pyramid that is nearest to it",
    )
    channel: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=1,
        description="channels of the images that the model is shown, counted from 0: as many as it "
        "takes, or one that is repeated; by default all",
    )
    precision: Precision = Field("auto", description=PRECISION)
    views: Annotated[Literal[1, 2, 4, 8], BeforeValidator(_as_number)] = Field(
        1,
        description="mirrored and turned views of each region that the network looks at and whose "
        "outputs are averaged, as many times slower; it helps some models, so measure. 2: also "
        "mirrored left to right; 4 and 8 turn as well, which models of images with an up were "
        "never shown",
    )
    zoom: float = Field(
        1.0,
        ge=LEAST_ZOOM,
        le=MOST_ZOOM,
        multiple_of=LEAST_ZOOM,
        description="enlarge (2) or reduce (0.5) images for the model, whose objects in training "
        "were larger or smaller than theirs, in steps of 0.125; results stay in the pixels of the "
        "images",
    )
    foreground_threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description=f"probability from which a pixel belongs to an object; {_BUNDLES}",
    )
    vote_blur: float | None = Field(
        None,
        gt=0,
        le=2,
        description="of the method instance: how far votes for an object's middle are spread; more "
        f"joins objects, less parts them; {_BUNDLES}",
    )
    proposal_threshold: float | None = Field(
        None,
        ge=LEAST_DEPTH,
        lt=1,
        description="of the method proposals: how deep inside its object a pixel has to be to "
        f"propose one; more finds fewer; {_BUNDLES}",
    )
    overlap: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="of the method proposals: IoU from which two proposals are of one object; "
        f"{_BUNDLES}",
    )
    min_area: int | None = Field(
        None, ge=1, description=f"objects of fewer pixels are dropped; {_BUNDLES}"
    )
    min_score: float | None = Field(
        None, ge=0, lt=1, description=f"objects of lower scores are left out; {_BUNDLES}"
    )
    regions: RegionSettings = RegionSettings()
    reader: ReaderSettings = ReaderSettings()

    @model_validator(mode="after")
    def _prunes_what_it_lists(self) -> Self:
        if self.prune and self.where is not None:
            raise ValueError("prune looks at the whole input: leave out where")
        return self

    @model_validator(mode="after")
    def _one_level(self) -> Self:
        if self.level and self.mpp is not None:
            raise ValueError("level and mpp each choose a level of a pyramid: give one of them")
        return self

    def decoding(self, method: MethodSettings, zoom: float) -> MethodSettings:
        """The bundle's method settings with this job's thresholds in their place.

        Those that count pixels count the network's in the bundle, and the image's here.

        Args:
            zoom: of the bundle, which this job's own comes on top of.

        Raises:
            SettingsError: it has no such threshold.
        """
        chosen = {key: getattr(self, key) for key in _OVERRIDES if getattr(self, key) is not None}
        tuned = frozenset[str]().union(*THRESHOLDS.values())
        foreign = sorted(chosen.keys() & tuned - THRESHOLDS[method.name])
        if foreign:
            raise SettingsError(
                f"setting {foreign[0]}: means nothing to this model, whose method is {method.name}"
            )
        return method.in_image(zoom * self.zoom).model_copy(update=chosen)

    def decodes_as(self, method: MethodSettings, zoom: float) -> bool:
        """Whether objects are found, and left out, as the bundle itself says."""
        untouched = self.model_copy(update=dict.fromkeys(_OVERRIDES))
        return self.decoding(method, zoom) == untouched.decoding(method, zoom)

    def results_settings(self) -> dict[str, Any]:
        """The settings that change results; the others only change how fast they come."""
        keys = {"precision", "views", "regions", "reader", "level", "mpp", "zoom", "channel"}
        found = self.model_dump(mode="json", include={*keys, *_OVERRIDES})
        # It decides what is refused: who raises a limit has the rejects tried again, and no others.
        found["reader"] = ReaderSettings().model_dump(mode="json")
        for key in ("spread", "large"):
            del found["regions"][key]  # in parts is as a whole
        if found["regions"]["blend"] == "core":
            del found["regions"]["blend"]
        for key, nothing in {"level": 0, "zoom": 1, **dict.fromkeys(_LATER)}.items():
            if found[key] == nothing:  # as it was before there was a choice
                del found[key]
        return found
