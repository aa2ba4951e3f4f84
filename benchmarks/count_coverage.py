"""How often the truth lies within the error that counts are told with.

    python -m benchmarks.count_coverage --predictions OUT --data ANNOTATED [--split val]

The annotated images are halved at random, again and again: counts are calibrated on one half, and
what is expected of the other is held against its true counts: image by image, in groups of ten,
and the half as a whole.
"""

import argparse

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import LabelSettings
from pipeline.counting import count
from pipeline.labels import open_data, read_label
from pipeline.metrics.judging import object_classes
from pipeline.metrics.true_counts import CONFIDENCE, Counted, expect, fit_counts
from pipeline.records import thing_ids
from pipeline.tables.dataset import OutputDataset

Pairs = NDArray[np.int64]
"""(M, 2) true and counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--halvings", type=int, default=500)
    given = parser.parse_args()
    for name, pairs in read_pairs(given.predictions, given.data, given.split).items():
        print(f"{name}: {len(pairs)} images, {pairs[:, 0].sum()} true, {pairs[:, 1].sum()} counted")
        print(f"  {fit_counts(*pairs.T)}")
        for size in (1, 10, len(pairs) // 2):
            hits, width = coverage(pairs, size, given.halvings)
            print(f"  {size:3d} images: the truth within the error in {hits:.3f} of cases (asked "
                  f"{CONFIDENCE}), the error {width:.3f} of what is expected, median")  # fmt: skip


def read_pairs(predictions: str, data_uri: str, split: str) -> dict[str, Pairs]:
    dataset = OutputDataset.open(predictions)
    data = open_data(data_uri, LabelSettings(), 0.1)
    found = {
        (storage.name_of(row["uri"]).rpartition(".")[0], row["class_name"]): row["n_objects"]
        for row in count(dataset, "image")
    }
    pairs: dict[str, list[tuple[int, int]]] = {}
    for image in data.split(split):
        label = read_label(image, data.classes, data.void)
        classes = object_classes(label.instances, label.semantic)
        for spec in data.classes:
            if spec.id in thing_ids(data.classes):
                true = int((classes == spec.id).sum())
                pairs.setdefault(spec.name, []).append((true, found[image.name, spec.name]))
    return {name: np.array(rows, np.int64) for name, rows in pairs.items()}


def coverage(pairs: Pairs, size: int, halvings: int) -> tuple[float, float]:
    """How often the truth of so many images lies within the error, and that error's share."""
    rng = np.random.default_rng(0)
    hits, widths = [], []
    for _ in range(halvings):
        order = rng.permutation(len(pairs))
        half = len(pairs) // 2
        known = fit_counts(*pairs[order[half:]].T)
        if known is None:
            continue
        for start in range(0, half - size + 1, size):
            true, counted = pairs[order[start : start + size]].T
            group = Counted(size, int(counted.sum()), int((counted**2).sum()))
            found = expect([(group, known)])
            hits.append(abs(true.sum() - found.objects) <= found.error)
            widths.append(found.error / max(found.objects, 1))
    return float(np.mean(hits)), float(np.median(widths))


if __name__ == "__main__":
    main()
