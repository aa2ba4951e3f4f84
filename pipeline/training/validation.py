"""How good a network is on the validation images, each process taking its share of them.

What each image contributes is gathered in the order of the images, so that the figures are the
same to the last bit however many processes there are.

Legend: H height, W width.
"""

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.collective import rank_and_world
from pipeline.config import ConfiguredSettings, RegionSettings
from pipeline.drawing import draw, grid, scaled
from pipeline.methods.base import Method
from pipeline.metrics import Reliability, confusion, reliability
from pipeline.metrics.figures import summarize
from pipeline.metrics.judging import JudgedObjects, any_true, judge_objects, labelled_part
from pipeline.models.unet import UNet
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.predictor import Predictor
from pipeline.predicting.zoom import Zoom
from pipeline.records import (
    VOID,
    Classes,
    Label,
    Maps,
    Sample,
    Segmentation,
    SemanticMap,
    thing_ids,
)
from pipeline.training.reports import Overlay, Validation
from pipeline.training.spread import evenly
from pipeline.training.world import from_first, gather

_OVERLAYS = 6
_OVERLAY_SIDE = 256
"""Pixels that each of the three views of an image is scaled to fit."""


@dataclass(frozen=True)
class Validated:
    """What a validation found."""

    validation: Validation
    overlays: tuple[Overlay, ...]
    decoding_seconds: float = field(compare=False)
    """Of its time, what this process took to decode and judge its share."""


@dataclass(frozen=True)
class Seen:
    """What the network says of an image, and what is true."""

    label: Label
    maps: Maps


@dataclass(frozen=True)
class _Judged:
    """What one image contributes."""

    objects: JudgedObjects
    pixels: Reliability | None
    overlay: Overlay | None


def validate(
    predictor: Predictor,
    method: Method,
    samples: Sequence[Sample],
    *,
    seen: Mapping[int, Seen] = MappingProxyType({}),
    with_overlays: bool = False,
    seconds: float = math.inf,
) -> Validated:
    """Predict the validation images as a job would, and measure; the same in every process.

    Args:
        predictor: looks at the images.
        method: decodes what it sees.
        samples: all of the images; each process takes its share.
        seen: what `look` found of some of them already.
        with_overlays: whether to draw a few of them.
        seconds: after which no further image is begun, by the clock of the first process.
    """
    start = time.monotonic()
    rank, world = rank_and_world()
    shown = evenly(len(samples), _OVERLAYS) if with_overlays else []
    matrix = np.zeros((256, 256), np.int64)
    judged, decoding = [], 0.0
    for first in range(0, len(samples), world):
        if first and seconds < math.inf:
            (late,) = from_first([time.monotonic() - start >= seconds])
            if late:
                break
        index = first + rank
        if index >= len(samples):
            break
        sample = samples[index]
        maps = seen[index].maps if index in seen else _maps(predictor, sample)
        began = time.perf_counter()
        found = method.decode(maps)
        matrix += confusion(sample.label.semantic, found.semantic)
        judged.append(_judge(sample, maps, found, method.classes, shown=index in shown))
        decoding += time.perf_counter() - began
    parts = gather((matrix, judged))
    count = sum(len(part[1]) for part in parts)
    images = [parts[i % world][1][i // world] for i in range(count)]
    overlays = tuple(one.overlay for one in images if one.overlay is not None)
    whole: NDArray[np.int64] = np.sum([part[0] for part in parts], axis=0)
    return Validated(_measure(images, whole, method), overlays, decoding)


def look(
    predictor: Predictor, samples: Sequence[Sample], indices: Iterable[int]
) -> dict[int, Seen]:
    """Those of these images that this process answers for, by their number."""
    rank, world = rank_and_world()
    seen = {}
    for index in indices:
        if index % world == rank:
            sample = samples[index]
            seen[index] = Seen(sample.label, _maps(predictor, sample))
    return seen


def build_predictor(
    network: UNet,
    method: Method,
    channels: int,
    settings: ConfiguredSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> Predictor:
    """What a prediction job would look at images with."""
    engine = TorchEngine(network, method, device, dtype, zoom=Zoom.of(settings.zoom))
    return Predictor(engine, channels, settings.normalize, RegionSettings())


def _maps(predictor: Predictor, sample: Sample) -> Maps:
    (maps,) = predictor.predict([predictor.prepare(sample.pixels)])
    return maps


def _judge(
    sample: Sample, maps: Maps, found: Segmentation, classes: Classes, *, shown: bool
) -> _Judged:
    return _Judged(
        objects=judge_objects(sample.label, found, thing_ids(classes)),
        pixels=_judge_pixels(sample.label.semantic, maps),
        overlay=_draw(sample, labelled_part(sample.label, found), classes) if shown else None,
    )


def _judge_pixels(truth: SemanticMap, maps: Maps) -> Reliability | None:
    """A method that knows how sure it is of each pixel's class keeps that as `confidence`."""
    if "confidence" not in maps:
        return None
    labelled = truth != VOID
    confidence = maps["confidence"][labelled].astype(np.float32) / 255
    return reliability(confidence, maps["class"][labelled] == truth[labelled])


def _measure(images: Sequence[_Judged], matrix: NDArray[np.int64], method: Method) -> Validation:
    objects = [one.objects for one in images]
    by_objects = method.judged_by == "objects"
    # Without true objects there is nothing that predicted ones could be held against.
    counted = thing_ids(method.classes) if by_objects or any_true(objects) else []
    figures = summarize("val", objects, matrix, method.classes, counted)
    score = np.mean(list(figures.ap_mean.values())) if by_objects else figures.mean_iou or 0.0
    pixels = [one.pixels for one in images if one.pixels is not None]
    return Validation(
        score=float(score),
        figures=figures,
        pixels=sum(pixels, Reliability()) if pixels else None,
    )


def _draw(sample: Sample, guess: Label, classes: Classes) -> Overlay:
    pixels, truth = sample.pixels, sample.label
    scale = _OVERLAY_SIDE / max(pixels.shape[:2])
    views = [
        scaled(pixels, scale),
        draw(pixels, truth.semantic, truth.instances, classes, scale),
        draw(pixels, guess.semantic, guess.instances, classes, scale),
    ]

    return Overlay(sample.name, grid(views, len(views)))
