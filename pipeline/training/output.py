"""Where a model bundle will lie: what a training writes there, and what it does not write over."""

from pipeline import storage
from pipeline.config import TrainSettings
from pipeline.errors import SettingsError
from pipeline.models.bundle import SPEC_NAME, WEIGHTS_NAME
from pipeline.training.card import CARD_NAME
from pipeline.training.recorders.curve import CURVE_NAME
from pipeline.training.recorders.history import METRICS_NAME
from pipeline.training.recorders.tensorboard import FOLDER as TENSORBOARD
from pipeline.training.reports import VALIDATION_NAME

SETTINGS_NAME = "settings.yaml"
CHECKPOINTS = "checkpoints"

_WRITTEN = {
    WEIGHTS_NAME, SETTINGS_NAME, VALIDATION_NAME, CARD_NAME, CURVE_NAME, METRICS_NAME, TENSORBOARD,
    CHECKPOINTS,
}  # fmt: skip


def check_free(settings: TrainSettings) -> None:
    """A training that begins replaces a model only when asked to, and others' files never.

    Raises:
        SettingsError: it would.
    """
    names = set(storage.list_names(storage.absolute(settings.output)))
    if SPEC_NAME not in names and (foreign := sorted(_WRITTEN & names)):
        raise SettingsError(
            f"setting output: {settings.output} holds {foreign[0]}, which no training wrote and "
            "this one would replace; give another"
        )
    if SPEC_NAME in names and not settings.restart:
        raise SettingsError(
            f"setting output: {settings.output} holds a finished model; --restart trains it anew, "
            "another output keeps it"
        )
