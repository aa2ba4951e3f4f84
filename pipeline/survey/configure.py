"""From a data set's fingerprint, the hardware and the time: every setting that was left open.

A value that the user gave is kept; `rules.py` says how the others follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.config import ConfiguredSettings, MethodSettings, TrainSettings
from pipeline.errors import SettingsError
from pipeline.labels import AnnotatedData
from pipeline.records import thing_ids
from pipeline.survey import rules
from pipeline.survey.fingerprint import USED_SPLITS, DataFingerprint
from pipeline.survey.recipes import CPU, GPU, Hardware

T = TypeVar("T")


@dataclass(frozen=True)
class Choice:
    """One automatic setting."""

    setting: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Configuration:
    """Settings with nothing left open, and why they are what they are."""

    settings: ConfiguredSettings
    choices: tuple[Choice, ...]


def configure(
    settings: TrainSettings, data: AnnotatedData, found: DataFingerprint, hardware: Hardware
) -> Configuration:
    """Choose all that the settings leave open.

    Raises:
        SettingsError: the settings ask for what the labels don't hold.
    """
    choices: list[Choice] = []

    def choose(setting: str, given: T | None, make: Callable[[], tuple[T, str]]) -> T:
        value, reason = make() if given is None else (given, "as given")
        choices.append(Choice(setting, value, reason))
        return value

    found = found.only(*USED_SPLITS)
    train, network, sampling = found.split("train"), settings.network, settings.sampling
    recipe = GPU if hardware.gpus else CPU
    method = decide_method(settings.method, data)
    given = None if settings.method.name == "auto" else method.name
    name = choose(
        "method.name",
        given,
        lambda: (method.name, rules.why_method(method.name, data.classes, train)),
    )
    normal = settings.normalize
    kind = choose(
        "normalize.kind",
        normal.kind,
        lambda: rules.choose_normalization(normal.low, normal.high, found),
    )
    channels = choose("channels", settings.channels, lambda: rules.choose_channels(found))
    looks = rules.looks(train, settings.max_minutes, hardware)
    zoom = choose(
        "zoom", settings.zoom, lambda: rules.choose_zoom(recipe, data.classes, train, looks)
    )
    seen = train.seen_at(zoom)
    wanted = rules.wanted_depth(recipe, seen, data.classes)
    crop = choose(
        "crop",
        settings.crop,
        lambda: rules.choose_crop(recipe, seen, data.classes, network.depth or wanted[0]),
    )
    side = crop / zoom  # of what a crop shows, in the images' pixels
    depth = choose("network.depth", network.depth, lambda: rules.choose_depth(wanted, crop))
    batch = choose(
        "batch_size",
        settings.batch_size,
        lambda: rules.choose_batch(recipe, crop, network.width, hardware),
    )
    width = choose(
        "network.width",
        network.width,
        lambda: rules.choose_width(recipe, settings.max_minutes, batch * crop**2, hardware),
    )
    full_resolution = choose(
        "network.full_resolution",
        network.full_resolution,
        lambda: rules.choose_full_resolution(recipe),
    )
    weights = choose(
        "method.class_weights",
        method.class_weights,
        lambda: rules.choose_weights(data.classes, train),
    )
    reach = choose("method.reach", method.reach, lambda: rules.choose_reach(seen))
    min_area = choose("method.min_area", method.min_area, lambda: rules.choose_min_area(seen))
    rare = choose(
        "sampling.rare_class",
        sampling.rare_class,
        lambda: rules.choose_rare_class(data.classes, train, side, 1 - (sampling.objects or 0)),
    )
    objects = choose(
        "sampling.objects",
        sampling.objects,
        lambda: rules.choose_objects(name, train, side, 1 - rare),
    )
    upright = choose(
        "augment.upright",
        settings.augment.upright,
        lambda: rules.choose_upright(data.classes, train),
    )
    chosen = {
        "channels": channels,
        "zoom": zoom,
        "crop": crop,
        "batch_size": batch,
        "method": method.model_copy(
            update={"class_weights": weights, "reach": reach, "min_area": min_area}
        ),
        "normalize": normal.model_copy(update={"kind": kind}),
        "network": network.model_copy(
            update={"depth": depth, "width": width, "full_resolution": full_resolution}
        ),
        "augment": settings.augment.model_copy(update={"upright": upright}),
        "sampling": sampling.model_copy(update={"rare_class": rare, "objects": objects}),
    }
    values = {key: getattr(settings, key) for key in TrainSettings.model_fields} | chosen
    return Configuration(ConfiguredSettings(**values), tuple(choices))


def decide_method(settings: MethodSettings, data: AnnotatedData) -> MethodSettings:
    """The method that the labels call for where the settings leave it open.

    Raises:
        SettingsError: the settings ask for what the labels don't hold.
    """
    things = thing_ids(data.classes)
    if settings.name in ("instance", "proposals") and not (data.has_instances and things):
        raise SettingsError(
            f"setting method.name: {settings.name} needs labelled objects of a class of kind thing "
            f"in {data.uri}"
        )
    weights = settings.class_weights
    if weights is not None and len(weights) != len(data.classes):
        raise SettingsError(
            f"setting method.class_weights takes {len(data.classes)} weights, one a class of "
            f"{data.uri}, not {len(weights)}"
        )
    if settings.name != "auto":
        return settings
    name = "instance" if data.has_instances and things else "semantic"
    return settings.model_copy(update={"name": name})
