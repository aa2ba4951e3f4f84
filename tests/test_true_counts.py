"""Counts come with their error: what it is, and how it gets from a model to a count."""

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from jobs import compact, count, evaluate, predict
from jobs._main import run_job
from pipeline.config import (
    CompactSettings,
    CountSettings,
    EvaluateSettings,
    MethodSettings,
    PredictSettings,
)
from pipeline.counting import count as count_rows
from pipeline.errors import DatasetError
from pipeline.metrics.true_counts import Counted, Expected, expect, fit_counts
from pipeline.models.bundle import load_spec
from pipeline.predicting.objects import measure_objects
from pipeline.records import CountCalibration, PredictedImage, Segmentation, SourceImage
from pipeline.synthetic import CLASSES, write_annotated
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.lease import hold_lease
from pipeline.tables.runs import new_run
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec

CELL, CRYSTAL = 2, 3
KNOWN = CountCalibration(images=50, ratio=1.25, ratio_error=0.01, spread=0.5, spread_squared=0.002)


def expected_of(counts: "list[int] | np.ndarray", known: CountCalibration) -> Expected:
    counts = np.asarray(counts)
    return expect([(Counted(len(counts), int(counts.sum()), int((counts**2).sum())), known)])


def a_model(rng: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray]:
    """True and counted objects of images of very different crowdedness, some of them hard."""
    true = np.exp(rng.normal(3, 1, images)).astype(int)
    share = rng.normal(0.9, 0.06, images).clip(0, 1)
    return true, rng.binomial(true, share) + rng.poisson(0.3, images)


@pytest.mark.parametrize("images", [1, 10, 1000])
def test_the_truth_lies_within_the_error_as_often_as_it_says(images: int) -> None:
    rng, hits = np.random.default_rng(0), []
    for _ in range(400):
        known = fit_counts(*a_model(rng, 60))
        assert known is not None
        true, counted = a_model(rng, images)
        found = expected_of(counted, known)
        hits.append(abs(true.sum() - found.objects) <= found.error)
    assert 0.90 < np.mean(hits) < 0.985


def test_errors_of_images_even_out_and_that_of_the_model_stays() -> None:
    shares = []
    for images in (1, 100, 10_000, 1_000_000):
        found = expected_of(np.full(images, 20), KNOWN)
        assert found.objects == pytest.approx(images * 20 * KNOWN.ratio)
        shares.append(found.error / found.objects)
    assert shares == sorted(shares, reverse=True)
    least = 2.01 * KNOWN.ratio_error / KNOWN.ratio  # Student's t of 49 degrees of freedom
    assert shares[-1] == pytest.approx(least, rel=0.01)


def test_two_models_that_err_on_their_own_err_less_together() -> None:
    once = Counted(10, 200, 4000)
    one, two = expect([(once, KNOWN)]), expect([(once, KNOWN), (once, KNOWN)])
    assert two.objects == 2 * one.objects
    assert two.error == pytest.approx(one.error * 2**0.5)


def test_few_images_are_not_trusted_for_having_been_right() -> None:
    found = fit_counts(np.array([7, 12]), np.array([7, 12]))
    assert found is not None
    assert found.ratio == 1
    assert expected_of([100], found).error > 10
    many = np.full(200, 12)
    sure = fit_counts(many, many)
    assert sure is not None
    assert expected_of([100], sure).error < 2


@pytest.mark.parametrize("counted", [[], [0, 0, 0], [0, 5, 0]])
def test_what_too_few_images_can_tell_is_nothing(counted: list[int]) -> None:
    assert fit_counts(np.ones(len(counted), int), np.array(counted, int)) is None


def counted_image(name: str, cells: int, crystals: int) -> PredictedImage:
    """So many objects of a pixel each."""
    class_ids = np.repeat([CELL, CRYSTAL], [cells, crystals]).astype(np.uint8)
    instances = np.zeros((2, 40), np.int32)
    instances[0, : len(class_ids)] = np.arange(1, len(class_ids) + 1)
    semantic = np.append(0, class_ids).astype(np.uint8)[instances]
    pixels = np.zeros((2, 40, 1), np.uint8)
    scores = np.ones(len(class_ids), np.float32)
    found = Segmentation(semantic, instances, class_ids, scores)
    measures = measure_objects(instances, pixels, len(class_ids))
    return PredictedImage(SourceImage(name, f"mem://{name}", "1", 1), (2, 40, 1), found, measures)


def commit(dataset: OutputDataset, shard: str, results: str, *images: PredictedImage) -> None:
    """In a run of its own, with a model and settings that have these results."""
    run = new_run(dataset.uri, [], "", lambda: None, kind="predict", results=results)
    commit_shard(dataset.uri, images, [], CLASSES, Provenance(shard, run.id, "model"))


@pytest.mark.usefixtures("ray_cluster")
def test_each_model_and_its_settings_answer_for_what_they_have_counted(tmp_path: Path) -> None:
    """Also once compaction has put images of both together."""
    other = CountCalibration(images=9, ratio=0.5, ratio_error=0.1, spread=1, spread_squared=0)
    counts = {"new": {CELL: KNOWN, CRYSTAL: KNOWN}, "old": {CELL: other}}
    spec = DatasetSpec(classes=CLASSES, model="new", settings={}, counts=counts)
    dataset = OutputDataset(str(tmp_path), spec)
    dataset.create()
    commit(dataset, "a", "new", counted_image("1", 20, 2), counted_image("2", 10, 0))
    commit(dataset, "b", "old", counted_image("3", 12, 3))
    new, old = Counted(2, 30, 500), Counted(1, 12, 144)
    both = expect([(new, KNOWN), (old, other)])
    for _ in range(2):
        rows = {row["class_name"]: row for row in count_rows(dataset, "class")}
        assert rows["cell"]["n_objects"] == 42
        assert rows["cell"]["expected"] == round(both.objects, 1)
        assert rows["cell"]["plus_minus"] == round(both.error, 1)
        assert rows["crystal"]["n_objects"] == 5
        assert rows["crystal"]["expected"] is None  # of the old results it is not known
        assert rows["tissue"]["expected"] is rows["tissue"]["n_objects"] is None
        (third,) = [r for r in count_rows(dataset, "image") if r["uri"] == "mem://3"
                    and r["class_name"] == "cell"]  # fmt: skip
        assert third["expected"] == 6.0
        assert compact.work(CompactSettings(dataset=dataset.uri)) == 0
    assert len(dataset.snapshot().shards) == 1


def test_a_dataset_without_partitions_is_not_counted_by_them(tmp_path: Path) -> None:
    dataset = OutputDataset(str(tmp_path), DatasetSpec(classes=CLASSES, model="m", settings={}))
    with pytest.raises(DatasetError, match=r"has no partitions: jobs.predict makes them"):
        count_rows(dataset, "partition")


def test_counts_whose_run_nobody_knows_any_more_have_no_error(tmp_path: Path) -> None:
    spec = DatasetSpec(classes=CLASSES, model="m", settings={}, counts={"new": {CELL: KNOWN}})
    dataset = OutputDataset(str(tmp_path), spec)
    dataset.create()
    commit(dataset, "a", "new", counted_image("1", 20, 2))
    shutil.rmtree(tmp_path / "_runs")
    rows = {row["class_name"]: row for row in count_rows(dataset, "class")}
    assert rows["cell"]["n_objects"] == 20
    assert rows["cell"]["expected"] is rows["cell"]["plus_minus"] is None


def test_a_dataset_that_knows_no_errors_tells_none(tmp_path: Path) -> None:
    spec = DatasetSpec(classes=CLASSES, model="model", settings={})
    dataset = OutputDataset(str(tmp_path), spec)
    dataset.create()
    commit(dataset, "a", "model", counted_image("1", 20, 2))
    assert not {"expected", "plus_minus"} & set(chain(*count_rows(dataset, "class")))


@pytest.mark.slow
def test_from_a_model_to_its_counts(
    trained: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What validation tells comes along; what one's own images tell takes its place, and stays."""
    bundle = load_spec(trained)
    assert set(bundle.counts) == {CELL, CRYSTAL}
    card = (Path(trained) / "README.md").read_text()
    assert f"| cell | {bundle.counts[CELL].ratio:.3f} | 1" in card
    own, output = str(tmp_path / "own"), str(tmp_path / "out")
    write_annotated(own, [(128, 128)] * 4, ["val"] * 4, seed=7)
    words = ["--input", f"{own}/images", "--model", trained, "--output", output]
    assert run_job(PredictSettings, predict.work, words) == 0
    before = told(output, capsys)
    known = expected_of([row["n_objects"] for row in told(output, capsys, "image", "cell")],
                        bundle.counts[CELL])  # fmt: skip
    assert before[0]["expected"] == round(known.objects, 1)
    assert before[0]["plus_minus"] == round(known.error, 1)
    assert run_job(CountSettings, count.work, [output]) == 0
    assert "± (95 %)" in capsys.readouterr().out
    calibrate = ["--predictions", output, "--data", own, "--calibrate"]
    with hold_lease(output, "a run"):
        assert run_job(EvaluateSettings, evaluate.work, calibrate) == 1
    assert "a run" in capsys.readouterr().err
    assert run_job(EvaluateSettings, evaluate.work, calibrate) == 0
    after = told(output, capsys)
    assert after[0]["n_objects"] == before[0]["n_objects"]
    spec = OutputDataset.open(output).spec
    truth = spec.counts[spec.results][CELL]
    assert truth.images == 4
    assert after[0]["expected"] == pytest.approx(before[0]["n_objects"] * truth.ratio, abs=0.1)
    assert run_job(PredictSettings, predict.work, words) == 0
    assert told(output, capsys) == after

    otherwise = [*words, "--min-score", "0.001", "--replace"]
    assert run_job(PredictSettings, predict.work, otherwise) == 0
    # Of these objects neither validation nor one's own images have told.
    assert told(output, capsys)[0]["expected"] is None
    assert run_job(EvaluateSettings, evaluate.work, calibrate) == 0
    assert told(output, capsys)[0]["expected"] == pytest.approx(after[0]["expected"], abs=0.1)


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ([], True),
        (["--min-score", "0.9"], False),
        (["--min-score", "0"], False),
        (["--foreground-threshold", "0.2"], False),
        (["--min-area", "32"], True),  # as in the bundle, whose network sees half of the size
        (["--regions.size", "512", "--views", "2"], True),
        (["--zoom", "0.5"], True),
    ],
)
def test_a_models_errors_hold_for_its_own_thresholds(words: list[str], known: bool) -> None:
    given = ["--input", "i", "--model", "m", "--output", "o", *words]
    method = MethodSettings(name="instance", min_area=8, min_score=0.4)
    assert PredictSettings(_cli_parse_args=given).decodes_as(method, zoom=0.5) is known


def told(
    output: str, capsys: pytest.CaptureFixture[str], by: str = "class", only: str = ""
) -> "list[dict[str, float]]":
    """Rows of `jobs.count --json`."""
    capsys.readouterr()
    assert run_job(CountSettings, count.work, [output, "--by", by, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    return [row for row in rows if only in ("", row["class_name"])]
