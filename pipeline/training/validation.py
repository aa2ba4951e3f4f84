"""How good a network is on the validation images, each process taking its share of them."""

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.collective import rank_and_world
from pipeline.config import RegionSettings, TrainSettings
from pipeline.methods.base import Method
from pipeline.metrics import AP_THRESHOLDS, confusion, dice_iou, match_objects, sum_matches
from pipeline.models.unet import UNet
from pipeline.predicting.engine import TorchEngine
from pipeline.predicting.predictor import Predictor
from pipeline.records import Sample, reported
from pipeline.training.world import gather


def validate(
    network: UNet,
    method: Method,
    samples: Sequence[Sample],
    channels: int,
    settings: TrainSettings,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, float]:
    """Predict the validation images as a job would, and measure; the same in every process.

    AP is without regard to class. `score` is the mean AP where there are things, otherwise the
    mean IoU over classes.
    """
    rank, world = rank_and_world()
    engine = TorchEngine(network, method, device, dtype)
    predictor = Predictor(engine, channels, settings.normalize, RegionSettings())
    matrix = np.zeros((256, 256), np.int64)
    found = []
    for sample in samples[rank::world]:
        (maps,) = predictor.predict([predictor.prepare(sample.pixels)])
        result = method.decode(maps)
        matrix += confusion(sample.label.semantic, result.semantic)
        found.append(match_objects(sample.label.instances, result.instances))
    parts = gather((matrix, found))
    matrix = np.sum([part[0] for part in parts], axis=0)
    matches = [one for part in parts for one in part[1]]
    ious = [dice_iou(matrix, spec.id)[1] for spec in reported(method.classes)]
    metrics = {"mean_iou": float(np.nanmean(ious)) if not np.all(np.isnan(ious)) else 0.0}
    if not any(spec.kind == "thing" for spec in method.classes):
        return metrics | {"score": metrics["mean_iou"]}
    ap = np.mean([one.ap for one in matches], axis=0)
    metrics |= {f"ap_{t:.1f}": float(v) for t, v in zip(AP_THRESHOLDS, ap, strict=True)}
    metrics["pq"] = float(sum_matches(matches).pq[0])
    return metrics | {"score": float(ap.mean())}
