"""Every setting of every job: typed, validated, described once.

`pipeline.parsing` fills them in from a YAML file and flags.
"""

from pipeline.config.base import JobSettings, Precision, Section, fingerprint
from pipeline.config.collection import CollectionSettings
from pipeline.config.labels import VAL_FRACTION, LabelSettings
from pipeline.config.logs import LogSettings
from pipeline.config.model import (
    DEFAULT_MIN_AREA,
    DEFAULT_REACH,
    LEAST_DEPTH,
    LEAST_ZOOM,
    MOST_ZOOM,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
)
from pipeline.config.predicting import PredictSettings, ReaderSettings, RegionSettings
from pipeline.config.results import (
    CountSettings,
    DemoSettings,
    EvaluateSettings,
    ExportSettings,
    OverlaySettings,
)
from pipeline.config.submitting import SubmitSettings
from pipeline.config.training import (
    MOST_TILT,
    AugmentSettings,
    ConfiguredSettings,
    InspectSettings,
    OptimizerSettings,
    RecordSettings,
    SamplingSettings,
    TrainSettings,
)
from pipeline.config.upkeep import CompactSettings, VerifySettings

__all__ = [
    "DEFAULT_MIN_AREA",
    "DEFAULT_REACH",
    "LEAST_DEPTH",
    "LEAST_ZOOM",
    "MOST_TILT",
    "MOST_ZOOM",
    "VAL_FRACTION",
    "AugmentSettings",
    "CollectionSettings",
    "CompactSettings",
    "ConfiguredSettings",
    "CountSettings",
    "DemoSettings",
    "EvaluateSettings",
    "ExportSettings",
    "InspectSettings",
    "JobSettings",
    "LabelSettings",
    "LogSettings",
    "MethodSettings",
    "NetworkSettings",
    "NormalizeSettings",
    "OptimizerSettings",
    "OverlaySettings",
    "Precision",
    "PredictSettings",
    "ReaderSettings",
    "RecordSettings",
    "RegionSettings",
    "SamplingSettings",
    "Section",
    "SubmitSettings",
    "TrainSettings",
    "VerifySettings",
    "fingerprint",
]
