"""What a model bundle holds: the network's shape, its input, and its method."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from pipeline.config.base import CHOSEN, Section

DEFAULT_REACH = 64
"""Of a bundle that names none."""

DEFAULT_MIN_AREA = 8
"""Likewise, and the most that is chosen: fewer pixels are hardly seen."""

LEAST_ZOOM, MOST_ZOOM = 0.125, 4.0
"""Of images for the network; the least is also the step."""

LEAST_DEPTH = 0.1
"""Of a pixel that may propose an object."""


class NetworkSettings(Section):
    """The U-Net's shape."""

    depth: int | None = Field(
        None, ge=1, le=7, description=f"times the resolution is halved; {CHOSEN}"
    )
    width: int | None = Field(
        None, ge=1, description=f"channels at full resolution; doubled at each level; {CHOSEN}"
    )
    max_width: int = Field(256, ge=1, description="the doubling stops at this many channels")
    full_resolution: Literal["full", "light"] | None = Field(
        None,
        description="what is computed at full resolution: as much as at every other, or only a "
        f"last convolution that sees the image, which is half as much work; {CHOSEN}",
    )
    norm: Literal["weight", "batch", "group", "instance", "none"] = Field(
        "weight",
        description="what is normalised: weight: the filters (weight standardisation); batch, "
        "group, instance: what they give. Group and instance look at the whole region, so regions "
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
        f"integer type's full range to 0..1; none: as stored; {CHOSEN}",
    )
    low: float = Field(1.0, ge=0, lt=50, description="percentile that becomes 0")
    high: float = Field(99.8, gt=50, le=100, description="percentile that becomes 1")
    per_channel: bool | None = Field(
        None, description="measure each channel for itself; by default for all but 3-channel colour"
    )


_LEARNED = frozenset(
    {
        "foreground_threshold", "vote_blur", "proposal_threshold", "overlap", "score_slope",
        "score_shift", "score_size", "min_score",
    }
)  # fmt: skip


THRESHOLDS: dict[str, frozenset[str]] = {
    "semantic": frozenset(),
    "instance": frozenset({"foreground_threshold", "vote_blur"}),
    "proposals": frozenset({"foreground_threshold", "proposal_threshold", "overlap"}),
}
"""Method → the settings of its decoding that are tuned; the others of them mean nothing to it."""


class MethodSettings(Section):
    """How the network's outputs become classes and objects."""

    name: Literal["auto", "semantic", "instance", "proposals"] = Field(
        "auto",
        description="semantic: classes of pixels; instance: also tells touching objects apart; "
        "proposals: also objects that overlap, each whole, as long as they are star-convex; "
        "auto: instance when the labels hold instances",
    )
    class_weights: list[Annotated[float, Field(ge=0)]] | None = Field(
        None,
        description=f"weight of each class in the cross-entropy, in the order of ids; {CHOSEN}",
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
    proposal_threshold: float = Field(
        0.4,
        ge=LEAST_DEPTH,
        lt=1,
        description="how deep inside its object, as a share of the deepest, a pixel has to be to "
        "propose one",
    )
    overlap: float = Field(
        0.5, gt=0, lt=1, description="IoU from which two proposals are of one object"
    )
    reach: int | None = Field(
        None,
        ge=16,
        description="pixels from which an object's middle is found, or its edge by a proposal; "
        f"{CHOSEN}",
    )
    min_area: int | None = Field(
        None,
        ge=1,
        description=f"objects of fewer pixels are taken for noise and dropped; {CHOSEN}",
    )
    score_slope: float = Field(
        1.0,
        gt=0,
        description="how far the log-odds of an object's mean probability are stretched for its "
        "score; learned, with score_shift, so that a score says how often it is right",
    )
    score_shift: float = Field(0.0, description="what is added to the stretched log-odds")
    score_size: float = Field(
        0.0,
        description="what is added for each factor of e by which an object is larger than typical "
        "of its image",
    )
    min_score: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="objects that are less likely right are left out, their pixels keep their "
        "class; learned, so that AP at IoU 0.5 is best",
    )

    @field_validator("class_weights", mode="before")
    @classmethod
    def _are_numbers(cls, value: object) -> object:
        if isinstance(value, str):  # what is left of a flag whose values are none
            raise ValueError("takes a finite number for each class, with commas between them")
        return value

    @field_validator("class_weights")
    @classmethod
    def _weigh_something(cls, value: list[float] | None) -> list[float] | None:
        if value and not any(value):
            raise ValueError("takes a weight above 0 for one class at least")
        return value

    @property
    def least_area(self) -> int:
        """Pixels of the smallest object."""
        return self.min_area or DEFAULT_MIN_AREA

    @property
    def overlapping(self) -> bool:
        """Whether objects may share pixels."""
        return self.name == "proposals"

    def in_image(self, zoom: float) -> "MethodSettings":
        """What counts pixels of the network, which sees images so many times enlarged, in theirs.

        To the whole pixel.
        """
        if zoom == 1:
            return self
        reach = round((self.reach or DEFAULT_REACH) / zoom)
        return self.model_copy(
            update={"min_area": max(1, round(self.least_area / zoom**2)), "reach": reach}
        )

    def with_learned(self, other: "MethodSettings") -> "MethodSettings":
        """These settings with what a training has learned in the others."""
        return self.model_copy(update={name: getattr(other, name) for name in _LEARNED})

    @property
    def left_to_learn(self) -> set[str]:
        """Settings that were not given, so that a training learns them on its validation images."""
        return set(_LEARNED - self.model_fields_set)
