"""What a training tells of itself while it goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from pipeline import storage
from pipeline.drawing import Picture
from pipeline.errors import BundleError
from pipeline.metrics import Reliability
from pipeline.metrics.figures import Figures

VALIDATION_NAME = "validation.json"
"""In a bundle: the figures of its weights in full, from which the model card is written."""


@dataclass(frozen=True)
class Validation:
    """How good a network is on the validation images."""

    score: float
    """What decides which weights are best, higher is better: the mean AP over IoU thresholds, or
    the mean IoU of a method that is judged by pixels."""
    figures: Figures
    pixels: Reliability | None
    """Confidences of pixels against having the right class, of a method that states them."""

    @property
    def metrics(self) -> dict[str, float]:
        """Every figure under a flat name; what is not known is left out."""
        figures = self.figures
        named: dict[str, float | None] = {"score": self.score}
        named |= {f"ap_{threshold}": ap for threshold, ap in figures.ap_mean.items()}
        named |= {
            "pq": figures.pq,
            "count_error": figures.count_error,
            "count_bias": figures.count_bias,
            "object_calibration_error": figures.scores.error if figures.scores else None,
            "mean_iou": figures.mean_iou,
            "pixel_calibration_error": self.pixels.error if self.pixels else None,
        }
        for one in figures.classes:
            # Names become paths in some places: none may be the beginning of another.
            name = one.name.replace("/", "-")
            named |= {f"dice/{name}": one.dice, f"iou/{name}": one.iou, f"ap_50/{name}": one.ap_50}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Overlay:
    """A validation image: as it is, with the truth, and as predicted, side by side."""

    name: str
    picture: Picture = field(repr=False)


@dataclass(frozen=True)
class StepReport:
    """What a progress bar wants to know after a step."""

    epoch: int
    step: int
    """From the start of the training, over all epochs."""
    loss: float
    learning_rate: float
    progress: float
    """Share of the training that is behind us, 0 to 1."""
    pixels_per_second: float


@dataclass(frozen=True)
class Needs:
    """What the processes that train run on, and what that takes."""

    device: str
    """With the precision."""
    peak_memory: int
    """Bytes of the process that needed most, the images that it shares with others included."""
    peak_device_memory: int
    """Bytes of the GPU that held most; 0 without one."""


@dataclass(frozen=True)
class EpochReport:
    """What an epoch ended with."""

    epoch: int
    step: int
    """The last one, from the start of the training."""
    loss: float
    """Mean over the epoch's steps."""
    learning_rate: float
    """Of the last step."""
    validation: Validation
    overlays: tuple[Overlay, ...]
    """Some validation images; not after every epoch."""
    seconds: float
    """Of the steps, without the validation."""
    validation_seconds: float
    pixels_per_second: float
    """Of the steps."""
    needs: Needs

    @property
    def score(self) -> float:
        """The figure that decides which checkpoint is best; higher is better."""
        return self.validation.score

    @property
    def metrics(self) -> dict[str, float]:
        """On the validation images."""
        return self.validation.metrics


@dataclass(frozen=True)
class Notice:
    """Something that a user should know, in one line; the training goes on."""

    text: str


Report = StepReport | EpochReport | Notice
"""What a listener is told while training."""
OnReport = Callable[[Report], None]


def save_validation(validation: Validation, uri: str) -> None:
    """Lay the figures beside the weights that they are of."""
    data = TypeAdapter(Validation).dump_json(validation, indent=1)
    storage.write_bytes(storage.join(uri, VALIDATION_NAME), data + b"\n")


def load_validation(uri: str) -> Validation:
    """The figures that lie in a bundle or checkpoint.

    Raises:
        BundleError: they are damaged.
        StorageError: there are none.
    """
    data = storage.read_bytes(storage.join(uri, VALIDATION_NAME))
    try:
        return TypeAdapter(Validation).validate_json(data)
    except ValidationError as error:
        raise BundleError(
            f"{uri}/{VALIDATION_NAME} is not what this version writes: {error.errors()[0]['msg']}"
        ) from error
