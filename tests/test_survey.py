"""What images say, adds up to, hide, and are configured by; and jobs.inspect as a user runs it."""

import json
import random
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from PIL import ExifTags, Image

from jobs import inspect, train
from jobs._log import TextLog
from jobs._main import FAILED, run_job
from jobs._survey import tell_choices
from pipeline.config import (
    AugmentSettings,
    InspectSettings,
    MethodSettings,
    NetworkSettings,
    NormalizeSettings,
    SamplingSettings,
    TrainSettings,
)
from pipeline.errors import DataProblems
from pipeline.labels import AnnotatedData, open_data, read_sample
from pipeline.methods import build_method
from pipeline.models.bundle import load_spec
from pipeline.records import VOID, Box, ClassSpec, Label, ObjectMask, Problem, Remark, Sample
from pipeline.survey.configure import Choice, Configuration, configure
from pipeline.survey.facts import CELL_SIDES, ImageFacts, measure_image
from pipeline.survey.fingerprint import DataFingerprint
from pipeline.survey.picture import SIDE, Pick, busiest_window, draw_survey, pick_images
from pipeline.survey.problems import find_problems
from pipeline.survey.recipes import Hardware
from pipeline.survey.tally import area_median, diameter_bins, diameter_quantile
from pipeline.synthetic import CLASSES, write_annotated
from tests.conftest import ROOT
from tests.label_sets import perfect_outputs

CELLS = (
    ClassSpec(id=0, name="background", kind="background"),
    ClassSpec(id=1, name="cell", kind="thing"),
)
LAPTOP = Hardware(cpus=2, gpus=0, memory=8 << 30, workers=1, bfloat16=True)
SERVER = Hardware(cpus=16, gpus=1, memory=64 << 30, workers=1, bfloat16=True)


def scene(instances: np.ndarray, pixels: np.ndarray | None = None, name: str = "a") -> Sample:
    """A sample whose objects are brighter than their surroundings, unless it is given pixels."""
    semantic = (instances > 0).astype(np.uint8)
    if pixels is None:
        pixels = (40 + 160 * semantic)[..., None].astype(np.uint8)
    return Sample(name, pixels, Label(semantic, instances.astype(np.int32)))


def discs(side: int, radius: int, spacing: int, name: str = "a", gray: int = 40) -> Sample:
    """An image full of discs that do not touch."""
    mask = np.zeros((side, side), np.uint8)
    for y in range(spacing // 2, side, spacing):
        for x in range(spacing // 2, side, spacing):
            cv2.circle(mask, (x, y), radius, 1, cv2.FILLED)
    ids = cv2.connectedComponents(mask)[1]
    return scene(ids, (gray + 160 * mask)[..., None].astype(np.uint8), name)


def stuff(semantic: np.ndarray) -> Sample:
    """A gray image of classes without objects."""
    none = np.zeros(semantic.shape, np.int32)
    return Sample("a", (80 * semantic)[..., None], Label(semantic, none))


def facts_of(sample: Sample, split: str = "train") -> ImageFacts:
    return measure_image(sample, split, CELLS)


def test_objects_are_counted_by_class_size_and_neighbourhood() -> None:
    ids = np.zeros((64, 128), np.int32)
    ids[0:10, 0:10] = 7
    ids[10:20, 10:20] = 300_000_000  # meets 7 at a corner; an id of 32 bits
    ids[40:44, 100:104] = 9
    facts = facts_of(scene(ids))
    assert facts.class_objects == (0, 3)
    assert facts.class_pixels == (64 * 128 - 216, 216)
    assert (facts.touching, facts.overlapping) == (2, 0)
    assert diameter_quantile(facts.diameters, 1) == pytest.approx(2 * np.sqrt(100 / np.pi), rel=0.1)
    assert diameter_quantile(facts.diameters, 0.2) == pytest.approx(
        2 * np.sqrt(16 / np.pi), rel=0.1
    )
    assert (facts.cells[0], facts.object_cells[0]) == (2, 2)
    assert (facts.cells[2], facts.object_cells[2]) == (1, 1)


def test_overlapping_objects_are_counted_whole() -> None:
    ids = np.zeros((20, 20), np.int32)
    ids[0:10, 0:10], ids[5:10, 5:10] = 1, 2
    masks = (
        ObjectMask.pack(1, 1, Box(0, 0, 10, 10), np.ones((10, 10), bool)),
        ObjectMask.pack(2, 1, Box(5, 5, 10, 10), np.ones((5, 5), bool)),
        ObjectMask.pack(3, 1, Box(15, 15, 19, 19), np.ones((4, 4), bool)),
    )
    sample = scene(ids)
    facts = facts_of(replace(sample, label=replace(sample.label, objects=masks)))
    assert (facts.objects, facts.overlapping) == (3, 2)
    whole = 2 * np.sqrt(100 / np.pi)
    assert diameter_quantile(facts.diameters, 1) == pytest.approx(whole, rel=0.1)


def test_void_pixels_belong_to_no_class() -> None:
    sample = discs(64, 4, 16)
    sample.label.semantic[:32] = VOID
    facts = facts_of(sample)
    assert facts.void_pixels == 32 * 64
    assert sum(facts.class_pixels) == 32 * 64
    assert facts.objects == 8  # the other eight lie in void


def test_looks() -> None:
    bright = discs(64, 6, 20)
    dark = replace(bright, pixels=255 - bright.pixels)
    gray = replace(bright, pixels=np.repeat(bright.pixels, 3, axis=-1))
    red = replace(gray, pixels=gray.pixels * np.array([1, 0, 0], np.uint8))
    assert [facts_of(s).polarity for s in (bright, dark)] == ["bright", "dark"]
    assert facts_of(scene(np.zeros((8, 8)))).polarity == "unclear"
    assert [facts_of(s).colour for s in (bright, gray, red)] == [False, False, True]
    assert facts_of(bright).levels == (40, 40, 200)
    holes = replace(bright, pixels=np.full((64, 64, 1), np.nan, np.float32))
    assert facts_of(holes).levels == (0, 0, 0)
    assert facts_of(bright).content == facts_of(replace(bright, name="b")).content
    assert facts_of(bright).content != facts_of(dark).content


def test_pixels_without_a_value_hide_no_look_and_are_told() -> None:
    """A border of NaN, as stitched and registered images have, made the look of each unclear."""
    bright = discs(64, 6, 20)
    pixels = bright.pixels.astype(np.float32)
    pixels[:10], pixels[40, 40] = np.nan, np.inf
    torn = facts_of(replace(bright, pixels=pixels))
    assert torn.polarity == "bright"
    assert [remark.times for remark in torn.remarks] == [10 * 64 + 1]
    told = lines([torn, facts_of(discs(64, 5, 20, "whole"), "val")])[1]
    assert told.startswith("data has pixels without a value (NaN or infinite), which void ")
    assert told.endswith("would leave out: 641 in a")
    part = discs(64, 6, 20)
    part.pixels[:, 16:], part.label.semantic[:, 16:] = 255, VOID
    part.label.instances[:, 16:] = 0
    assert facts_of(part).polarity == "bright", "what nobody labelled is not around the objects"


def test_diameters_of_many_objects_are_right_to_a_few_percent() -> None:
    diameters = np.random.default_rng(0).lognormal(3, 0.5, 1_000_000)
    bins = diameter_bins(diameters)
    for share in (0.05, 0.5, 0.95):
        exact = np.quantile(diameters, share)
        assert diameter_quantile(bins, share) == pytest.approx(exact, rel=0.02)
    assert np.isnan(diameter_quantile(diameter_bins(np.zeros(0)), 0.5))


def test_fingerprints_add_up_in_any_order_and_grouping() -> None:
    facts = [
        facts_of(discs(40 + 8 * i, 3 + i, 20, f"n{i}", gray=10 * i), ["train", "val"][i % 3 == 0])
        for i in range(7)
    ]
    whole = DataFingerprint.of(facts, CELLS)
    assert [s.images for s in whole.splits] == [4, 3]
    assert whole.whole.objects == sum(one.objects for one in facts)
    parts = [DataFingerprint.of([one], CELLS) for one in facts]
    for seed in range(3):
        random.Random(seed).shuffle(parts)
        half = seed + 2
        left, right = (reduce(lambda a, b: a + b, p) for p in (parts[:half], parts[half:]))
        assert left + right == whole


def lines(facts: list[ImageFacts], unread: tuple[Problem, ...] = (), **kw: Any) -> tuple[str, str]:
    found = find_problems("data", [f.split for f in facts], facts, unread, CELLS, **kw)
    return tuple("\n".join(map(str, group)) for group in (found.problems, found.notes))  # type: ignore[return-value]


def test_every_problem_has_its_line() -> None:
    one, other = facts_of(discs(64, 5, 20, "one")), facts_of(discs(64, 6, 20, "other"), "val")
    assert lines([one, other]) == ("", "")
    assert lines([one]) == (
        "data has no image of the split val: a training takes at least one to learn from and "
        "another to be measured on; a single image can be cut into two",
        "",
    )
    twin = replace(one, name="twin", split="val")
    assert "twin in the split val is the same image as one in train" in lines([one, twin])[0]
    again = replace(one, name="again")
    assert lines([one, again, other]) == ("", "again is the same image as one in train")
    empty = facts_of(scene(np.zeros((8, 8)), name="empty"))
    problem, note = lines([empty, other])
    assert problem == "data labels nothing but background in the images of the split train"
    assert "has no pixel of cell in train, but in val: it cannot be learnt" in note
    problem, note = lines([one, empty, other])
    assert (problem, note) == ("", "data labels nothing but background in 1 of train: empty")
    four = replace(one, name="four", channels=4, content="x")
    colour = replace(one, name="colour", channels=3, colour=True, content="y")
    assert "colour has 3 channels, not 4 as" in lines([one, four, colour, other])[0]
    assert (
        "four has 4 channels, not 3 as setting channels says"
        in lines([one, four, colour, other], channels=3)[0]
    )
    assert lines([one, colour, other], channels=1)[0] == ""
    assert lines([one, other], (Problem("x.png", "is damaged"),))[0] == "x.png is damaged"


def test_objects_on_no_class_of_things() -> None:
    """They count nowhere; and where others have objects, pixels of things alone are a problem."""
    good, other = facts_of(discs(64, 5, 20, "good")), facts_of(discs(64, 6, 20, "other"), "val")
    ids = np.zeros((20, 30), np.int32)
    ids[:5, :5], ids[5:9, :5], ids[12:, 12:] = 1, 2, 3
    sample = scene(ids, name="some")
    sample.label.semantic[:9] = 0
    some = facts_of(sample)
    assert (some.objects, some.stray, some.touching) == (1, 2, 0)
    assert sum(some.diameters) == 1
    assert lines([good, some, other]) == (
        "",
        "data has objects most of whose pixels are of no class of things, which don't count: "
        "2 in some",
    )
    sample.label.semantic[:] = 0
    all_stray = [facts_of(sample), facts_of(replace(sample, name="v"), "val")]
    assert "has objects, but none of them on pixels of a class of things" in lines(all_stray)[0]
    sample = scene(ids, name="pixels")
    sample.label.instances[:] = 0
    pixels = facts_of(sample)
    assert lines([good, pixels, other])[0] == (
        "pixels has pixels of cell but no object, where other images have objects: their map is "
        "missing or empty"
    )
    # Without any objects it is a data set of class maps.
    assert lines([pixels, replace(pixels, split="val", content="x")])[0] == ""


def test_classes_that_are_missing_are_told_together() -> None:
    """Of CamVid's 31 classes, most occur in few images."""
    classes = (*CELLS, *(ClassSpec(id=k, name=f"c{k}", kind="stuff") for k in range(2, 8)))
    one, other = discs(64, 5, 20, "one"), discs(64, 6, 20, "other")
    other.label.semantic[0, 0] = 7
    facts = [measure_image(one, "train", classes), measure_image(other, "val", classes)]
    found = find_problems("data", ["train", "val"], facts, (), classes)
    assert [str(note) for note in found.notes] == [
        "data has no pixel of c2, c3, c4 and 2 more in train or anywhere else: they cannot be "
        "learnt",
        "data has no pixel of c7 in train, but in val: it cannot be learnt",
    ]


def test_what_validation_cannot_measure_is_told() -> None:
    """Validated on images without objects, the network that finds none had a score of 1."""
    good = [facts_of(discs(64, 5, 20 + i, f"n{i}")) for i in range(5)]
    bare = facts_of(scene(np.zeros((64, 64)), name="bare"), "val")
    problem, note = lines([*good, bare])
    assert problem.startswith(
        "data labels nothing but background in the images of the split val: what finds nothing "
        "would be the best there; hold out others, by folders, valid.txt or manifest.csv"
    )
    assert note == "data labels nothing but background in 1 of val: bare"
    held = facts_of(discs(64, 6, 20, "held"), "val")
    problem, note = lines([*good, held])
    assert problem == ""
    assert note.startswith("data has 1 image in val: what is measured and tuned on so few says ")
    crowd = facts_of(discs(256, 5, 20, "crowd"), "val")
    assert lines([*good, crowd]) == ("", ""), "of many objects, one image says enough"
    assert lines([*good, bare, crowd])[0] == ""
    assert lines([*good[:3], held]) == ("", ""), "where there are few, nobody can hold out more"
    classes = (*CELLS, ClassSpec(id=2, name="colony", kind="thing"))
    train, val = discs(64, 5, 20, "a"), discs(64, 6, 20, "b")
    train.label.semantic[train.label.instances == 1] = 2
    facts = [measure_image(train, "train", classes), measure_image(val, "val", classes)]
    (note_of_class,) = find_problems("data", ["train", "val"], facts, (), classes).notes
    assert str(note_of_class).startswith(
        "data has no pixel of colony in val, but in train: how well it is learnt shows nowhere"
    )


def test_class_ids_that_are_taken_for_objects_are_told() -> None:
    """Classes fall apart; of objects, a few do."""
    bands = np.zeros((40, 60), np.int32)
    for k in range(10):
        bands[4 * k : 4 * k + 4] = 1 + k % 5
    told = lines(
        [facts_of(scene(bands, name="a")), facts_of(scene(bands.T.copy(), name="b"), "val")]
    )
    assert told[1].startswith("data has objects in several pieces, as classes are (if the labels")
    assert "--labels.format semantic with a class list reads them): 10 in a, b" in told[1]
    assert facts_of(discs(64, 5, 20, "good")).remarks == ()
    rows = np.repeat(np.arange(1, 11, dtype=np.int32), 4)[:, None].repeat(60, 1)
    rows[:20, 30] = 0
    assert facts_of(scene(rows)).remarks == ()  # half of them
    panoptic = scene(bands)
    panoptic.label.semantic[bands < 5] = 0  # the others are stuff, which the strays tell of
    assert facts_of(panoptic).remarks == ()


def test_remarks_of_many_images_are_a_note_a_kind() -> None:
    facts = [
        replace(facts_of(discs(64, 4 + i, 20, f"n{i}")), split="val" if i else "train",
                remarks=(Remark("oddities", i + 1),))
        for i in range(5)
    ]  # fmt: skip
    assert lines(facts) == ("", "data has oddities: 15 in n0, n1, n2 and 2 more")
    found = find_problems("data", ["train", "val"], [], (), CELLS, noted=[Problem("a", "b")])
    assert [str(note) for note in found.notes] == ["a b"]


def test_void_is_told_from_background() -> None:
    """Maps of 0 and 255 whose 255 was meant to be a class, and splits that nobody labelled."""
    good = facts_of(discs(64, 5, 20, "good"))
    part, nothing = scene(np.zeros((8, 8)), name="part"), scene(np.ones((9, 9)), name="nothing")
    part.label.semantic[:2], nothing.label.semantic[:] = VOID, VOID
    problem, _ = lines([facts_of(part), replace(good, split="val")], void=255)
    assert problem == (
        "data labels nothing but background in the images of the split train; 25% of their pixels "
        "are void (the value 255 means not labelled: --labels.void names another, and a class "
        "list with colours says what each stands for: class_dict.csv with name,r,g,b, such as "
        "cell,255,255,255)"
    )
    problem, note = lines([good, facts_of(nothing, "val")])
    assert problem == "data labels nothing in the images of the split val: every pixel is void"
    assert note == "data labels nothing but void in 1 of val: nothing"
    problem, note = lines([good, facts_of(nothing), replace(good, split="val", content="x")])
    assert (problem, note) == (
        "",
        "data labels nothing but void in 1 of train: nothing",
    )


def chosen(
    samples: list[Sample],
    classes: tuple[ClassSpec, ...] = CELLS,
    hardware: Hardware = LAPTOP,
    instances: bool = True,
    **given: object,
) -> Configuration:
    facts = [measure_image(sample, "train", classes) for sample in samples]
    uri = "labels" if instances else None
    images = tuple(
        annotated_image(sample.name, uri, None if instances else "semantic") for sample in samples
    )
    data = AnnotatedData("data", "folder", images, classes, VOID)
    settings = TrainSettings(data="d", output="o", **given)
    return configure(settings, data, DataFingerprint.of(facts, classes), hardware)


def annotated_image(name: str, instances: str | None, semantic: str | None) -> object:
    from pipeline.records import AnnotatedImage

    return AnnotatedImage(name, "train", "image", instances, semantic, {})


def reason(configuration: Configuration, setting: str) -> str:
    (found,) = [c.reason for c in configuration.choices if c.setting == setting]
    return found


def test_nuclei_on_a_cpu_get_the_recipe() -> None:
    got = chosen([discs(256, 10, 30, gray=10), discs(320, 10, 30, gray=60)])
    s = got.settings
    assert (s.network.depth, s.network.width, s.crop, s.batch_size) == (4, 16, 160, 8)
    assert (s.normalize.kind, s.normalize.low, s.normalize.high) == ("percentile", 1, 99.8)
    assert (s.method.name, s.method.class_weights, s.channels) == ("instance", [1, 1], 1)
    assert (s.sampling.rare_class, s.sampling.objects) == (0, 0)
    assert "8 times the median object's diameter of 20 pixels" in reason(got, "crop")
    assert "all images are gray" in reason(got, "channels")
    assert "100% of windows of 128 pixels hold an object" in reason(got, "sampling.objects")
    assert "their bright ends lie from 170 to 220" in reason(got, "normalize.kind")
    assert all(choice.reason for choice in got.choices)


def test_the_picture_shows_small_values_and_few_large_objects() -> None:
    """Of 12 bits in 16 the levels were dots on the floor, as were those of negative floats; the
    bar of one large object among many spots had no height."""
    spots = discs(256, 1, 8)
    cv2.circle(spots.label.instances, (128, 128), 60, 9000, cv2.FILLED)
    spots.label.semantic[:] = spots.label.instances > 0
    for pixels in (
        spots.pixels.astype(np.uint16) * 16,
        spots.pixels.astype(np.float32) / 1000 - 0.1,
    ):
        sample = replace(spots, pixels=pixels)
        facts = [facts_of(sample)]
        found = DataFingerprint.of(facts, CELLS)
        picture = draw_survey([Pick(facts[0], "")], [sample], facts, found)
        diameters, _, levels = np.split(picture[-SIDE:, : 3 * SIDE], 3, axis=1)
        lines = (levels == (70, 100, 130)).all(-1)
        assert lines.any(1).sum() > SIDE / 2
        bars = (diameters == (120, 190, 255)).all(-1)
        assert bars[:, SIDE // 2 :].any(), "of the large one"


def test_values_below_zero_are_as_bright_as_others() -> None:
    """Decibels of a sonar or a radar lie below 0; alike ones were said to differ."""
    near, far = discs(64, 6, 20), discs(64, 6, 20, "far")
    dark = [replace(one, pixels=one.pixels.astype(np.float32) - 300 - i)
            for i, one in enumerate([near, far])]  # fmt: skip
    assert reason(chosen(dark), "normalize.kind").endswith("it fits any exposure")
    darker = replace(far, pixels=far.pixels.astype(np.float32) - 400)
    assert "from -200 to -100" in reason(chosen([dark[0], darker]), "normalize.kind")


def test_what_is_given_is_kept() -> None:
    got = chosen(
        [discs(256, 10, 30)],
        crop=96,
        batch_size=3,
        augment=AugmentSettings(upright=True),
        channels=3,
        zoom=0.75,
        network=NetworkSettings(depth=2, width=24, full_resolution="full"),
        normalize=NormalizeSettings(kind="range", high=99),
        method=MethodSettings(name="semantic", class_weights=[1, 4], reach=99, min_area=5),
        sampling=SamplingSettings(rare_class=0.5, objects=0.25),
    )
    assert {choice.reason for choice in got.choices} == {"as given"}
    s = got.settings
    assert (s.crop, s.batch_size, s.channels) == (96, 3, 3)
    assert s.augment.upright
    assert s.network == NetworkSettings(depth=2, width=24, full_resolution="full")
    assert s.normalize == NormalizeSettings(kind="range", high=99)
    assert s.method == MethodSettings(name="semantic", class_weights=[1, 4], reach=99, min_area=5)
    assert s.sampling == SamplingSettings(rare_class=0.5, objects=0.25)


def test_images_that_no_training_looks_at_choose_nothing() -> None:
    """Also in `jobs.inspect`, which reads them too."""
    cells = [discs(256, 10, 30, name) for name in "ab"]
    deep = discs(256, 10, 30, "c")
    deep = replace(deep, pixels=deep.pixels.repeat(3, axis=2).astype(np.uint16))
    facts = [measure_image(cells[0], "train", CELLS), measure_image(cells[1], "val", CELLS)]
    images = tuple(annotated_image(name, "labels", None) for name in "ab")
    data = AnnotatedData("data", "folder", images, CELLS, VOID)
    settings = TrainSettings(data="d", output="o")
    alone, beside = (
        configure(settings, data, DataFingerprint.of(found, CELLS), LAPTOP)
        for found in (facts, [*facts, measure_image(deep, "test", CELLS)])
    )
    assert beside == alone


def test_crop_and_depth_follow_objects_images_and_each_other() -> None:
    large = chosen([discs(1024, 45, 128)], zoom=1)
    assert (large.settings.crop, large.settings.network.depth) == (288, 5)
    assert large.settings.batch_size == 3  # as many pixels as in the recipe
    assert "large objects have a diameter of 9" in reason(large, "crop")
    stuff = tuple(ClassSpec(id=i, name=f"stuff {i}", kind="stuff") for i in (2, 3))
    among = chosen([discs(512, 10, 30)], (*CELLS, *stuff))
    assert among.settings.crop == 256
    assert "shows what is around" in reason(among, "crop")
    small = chosen([discs(70, 5, 20)])
    assert small.settings.crop == 80
    assert "no longer than 70 pixels" in reason(small, "crop")
    assert small.settings.network.depth == 3
    shallow = chosen([discs(256, 10, 30)], crop=100)
    assert shallow.settings.network.depth == 2
    assert reason(shallow, "network.depth") == "a crop of 100 can't be halved more often"
    deep = chosen([discs(90, 5, 20)], network=NetworkSettings(depth=6))
    assert deep.settings.crop == 128


def test_images_of_large_things_are_reduced_and_all_else_follows() -> None:
    near, far = chosen([discs(1024, 40, 120)]), chosen([discs(256, 10, 30)])
    assert (near.settings.zoom, far.settings.zoom) == (0.25, 1)
    assert "the median object has a diameter of 79 pixels: 20 are enough" in reason(near, "zoom")
    for name in ("crop", "batch_size", "network", "method"):
        assert getattr(near.settings, name) == getattr(far.settings, name), name
    fine = chosen([discs(1024, 40, 120)], hardware=SERVER)
    assert fine.settings.zoom == 0.5, "a GPU has the time for finer outlines"
    mixed = chosen([discs(1024, 40, 120), discs(256, 4, 12)])
    assert mixed.settings.zoom == 1, "the small ones would be lost"


def test_images_of_wide_classes_are_reduced_and_none_of_narrow_ones() -> None:
    bands = tuple(
        ClassSpec(id=i, name=name, kind=kind)
        for i, (name, kind) in enumerate([("rest", "background"), ("wide", "stuff"),
                                          ("narrow", "stuff")])
    )  # fmt: skip
    striped = np.zeros((512, 512), np.uint8)
    striped[:, 50:150] = 1
    wide = chosen([stuff(striped)], bands, instances=False)
    assert wide.settings.zoom == 0.5
    assert reason(wide, "zoom").startswith("wide has a width of 100 pixels: 50 are enough")
    striped[:, 300:310] = 2
    narrow = chosen([stuff(striped)], bands, instances=False)
    assert (narrow.settings.zoom, reason(narrow, "zoom")) == (
        1,
        "narrow has a width of 10 pixels",
    )
    tile = chosen([stuff(striped[:200, 50:250] % 2)], bands, instances=False)
    assert reason(tile, "zoom") == "half of the images are no longer than 200 pixels"
    assert chosen([stuff(striped * 0)], bands, instances=False).settings.zoom == 1


def test_images_of_narrow_classes_are_reduced_where_there_is_time_for_few_looks() -> None:
    bands = (ClassSpec(id=0, name="road", kind="stuff"), ClassSpec(id=1, name="pole", kind="stuff"))
    poles = np.zeros((1024, 1024), np.uint8)
    poles[:, ::200], poles[:, 1::200], poles[:, 2::200], poles[:, 3::200] = 1, 1, 1, 1
    many = [stuff(poles)] * 12
    hurried = chosen(many, bands, instances=False, max_minutes=1)
    assert hurried.settings.zoom == 0.5
    assert reason(hurried, "zoom").startswith(
        "pole has a width of 4 pixels: 2 are enough where there is time for 3.8 looks at each image"
    )
    for leisurely in ({"max_minutes": 3}, {"epochs": 1}, {"max_minutes": 1, "hardware": SERVER}):
        assert chosen(many, bands, instances=False, **leisurely).settings.zoom == 1
    small = chosen([stuff(poles[:400, :400])] * 80, bands, instances=False, max_minutes=1)
    assert small.settings.zoom == 1, "half of it is less than a crop"
    large = chosen([discs(1024, 40, 120)] * 12, max_minutes=1)
    assert "time" not in reason(large, "zoom"), "these would be reduced in any case"
    poles[:, 2::200] = poles[:, 3::200] = 0
    thin = chosen([stuff(poles)] * 12, bands, instances=False, max_minutes=1)
    assert (thin.settings.zoom, reason(thin, "zoom")) == (1, "pole has a width of 2 pixels")


def test_the_device_and_the_time_shape_the_network() -> None:
    samples = [discs(512, 10, 30)]
    gpus = chosen(
        samples, hardware=Hardware(cpus=16, gpus=2, memory=64 << 30, workers=2, bfloat16=True)
    )
    assert (gpus.settings.network.width, gpus.settings.network.depth) == (32, 5)
    assert (gpus.settings.crop, gpus.settings.batch_size) == (512, 32)
    hasty = chosen(samples, max_minutes=0.5)
    assert hasty.settings.network.width == 8
    assert "in 0.5 minutes on 2 CPUs" in reason(hasty, "network.width")
    brief = chosen(samples, max_minutes=2)
    plain = chosen(samples, max_minutes=2, hardware=replace(LAPTOP, bfloat16=False))
    assert (brief.settings.network.width, plain.settings.network.width) == (16, 8)
    tight = chosen(samples, hardware=replace(LAPTOP, memory=1 << 30))
    assert tight.settings.batch_size == 6
    assert "half of the memory" in reason(tight, "batch_size")


def test_no_worker_of_a_cluster_is_left_without_a_crop() -> None:
    samples = [discs(256, 10, 30)]
    sizes = {
        workers: chosen(samples, hardware=replace(LAPTOP, workers=workers)).settings.batch_size
        for workers in (1, 2, 4, 9)
    }
    assert sizes == {1: 8, 2: 8, 4: 8, 9: 9}
    large = chosen([discs(1024, 90, 256)], zoom=1, hardware=replace(LAPTOP, workers=2))
    assert (large.settings.crop, large.settings.batch_size) == (512, 2)


STREET = tuple(
    ClassSpec(id=i, name=name, kind="stuff") for i, name in enumerate(("road", "sky", "sign"))
)


def street() -> Sample:
    semantic = np.zeros((360, 480), np.uint8)
    semantic[:180], semantic[100:108, 200:208] = 1, 2
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (360, 480, 3)).astype(np.uint8)
    return Sample("street", pixels, Label(semantic, np.zeros(semantic.shape, np.int32)))


def test_a_street_is_semantic_weighted_and_sampled_by_class() -> None:
    got = chosen([street()], STREET, instances=False)
    s = got.settings
    assert (s.crop, s.batch_size) == (256, 4)  # more around it than around an object
    assert (s.method.name, s.normalize.kind, s.channels) == ("semantic", "range", 3)
    assert s.network.depth == 5
    road, sky, sign = s.method.class_weights
    assert (road, sign) == (pytest.approx(1, abs=0.1), 10)
    assert sky == 1
    assert "sign has 0.04% of the pixels" in reason(got, "method.class_weights")
    assert (s.sampling.rare_class, s.sampling.objects) == (0.33, 0)
    why = reason(got, "sampling.rare_class")
    assert "sign, the rarest class, has 0.04% of the pixels and is in 50.0% of windows" in why
    even = street()
    even.label.semantic[100:180, 200:280] = 2
    assert chosen([even], STREET, instances=False).settings.sampling.rare_class == 0


@pytest.mark.parametrize("name", ["instance", "semantic"])
def test_tiny_objects_are_not_taken_for_noise(name: str) -> None:
    """Spots of 3 pixels across were dropped, all of them, by a model that had found them."""
    spots = discs(128, 1, 10)
    got = chosen([spots], method=MethodSettings(name=name)).settings.method
    assert got.reach == 16
    method = build_method(got, CELLS)
    outputs = perfect_outputs(method, spots.label)
    found = method.decode({k: m[0].numpy() for k, m in method.maps(outputs).items()})
    assert len(found.scores) == spots.label.instances.max()
    usual = chosen([discs(128, 5, 20)])
    assert (usual.settings.method.min_area, usual.settings.method.reach) == (8, 64)
    assert reason(usual, "method.min_area") == "small objects have 72 pixels"  # of 81, in bins


def test_one_large_object_among_spots_is_kept_whole() -> None:
    """By number it is one in hundreds, and the reach of the spots tore it into eight."""
    ids = np.zeros((512, 512), np.int32)
    ids[4:508:14, 4:508:14] = np.arange(1, 36 * 36 + 1).reshape(36, 36)
    cv2.circle(ids, (256, 256), 156, 0, cv2.FILLED)
    cv2.circle(ids, (256, 256), 150, 2000, cv2.FILLED)
    got = chosen([scene(ids)])
    reach, network = got.settings.method.reach, got.settings.network
    assert 288 <= (reach or 0) < 330
    assert "a large object is 29" in reason(got, "network.depth")
    assert network.depth == 6
    assert got.settings.crop == 512
    method = build_method(got.settings.method, CELLS)
    outputs = perfect_outputs(method, scene(ids).label)
    found = method.decode({k: m[0].numpy() for k, m in method.maps(outputs).items()})
    assert len(found.scores) == len(np.unique(ids)) - 1
    nuclei = np.random.default_rng(0).lognormal(3, 0.5, 1_000)
    bins = diameter_bins(nuclei)
    assert area_median(bins) == pytest.approx(20 * np.exp(0.5), rel=0.05)
    assert area_median(bins) < diameter_quantile(bins, 0.95), "which such sets go by"


def test_a_few_large_images_decide_over_many_tiny_ones() -> None:
    """Most crops come from them; by number, crops were of 32 pixels and the depth was 2."""
    tiny = [discs(30, 4, 14, f"t{i}") for i in range(8)]
    got = chosen([*tiny, discs(1500, 7, 30, "slide")])
    assert (got.settings.crop, got.settings.network.depth) == (160, 4)
    assert chosen([*tiny, discs(64, 4, 14, "slide")]).settings.crop == 32


def test_scarce_objects_are_sought() -> None:
    ids = np.zeros((1024, 1024), np.int32)
    ids[100:120, 100:120] = 1
    got = chosen([scene(ids)], sampling=SamplingSettings(rare_class=0.7))
    assert got.settings.sampling.objects == pytest.approx(0.3)
    assert "2% of windows of 128 pixels hold an object" in reason(got, "sampling.objects")


def test_pictures_have_an_up_where_a_class_keeps_to_one_side() -> None:
    def street(i: int, *, upside_down: bool = False) -> Sample:
        ids = np.zeros((128, 96), np.int32)
        ids[80 + i : 88 + i, 10:40] = 1
        return scene(ids[::-1].copy() if upside_down else ids, name=f"s{i}")

    got = chosen([street(i) for i in range(12)])
    assert got.settings.augment.upright is True
    assert reason(got, "augment.upright") == "cell lies in the lower part of 100% of its images"
    turned = chosen([street(i, upside_down=i % 2 == 0) for i in range(12)])
    assert turned.settings.augment.upright is False
    few = chosen([street(i) for i in range(4)])
    assert few.settings.augment.upright is False


def test_picks_show_every_class_and_window_the_busiest_part() -> None:
    plain = [facts_of(discs(64, 3, 32, f"n{i}")) for i in range(20)]
    rich = facts_of(discs(64, 9, 20, "rich"))
    picks = pick_images([*plain, rich], CELLS, 6)
    assert picks[0].facts.name == "rich"
    assert picks[0].why == "most cell"
    assert len({pick.facts.name for pick in picks}) == 6
    ids = np.zeros((400, 300), np.int32)
    ids[300:340, 200:240] = np.arange(1600).reshape(40, 40)
    box = busiest_window(scene(ids).label, 100)
    assert (box.y1 - box.y0, box.x1 - box.x0) == (100, 100)
    assert box.y0 <= 300 <= 340 <= box.y1
    assert box.x0 <= 200 <= 240 <= box.x1
    assert busiest_window(scene(np.zeros((5, 7))).label, 100) == Box(0, 0, 5, 7)


@pytest.mark.usefixtures("ray_cluster")
def test_inspect_shows_what_is_there(
    annotated: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "inspect.png"
    settings = InspectSettings(data=annotated, json=True, picture=str(picture), images=4)
    assert inspect.work(settings) == 0
    found = json.loads(capsys.readouterr().out)
    data = open_data(annotated, val_fraction=0.2)
    labels = [read_sample(image, data.classes, data.void).label for image in data.images]
    everything = found["fingerprint"][-1]
    assert everything["images"] == 16
    assert everything["objects"] == sum(len(np.unique(one.instances)) - 1 for one in labels)
    assert [c["pixels"] for c in everything["classes"]] == [
        sum(int((one.semantic == spec.id).sum()) for one in labels) for spec in CLASSES
    ]
    assert everything["types"] == {"uint16": 6, "uint8": 10}
    assert found["problems"] == []
    assert {c["setting"] for c in found["choices"]} >= {"crop", "network.depth", "channels"}
    drawn = cv2.imread(str(picture))
    assert drawn.shape[1] == 3 * 320 + 4 * 6
    assert len(np.unique(drawn[:320].reshape(-1, 3), axis=0)) > 100
    assert inspect.work(InspectSettings(data=annotated)) == 0
    text = capsys.readouterr().out
    for word in ("touch another", "crystal", "method.name", "because"):
        assert word in text


@pytest.mark.usefixtures("ray_cluster")
def test_inspect_knows_what_a_model_to_begin_with_settles(
    annotated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(ROOT / "models/nuclei")
    assert inspect.work(InspectSettings(data=annotated, pretrained=model, json=True)) == 0
    choices = {c["setting"]: c for c in json.loads(capsys.readouterr().out)["choices"]}
    assert choices["pretrained"]["value"] == model
    assert choices["network.width"]["value"] == load_spec(model).network.width
    assert "has it" in choices["network.width"]["reason"]
    assert "has it" not in choices["crop"]["reason"]


@pytest.mark.usefixtures("ray_cluster")
def test_wrong_data_stops_before_any_worker_with_one_line_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_annotated(str(tmp_path), [(40, 40)] * 5, ["train"] * 4 + ["val"], seed=0)
    bad = tmp_path / "labels/scene-0001.png"
    bad.write_bytes(bad.read_bytes()[:60])
    cv2.imwrite(str(tmp_path / "semantic/scene-0002.png"), np.full((40, 40), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "labels/scene-0003.png"), np.zeros((40, 41), np.uint16))
    (tmp_path / "images/scene-0004.tif").unlink(missing_ok=True)
    for path in (tmp_path / "images").glob("scene-0004.*"):
        path.unlink()
    (tmp_path / "images/scene-0004.png").write_bytes(
        (tmp_path / "images/scene-0000.png").read_bytes()
    )
    expected = [
        "labels/scene-0001.png damaged PNG",
        "labels/scene-0003.png is 40 x 41, its image 40 x 40",
        "semantic/scene-0002.png holds class ids that the class list does not name: [77]",
        "scene-0004 in the split val is the same image as scene-0000 in train",
    ]
    output = tmp_path / "model"
    settings = TrainSettings(data=str(tmp_path), output=str(output), epochs=1)
    with pytest.raises(DataProblems) as training:
        train.work(settings)
    with pytest.raises(DataProblems) as inspecting:
        inspect.work(InspectSettings(data=str(tmp_path), json=True))
    assert json.loads(capsys.readouterr().out)["problems"]
    assert training.value.problems == inspecting.value.problems
    assert len(training.value.problems) == len(expected)
    for line, part in zip(training.value.problems, expected, strict=True):
        assert part in line
    assert not output.exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_picture_of_nothing_hides_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_annotated(str(tmp_path), [(40, 40)] * 2, ["train", "val"], seed=0)
    for path in (tmp_path / "semantic").iterdir():
        path.write_bytes(b"")
    picture = tmp_path / "inspect.png"
    flags = [str(tmp_path), "--picture", str(picture)]
    assert run_job(InspectSettings, inspect.work, flags) == FAILED
    assert capsys.readouterr().err.count("the file has no bytes") == 2
    assert not picture.exists()


@pytest.mark.usefixtures("ray_cluster")
def test_what_readers_remark_comes_back_from_other_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_annotated(str(tmp_path), [(40, 40)] * 2, ["train", "val"], seed=0)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = tmp_path / "images/scene-0001.jpg"
    Image.open(path).save(path, exif=exif)
    cv2.imwrite(str(tmp_path / "images/more.png"), np.zeros((4, 4), np.uint8))
    assert inspect.work(InspectSettings(data=str(tmp_path), json=True)) == 0
    notes = [one["what"] for one in json.loads(capsys.readouterr().out)["notes"]]
    assert "does not list 1 of 3 images, which are left out: more" in notes
    assert any("EXIF says to turn" in note and note.endswith("1 in scene-0001") for note in notes)


def test_many_weights_leave_room_for_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 200 classes, the table of choices was 900 letters wide."""
    for weights, shown in (([1.0] * 200, "200 times 1 "), ([2.5, *[1.0] * 30], "31, 1 to 2.5 ")):
        tell_choices(TextLog(), [Choice("method.class_weights", weights, "so")], "setting")
        assert f"method.class_weights  {shown}" in capsys.readouterr().out
    tell_choices(TextLog(), [Choice("method.class_weights", [1.0, 2.0], "so")], "setting")
    assert "  1, 2 " in capsys.readouterr().out


def test_the_settings_as_run_hold_every_choice(trained: str) -> None:
    run = yaml.safe_load((Path(trained) / "settings.yaml").read_text())
    assert (run["crop"], run["network"]["depth"]) == (96, 2)  # as given
    assert (run["channels"], run["batch_size"]) == (3, 8)  # as chosen
    assert run["normalize"]["kind"] == "percentile"
    assert len(run["method"]["class_weights"]) == len(CLASSES)
    assert None not in (run["sampling"]["rare_class"], run["sampling"]["objects"])


@pytest.mark.usefixtures("ray_cluster")
def test_real_nuclei(dsb2018: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.work(InspectSettings(data=str(dsb2018), json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    everything = found["fingerprint"][-1]
    assert (everything["images"], everything["in_colour"]) == (598, 96)
    assert everything["objects"] == 26057
    assert everything["diameters"][1] == pytest.approx(20, abs=1)
    values = {choice["setting"]: choice["value"] for choice in found["choices"]}
    assert values["channels"] == 3
    assert (values["crop"], values["network.depth"], values["batch_size"]) == (160, 4, 8)
    assert values["augment.upright"] is False


def test_windows_are_those_that_crops_are_judged_by() -> None:
    facts = facts_of(discs(512, 5, 40))
    assert facts.cells == tuple((512 // side) ** 2 for side in CELL_SIDES)
    assert facts.object_cells == facts.cells
