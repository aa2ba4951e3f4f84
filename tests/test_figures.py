"""Figures of hand-made labels and predictions, and of a validation on several workers."""

import math
import threading

import numpy as np
import pytest
import torch

from pipeline.config import MethodSettings, NetworkSettings, NormalizeSettings, TrainSettings
from pipeline.labels import open_data, read_sample
from pipeline.methods import build_method
from pipeline.metrics import confusion
from pipeline.metrics.figures import summarize
from pipeline.metrics.judging import judge_objects, object_classes
from pipeline.models.bundle import BundleSpec
from pipeline.models.weights import build_network
from pipeline.records import VOID, Label, Segmentation
from pipeline.synthetic import CLASSES
from pipeline.training import validation
from pipeline.training.reports import Validation, load_validation, save_validation
from pipeline.training.spread import Some

CELL, CRYSTAL = 2, 3


def label(semantic: list[int], instances: list[int]) -> Label:
    """(4, W) of rows that are all alike."""
    rows = [np.tile(np.array(row), (4, 1)) for row in (semantic, instances)]
    return Label(rows[0].astype(np.uint8), rows[1].astype(np.int32))


TRUTH = label([2] * 4 + [0] * 2 + [3] * 4 + [0] * 2, [1] * 4 + [0] * 2 + [2] * 4 + [0] * 2)


def test_an_object_matches_only_its_own_class() -> None:
    guess = label([2] * 4 + [0] * 2 + [2] * 4 + [0] * 2, [5] * 4 + [0] * 2 + [7] * 4 + [0] * 2)
    said = Segmentation(
        guess.semantic,
        guess.instances,
        np.full(7, CELL, np.uint8),
        np.linspace(0.3, 0.9, 7, dtype=np.float32),
    )
    found = judge_objects(TRUTH, said, [CELL, CRYSTAL])
    assert found.counts == {CELL: (1, 2), CRYSTAL: (1, 0)}
    assert found.hits.tolist() == [5]
    pixels = confusion(TRUTH.semantic, guess.semantic)
    figures = summarize("val", [found], pixels, CLASSES, [CELL, CRYSTAL])
    assert set(figures.ap_mean.values()) == {1 / 3}  # one right, one too many, one missed
    assert figures.pq == pytest.approx((1 / 1.5 + 0) / 2)
    assert (figures.count_error, figures.count_bias) == (1, 0)
    tissue, cell, crystal = figures.classes
    assert (tissue.iou, tissue.ap_50) == (None, None)  # it occurs nowhere
    assert (cell.iou, cell.dice, cell.n_predicted) == (pytest.approx(0.5), pytest.approx(2 / 3), 2)
    assert (crystal.iou, crystal.ap_50, crystal.count_error) == (0, 0, 1)
    assert figures.mean_iou == pytest.approx(0.25)
    assert figures.scores is not None
    assert figures.scores.total == 2  # of the seven ids
    assert figures.scores.error == pytest.approx((0.3 + 0.9) / 2)  # .7 is right, .9 is not


def test_a_class_without_objects_is_neither_right_nor_wrong() -> None:
    """It had a panoptic quality of 1: of classes that are rare, nothing had to be found."""
    nothing = label([0] * 12, [0] * 12)
    none = Segmentation(
        nothing.semantic, nothing.instances, np.zeros(0, np.uint8), np.zeros(0, np.float32)
    )
    cells = label([2] * 4 + [0] * 8, [1] * 4 + [0] * 8)
    for truth, pq in ((cells, 0.0), (nothing, None)):
        found = judge_objects(truth, none, [CELL, CRYSTAL])
        pixels = confusion(truth.semantic, none.semantic)
        figures = summarize("val", [found], pixels, CLASSES, [CELL, CRYSTAL])
        _, cell, crystal = figures.classes
        assert figures.pq == pq
        assert (cell.pq, cell.ap_50) == (pq, pq)
        assert (crystal.pq, crystal.ap_50, crystal.n_true) == (None, None, 0)


def test_an_object_is_of_the_class_of_most_of_its_pixels() -> None:
    semantic = np.array([[2, 2, 3, 3, 3, 0]], np.uint8)
    instances = np.array([[1, 1, 1, 4, 4, 0]], np.int32)
    assert object_classes(instances, semantic).tolist() == [VOID, 2, VOID, VOID, 3]


@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_validation_is_the_same_on_any_number_of_workers(
    annotated: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    data = open_data(annotated, val_fraction=0.2)
    samples = [read_sample(image, data.classes, data.void) for image in data.images][:7]
    torch.manual_seed(0)
    spec = BundleSpec(
        network=NetworkSettings(depth=1, width=4),
        channels=3,
        classes=CLASSES,
        method=MethodSettings(name=name),
        normalize=NormalizeSettings(),
    )
    method, network = build_method(spec.method, CLASSES), build_network(spec)
    place = threading.local()
    parts: dict[int, object] = {}

    def run(
        rank: int, world: int, barrier: threading.Barrier, seconds: float = math.inf
    ) -> validation.Validated:
        """A process of several, played by a thread."""
        place.value, place.barrier = (rank, world), barrier
        predictor = validation.build_predictor(
            network, method, 3, TrainSettings(data="d", output="o", zoom=1), torch.device("cpu"),
            torch.float32,
        )  # fmt: skip
        seen = validation.look(predictor, samples, [0, 3, 4])  # of these it need not look again
        return validation.validate(
            predictor, method, samples, seen=seen, with_overlays=True, seconds=seconds
        )

    def gather(part: object) -> list[object]:
        rank, world = place.value
        parts[rank] = part
        place.barrier.wait(60)
        return [parts[i] for i in range(world)]

    monkeypatch.setattr(validation, "rank_and_world", lambda: place.value)
    monkeypatch.setattr(validation, "gather", gather)
    alone = run(0, 1, threading.Barrier(1))
    together: dict[int, validation.Validated] = {}
    barrier = threading.Barrier(3)
    threads = [
        threading.Thread(target=lambda r=r: together.update({r: run(r, 3, barrier)}))
        for r in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in together.values():
        assert one.validation == alone.validation
        assert [o.name for o in one.overlays] == [o.name for o in alone.overlays]
    assert len(together) == 3
    _check(alone.validation, name)
    assert len(alone.overlays) == 6
    assert all(o.picture.shape[1] > 2 * o.picture.shape[0] for o in alone.overlays)
    save_validation(alone.validation, str(tmp_path))
    assert load_validation(str(tmp_path)) == alone.validation
    hurried = run(0, 1, threading.Barrier(1), seconds=0)
    assert hurried.validation.figures.images == 1
    assert alone.validation.figures.images == 7


@pytest.mark.parametrize("images", [1, 2, 7, 60, 1000])
def test_images_are_spread_evenly_however_many_are_taken(images: int) -> None:
    shuffled = Some.shuffled(range(images))  # type: ignore[arg-type]
    assert sorted(shuffled) == list(range(images))
    for count in (1, images // 9 + 1, images // 2 + 1):
        taken = list(shuffled.first(count))
        assert len(taken) == count
        gaps = np.diff([-1, *taken, images])
        assert gaps.max() <= 3 * images / count, "none lie far from all that are taken"


def _check(found: Validation, name: str) -> None:
    assert found.figures.images == 7
    if name == "instance":
        assert found.score == pytest.approx(np.mean(list(found.figures.ap_mean.values())))
        assert found.pixels is None
    else:
        assert found.score == found.figures.mean_iou
        assert found.pixels is not None
        assert found.pixels.total > 7 * 96 * 96
    predicted = sum(c.n_predicted or 0 for c in found.figures.classes)
    assert found.figures.scores is not None
    assert found.figures.scores.total == predicted
