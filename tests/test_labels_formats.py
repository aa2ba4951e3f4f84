"""Every annotation format: found by itself, read back to known arrays, and evaluated against."""

import json
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from label_sets import (
    PALETTE,
    WRITERS,
    H,
    W,
    blocks,
    class_ids,
    coco,
    colour_map,
    compressed,
    picture,
    rectangle,
    save,
    write_cityscapes,
    write_coco,
    write_folder,
    write_masks,
    write_semantic,
    write_voc,
)
from PIL import ExifTags, Image
from pycocotools import mask as coco_mask

from pipeline.config import LabelSettings, ReaderSettings
from pipeline.distributed.samples import from_table, to_table
from pipeline.errors import DataError, DatasetError
from pipeline.evaluation import evaluate
from pipeline.images.reader import decode_image
from pipeline.labels import FORMATS, AnnotatedData, open_data, read_label, read_sample
from pipeline.labels.coco_masks import draw
from pipeline.labels.pascal import CLASSES as PASCAL
from pipeline.metrics import outside_void
from pipeline.predicting.objects import measure_objects
from pipeline.records import (
    VOID,
    AnnotatedImage,
    Box,
    Label,
    PredictedImage,
    Remark,
    Segmentation,
    SourceImage,
    thing_ids,
)
from pipeline.tables.dataset import OutputDataset
from pipeline.tables.shard import Provenance, commit_shard
from pipeline.tables.spec import DatasetSpec

EVERY = list(WRITERS)


def test_every_format_can_be_asked_for_and_is_tested() -> None:
    named = get_args(LabelSettings.model_fields["format"].annotation)
    assert named == ("auto", *FORMATS)
    assert list(FORMATS) == EVERY


def labels(data: AnnotatedData) -> dict[str, Label]:
    return {image.name: read_label(image, data.classes, data.void) for image in data.images}


@pytest.mark.parametrize("name", EVERY)
def test_a_format_is_found_and_read_to_known_arrays(name: str, tmp_path: Path) -> None:
    truth = WRITERS[name](tmp_path)
    data = open_data(str(tmp_path)).check()
    assert data.format == name
    assert {image.split for image in data.images} == {"train", "val"}
    assert labels(data).keys() == truth.keys()
    for image in data.images:
        label = read_label(image, data.classes, data.void)
        assert np.array_equal(label.semantic, truth[image.name][0])
        assert np.array_equal(label.instances, truth[image.name][1])


@pytest.mark.parametrize("name", EVERY)
def test_what_a_worker_reads_is_what_was_opened(name: str, tmp_path: Path) -> None:
    """An image and a sample travel between processes as Arrow and lose nothing."""
    WRITERS[name](tmp_path)
    data = open_data(str(tmp_path))
    given = [{**asdict(image), "attributes": None} for image in data.images]
    images = [AnnotatedImage(**{**row, "attributes": {}}) for row in pa.array(given).to_pylist()]
    samples = [read_sample(image, data.classes, data.void) for image in images]
    for sample, image in zip(from_table(to_table(samples)), data.images, strict=True):
        label = read_label(image, data.classes, data.void)
        assert sample.pixels.shape == (H, W, 3)
        assert np.array_equal(sample.label.semantic, label.semantic)
        assert np.array_equal(sample.label.instances, label.instances)
        assert sample.label.objects == label.objects


def predict_the_truth(data: AnnotatedData, output: Path) -> OutputDataset:
    """What a model that knows everything would give."""
    spec = DatasetSpec(classes=data.classes, model="m", settings={})
    dataset = OutputDataset.accepting(str(output), spec)
    dataset.create()
    predicted = []
    for image in data.images:
        sample = read_sample(image, data.classes, data.void)
        n = int(sample.label.instances.max())
        ids = [sample.label.semantic[sample.label.instances == i + 1][0] for i in range(n)]
        of_objects = np.array(ids, np.uint8), np.ones(n, np.float32)
        maps = Segmentation(sample.label.semantic, sample.label.instances, *of_objects)
        measures = measure_objects(maps.instances, sample.pixels, n)
        source = SourceImage(image.name, image.image_uri, "1", 1)
        predicted.append(PredictedImage(source, (H, W, 3), maps, measures))
    commit_shard(dataset.uri, predicted, [], data.classes, Provenance("s", "r", "m"))
    return dataset


@pytest.mark.parametrize("name", EVERY)
def test_evaluation_of_the_truth_is_perfect(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data")
    data = open_data(str(tmp_path / "data"))
    (figures,) = evaluate(predict_the_truth(data, tmp_path / "out"), data)
    assert figures.images == len(data.images)
    things = thing_ids(data.classes)
    assert set(figures.ap_mean.values()) == ({1.0} if things else set())
    assert {c.iou for c in figures.classes if c.iou is not None} == {1.0}
    assert figures.count_error == (0 if things else None)


def test_predictions_of_copies_are_found_by_the_names_of_their_files(tmp_path: Path) -> None:
    """Cityscapes' images are named without the end that their files have."""
    write_cityscapes(tmp_path / "data")
    data = open_data(str(tmp_path / "data"))
    copies = []
    for image in data.images:
        path = tmp_path / "copies" / Path(image.image_uri).name
        save(path, picture(0))
        copies.append(replace(image, image_uri=str(path)))
    dataset = predict_the_truth(replace(data, images=tuple(copies)), tmp_path / "out")
    (figures,) = evaluate(dataset, data)
    assert set(figures.ap_mean.values()) == {1.0}


def test_labels_that_tell_no_objects_judge_none(tmp_path: Path) -> None:
    """Objects that were found are neither wrong nor is their true number 0."""
    truth = tmp_path / "data"
    write_cityscapes(truth)
    dataset = predict_the_truth(open_data(str(truth)), tmp_path / "out")
    for path in truth.rglob("*_instanceIds.png"):
        path.unlink()
    (figures,) = evaluate(dataset, open_data(str(truth)))
    assert (figures.ap_mean, figures.pq, figures.count_error) == ({}, None, None)
    assert figures.scores is None
    assert figures.mean_iou is not None
    with pytest.raises(DataError, match="the error of counts can't be told"):
        evaluate(dataset, open_data(str(truth)), calibrate=True)


def test_labels_of_which_some_tell_no_objects_are_refused(tmp_path: Path) -> None:
    """As by a training: what was found in them would be wrong."""
    WRITERS["manifest"](tmp_path / "data")
    data = open_data(str(tmp_path / "data"))
    dataset = predict_the_truth(data, tmp_path / "out")
    some = (replace(data.images[0], instances_uri=None), *data.images[1:])
    with pytest.raises(DataError, match="has pixels of things but no objects in"):
        evaluate(dataset, replace(data, images=some))


def test_classes_in_another_order_are_not_compared(tmp_path: Path) -> None:
    """Each would be held against another; a class of another name may be the same one."""
    WRITERS["semantic"](tmp_path / "data")
    data = open_data(str(tmp_path / "data"))
    first, *others = data.classes
    last = others.pop()
    for names, line in (
        ((last.name.upper(), first.name), f"{first.name} is class {last.id} in "),
        (("heaven", "way"), "have no prediction in"),
    ):
        swapped = (
            first.model_copy(update={"name": names[0]}),
            *others,
            last.model_copy(update={"name": names[1]}),
        )
        spec = DatasetSpec(classes=swapped, model="m", settings={})
        dataset = OutputDataset.accepting(str(tmp_path / names[0]), spec)
        dataset.create()
        with pytest.raises((DatasetError, DataError), match=line):
            evaluate(dataset, data)


@pytest.mark.parametrize("name", EVERY)
def test_a_local_folder_may_be_a_uri(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    data = open_data(f"file://{tmp_path}").check()
    assert data.format == name
    assert len(labels(data)) == len(data.images) > 1


def test_a_format_is_read_from_object_storage(bucket: str, tmp_path: Path) -> None:
    truth = write_coco(tmp_path / "data")
    uri = f"{bucket}/labels-coco"
    fsspec.filesystem("s3").put(str(tmp_path / "data"), uri, recursive=True)
    data = open_data(uri).check()
    assert data.format == "coco"
    for image in data.images:
        assert image.image_uri.startswith(uri)
        sample = read_sample(image, data.classes, data.void)
        assert np.array_equal(sample.label.instances, truth[image.name][1])


# Overlapping objects


def test_objects_that_overlap_are_kept_whole_and_the_smaller_lies_on_top(tmp_path: Path) -> None:
    write_masks(tmp_path)
    label = next(iter(labels(open_data(str(tmp_path))).values()))
    first, second = label.objects
    assert (first.id, first.box, second.id, second.box) == (
        1, Box(2, 2, 14, 14), 2, Box(10, 10, 16, 18)
    )  # fmt: skip
    assert first.mask().all()
    assert second.mask().shape == (6, 8)
    assert (label.instances[10:14, 10:14] == 2).all()


def test_objects_that_only_touch_are_not_kept_twice(tmp_path: Path) -> None:
    write_coco(tmp_path)
    assert all(label.objects == () for label in labels(open_data(str(tmp_path))).values())


def test_an_object_covered_by_smaller_ones_is_still_an_object(tmp_path: Path) -> None:
    halves = [rectangle(2, 2, 10, 6), rectangle(2, 6, 10, 10)]
    rows = [{"image_id": 700, "category_id": 3, "segmentation": rectangle(2, 2, 10, 10)}]
    rows += [{"image_id": 700, "category_id": 90, "segmentation": half} for half in halves]
    data = write_json(tmp_path, coco(["a.png"], rows))
    (label,) = labels(open_data(data)).values()
    assert set(np.unique(label.instances)) == {0, 2, 3}
    assert [(one.id, one.class_id) for one in label.objects] == [(1, 1), (2, 2), (3, 2)]
    assert label.objects[0].mask().sum() == 64


# A mask an object


def masks_of(shown: np.ndarray) -> dict[str, Image.Image]:
    """File name → one way to say an object, where `shown` (H, W) is true."""
    white = np.full((H, W), 255, np.uint8)
    drawn = white * shown
    first_is_white = Image.fromarray(1 - shown.astype(np.uint8), "P")
    first_is_white.putpalette([255, 255, 255, 0, 0, 0])
    layers = {
        "opaque.png": [drawn, drawn, drawn, white],
        "white.png": [white, white, white, drawn],
        "black.png": [0 * white, 0 * white, 0 * white, drawn],
        "red.png": [drawn, 0 * white, 0 * white, drawn],
        "black.tif": [0 * white, 0 * white, 0 * white, drawn],
    }
    return {
        **{name: Image.fromarray(np.dstack(layer)) for name, layer in layers.items()},
        "gray.png": Image.fromarray(drawn),
        "ones.png": Image.fromarray(shown.astype(np.uint8)),
        "bits.png": Image.fromarray(shown),
        "gray_alpha.png": Image.fromarray(np.dstack([white, drawn]), "LA"),
        "palette.png": first_is_white,
        "quantized.png": Image.fromarray(drawn).convert("RGB").quantize(2),
        "traces.jpg": Image.fromarray(drawn),
        "traces.webp": Image.fromarray(drawn).convert("RGB"),
        "gray.bmp": Image.fromarray(drawn),
        "bits.bmp": Image.fromarray(shown),
        "quantized.bmp": Image.fromarray(drawn).convert("RGB").quantize(2),
        "black.jp2": Image.fromarray(np.dstack([0 * white, 0 * white, 0 * white, drawn])),
    }


def test_a_mask_says_its_object_by_colour_or_by_alpha(tmp_path: Path) -> None:
    """Each way of saying it in an image of its own, whose name holds a dot."""
    shown = blocks((3, 3, 11, 19)) > 0
    for name, mask in masks_of(shown).items():
        folder = tmp_path / f"{name.replace('.', '_')}.v1"
        save(folder / "images/a.png", picture(0))
        (folder / "masks").mkdir()
        mask.save(folder / "masks" / name)
    (tmp_path / "notes.txt").write_text("")
    data = open_data(str(tmp_path)).check()
    assert len(data.images) == len(masks_of(shown))
    for name, label in labels(data).items():
        assert np.array_equal(label.instances > 0, shown), name


def test_an_empty_folder_of_masks_says_that_there_is_no_object(tmp_path: Path) -> None:
    write_masks(tmp_path)
    save(tmp_path / "none/images/none.png", picture(3, 7, 9))
    (tmp_path / "none/masks").mkdir()
    (tmp_path / "none/masks/.keep").touch()
    data = open_data(str(tmp_path)).check()
    label = labels(data)["none"]
    assert (label.semantic.shape, label.semantic.any(), label.instances.any()) == ((7, 9), 0, 0)
    assert [str(note) for note in data.notes] == [
        f"{tmp_path} says by an empty masks/ that there is no object in 1: none"
    ]


# Splits


def splits_of(root: Path) -> dict[str, str]:
    return {image.name: image.split for image in open_data(str(root)).check().images}


@pytest.mark.parametrize("file", ["manifest.csv", "list.csv"])
def test_splits_are_named_as_people_name_them(tmp_path: Path, file: str) -> None:
    """In the list of a folder, and in a manifest."""
    write_folder(tmp_path)
    path = tmp_path / file
    head = "name,split" if file == "manifest.csv" else "name,split,image,instances"

    def write(words: list[str]) -> None:
        labels = {p.stem: p.name for p in (tmp_path / "labels").iterdir()}
        rows = [
            f"{name},{word},images/{name}.png,labels/{labels[name]}"
            for name, word in zip("abcde", words, strict=False)
        ]
        cut = len(head.split(","))
        path.write_text("\n".join([head, *(",".join(r.split(",")[:cut]) for r in rows)]))

    where = tmp_path if file == "manifest.csv" else path
    write(["Train", "training", "valid", "validation", "testing"])
    assert list(splits_of(where).values()) == ["train", "train", "val", "val", "test"]
    write(["train"] * 5)  # a share is held out, as everywhere
    assert sorted(set(splits_of(where).values())) == ["train", "val"]


def test_images_that_a_list_leaves_out_are_told(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "manifest.csv").write_text("name,split\na,train\nb,val\n")
    data = open_data(str(tmp_path)).check()
    assert [image.name for image in data.images] == ["a", "b"]
    (note,) = data.notes
    assert str(note).endswith("does not list 3 of 5 images, which are left out: c, d, e")


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        ({"valid.txt": "b.png\nimages/d.png\n"}, ["train", "val", "train", "val", "train"]),
        (
            {"train.txt": "/x/images/a.png /x/labels/a.png\nc\n", "val.txt": "b\n"},
            ["train", "val", "train"],
        ),
        ({"test.txt": "e", "valid.txt": "a"}, ["val", "train", "train", "train", "test"]),
    ],
)
def test_lists_beside_the_images_name_the_splits(
    tmp_path: Path, lists: dict[str, str], expected: list[str]
) -> None:
    """As fast.ai's valid.txt does, whose neighbours in a video would be in both splits."""
    write_folder(tmp_path)
    for file, text in lists.items():
        (tmp_path / file).write_text(text)
    assert list(splits_of(tmp_path).values()) == expected
    notes = [str(note) for note in open_data(str(tmp_path)).notes]
    left_out = ["(train.txt, val.txt) does not list 2 of 5 images, which are left out: d, e"]
    assert notes == ([f"{tmp_path} {left_out[0]}"] if len(expected) < 5 else [])


def test_a_list_that_does_not_fit_the_images_is_told(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "valid.txt").write_text("x1\nb\n")
    (note,) = open_data(str(tmp_path)).check().notes
    assert str(note) == f"{tmp_path}/valid.txt names 1 of which there is no image: x1"
    (tmp_path / "valid.txt").write_text("x1\n")
    (problem,) = open_data(str(tmp_path)).problems
    assert str(problem).startswith(f"{tmp_path}/valid.txt names none of the images")
    (tmp_path / "valid.txt").write_text("a\n")
    (tmp_path / "train.txt").write_text("a\n")
    (problem,) = open_data(str(tmp_path)).problems
    assert str(problem) == f"{tmp_path}/valid.txt names a, as train.txt does"


@pytest.mark.parametrize(
    ("labelled", "bare"),
    [("train/{}", "valid/{}"), ("{}/train", "{}/val"), ("train/{}", "validation")],
)
def test_a_split_whose_images_nothing_labels_is_told(
    tmp_path: Path, labelled: str, bare: str
) -> None:
    """Or a share of the training images is held out, and nobody knows why."""
    for i in range(3):
        save(tmp_path / labelled.format("images") / f"{i}.png", picture(i))
        save(tmp_path / labelled.format("labels") / f"{i}.png", blocks((2, 2, 8, 9)))
        save(tmp_path / bare.format("images") / f"v{i}.png", picture(i))
        save(tmp_path / "test" / f"t{i}.png", picture(i))
    data = open_data(str(tmp_path)).check()
    assert [image.name for image in data.images] == ["0", "1", "2"]
    where = tmp_path / bare.format("images")
    (note,) = data.notes
    assert str(note) == f"{where} holds 3 images that nothing labels; passed over"
    (tmp_path / "classes.txt").write_text("sky\nroad\n")
    as_maps = open_data(str(tmp_path), LabelSettings(format="semantic"))
    assert as_maps.notes == data.notes


def test_images_that_are_problems_are_not_said_to_be_passed_over(tmp_path: Path) -> None:
    write_semantic(tmp_path)
    (tmp_path / "val_labels/0002_L.png").unlink()
    data = open_data(str(tmp_path))
    assert [str(p) for p in data.problems] == [
        f"{tmp_path}/val/0002.png has no class map in val_labels/"
    ]
    assert data.notes == ()


def write_yolo(root: Path) -> None:
    for split in ("train", "val"):
        save(root / f"images/{split}/{split}.png", picture(0))
        (root / f"labels/{split}").mkdir(parents=True)
        (root / f"labels/{split}/{split}.txt").write_text("0 .1 .1 .3 .1 .3 .3\n")


@pytest.mark.parametrize(
    ("write", "labels", "images"),
    [
        (write_yolo, "labels/val/val.txt", "images/val"),
        (WRITERS["outlines"], "val/val-a.json", "val"),
        (write_coco, "annotations/instances_val2017.json", "val2017"),
        (write_cityscapes, "gtFine/val/ulm/*.png", "leftImg8bit/val"),
    ],
)
def test_in_every_format_it_is_told(
    write: Callable[[Path], object], labels: str, images: str, tmp_path: Path
) -> None:
    write(tmp_path)
    assert open_data(str(tmp_path)).check().notes == ()
    for path in tmp_path.glob(labels):
        path.unlink()
    (note,) = open_data(str(tmp_path)).check().notes
    assert str(note) == f"{tmp_path}/{images} holds 1 image that nothing labels; passed over"


def test_the_same_names_in_two_splits_are_told_apart(tmp_path: Path) -> None:
    for split in ("train", "val"):
        save(tmp_path / f"{split}/0001.png", picture(len(split)))
        save(tmp_path / f"{split}annot/0001.png", np.full((H, W), split == "val", np.uint8))
    (tmp_path / "codes.txt").write_text("sky\nroad\n")
    assert splits_of(tmp_path) == {"0001": "train", "val/0001": "val"}
    for name, label in labels(open_data(str(tmp_path))).items():
        assert (label.semantic == ("val" in name)).all()


# COCO


def write_json(root: Path, content: object) -> str:
    save(root / "images/a.png", picture(0))
    (root / "instances.json").write_text(
        content if isinstance(content, str) else json.dumps(content)
    )
    return str(root / "instances.json")


def test_polygons_are_those_of_pycocotools() -> None:
    """Drawn in their own box, they are what they are in the whole image, also across its edge."""
    rng = random.Random(4)
    for _ in range(200):
        x, y, size = rng.uniform(-8, W), rng.uniform(-8, H), rng.uniform(1, 25)
        polygons = [
            [start + size * rng.random() for _ in range(rng.randint(3, 9)) for start in (x, y)]
            for _ in range(rng.randint(1, 2))
        ]
        whole = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, H, W)))
        drawn = np.zeros((H, W), np.uint8)
        shape = draw(polygons, 1, H, W, "here")
        if shape is not None:
            box = shape.box
            drawn[box.y0 : box.y1, box.x0 : box.x1] = shape.mask
        assert np.array_equal(drawn, whole)


def test_compressed_codes_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 0.98, 1.0):
        for _ in range(20):
            mask = rng.random((37, 53)) < share
            mask[:, : rng.integers(50)] = False
            shape = draw(compressed(mask), 1, 37, 53, "here")
            drawn = np.zeros_like(mask)
            if shape is not None:
                drawn[shape.box.y0 : shape.box.y1, shape.box.x0 : shape.box.x1] = shape.mask
            assert np.array_equal(drawn, mask)


def test_categories_of_any_id_become_classes_in_order(tmp_path: Path) -> None:
    write_coco(tmp_path)
    data = open_data(str(tmp_path))
    assert [(c.id, c.name, c.kind) for c in data.classes] == [
        (0, "background", "background"), (1, "car", "thing"), (2, "toothbrush", "thing")
    ]  # fmt: skip
    assert {image.name: image.split for image in data.images} == {
        "train-a": "train",
        "val-a": "val",
    }


def test_images_of_one_stem_keep_names_of_their_own(tmp_path: Path) -> None:
    files = ["a.png", "a.tif", "b/c.png", "d/c.png", "e.png"]
    for file in files:
        save(tmp_path / "images" / file, picture(0))
    data = open_data(write_json(tmp_path, coco(files, []))).check()
    assert [image.name for image in data.images] == ["a.png", "a.tif", "b/c", "d/c", "e"]


def test_files_of_one_split_may_repeat_names(tmp_path: Path) -> None:
    for i in range(3):
        save(tmp_path / f"train/part{i}/a.png", picture(i))
    (tmp_path / "annotations").mkdir()
    for i in range(3):
        text = json.dumps(coco([f"part{i}/a.png"], []))
        (tmp_path / f"annotations/train_{i}.json").write_text(text)
    data = open_data(str(tmp_path)).check()
    assert sorted(image.name for image in data.images) == ["a", "train/a", "train/a-2"]


@pytest.mark.parametrize(
    ("flag", "is_crowd"),
    [*((one, False) for one in (0, "0", False, "false", None, 0.0)),
     *((one, True) for one in (1, "1", True, "True", 1.0))],
)  # fmt: skip
def test_a_crowd_is_said_in_many_ways(tmp_path: Path, flag: object, is_crowd: bool) -> None:
    row = {"image_id": 700, "category_id": 3, "segmentation": rectangle(2, 2, 8, 8)}
    data = open_data(write_json(tmp_path, coco(["a.png"], [row | {"iscrowd": flag}]))).check()
    (label,) = labels(data).values()
    assert (label.semantic[2:8, 2:8] == (VOID if is_crowd else 1)).all()
    assert label.instances.any() != is_crowd
    assert [remark.times for remark in label.remarks] == [1] * is_crowd


@pytest.mark.parametrize(
    ("file", "image", "file_name"),
    [
        ("livecell_coco_train.json", "images/livecell_train_val_images/a.tif", "a.tif"),
        ("result.json", "images/1f2e-a.png", "images\\1f2e-a.png"),  # Label Studio, on Windows
        ("result.json", "images/1f2e-a.png", "..\\..\\media\\upload\\4\\1f2e-a.png"),
        ("result.json", "images/1f2e-a.png", "/data/upload/4/1f2e-a.png"),
        ("annotations/instances_default.json", "images/default/a.png", "a.png"),  # CVAT
        ("train/annotations/instances.json", "train/images/a.png", "a.png"),  # Supervisely
    ],
)
def test_images_are_found_where_tools_export_them(
    tmp_path: Path, file: str, image: str, file_name: str
) -> None:
    row = {"image_id": 700, "category_id": 3, "segmentation": rectangle(2, 2, 8, 8)}
    content = coco([file_name], [row])
    if file.startswith("livecell"):
        content["annotations"] = {"17": content["annotations"][0]}
    save(tmp_path / image, picture(0))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text(json.dumps(content))
    data = open_data(str(tmp_path)).check()
    assert [one.image_uri for one in data.images] == [str(tmp_path / image)]
    (label,) = labels(data).values()
    assert label.instances.sum() == 36


def test_a_folder_on_the_way_to_a_file_names_its_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        save(tmp_path / split / f"images/{split}.png", picture(0))
        path = tmp_path / split / "annotations/instances.json"
        path.parent.mkdir()
        path.write_text(json.dumps(coco([f"{split}.png"], [])))
    data = open_data(str(tmp_path)).check()
    assert {one.name: one.split for one in data.images} == {"train": "train", "valid": "val"}


def test_the_category_above_all_others_is_no_class(tmp_path: Path) -> None:
    """Roboflow's files begin with one of the project's name, which no annotation has."""
    row = {"image_id": 700, "category_id": 1, "segmentation": rectangle(2, 2, 8, 8)}
    content = coco(["a.png"], [row])
    content["categories"] = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 1, "name": "cell", "supercategory": "cells"},
    ]
    data = open_data(write_json(tmp_path, content)).check()
    assert [spec.name for spec in data.classes] == ["background", "cell"]
    row["category_id"] = 0
    data = open_data(write_json(tmp_path, content | {"annotations": [row]})).check()
    assert [spec.name for spec in data.classes] == ["background", "cells", "cell"]


def test_whole_numbers_are_whole_numbers_however_they_are_written(tmp_path: Path) -> None:
    row = {"image_id": "700", "category_id": 3.0, "segmentation": rectangle(2, 2, 8, 8)}
    content = coco(["a.png"], [row])
    content["images"][0].update(height=float(H), width=str(W))
    (label,) = labels(open_data(write_json(tmp_path, content)).check()).values()
    assert label.instances.sum() == 36


def test_objects_that_cover_no_pixel_are_told(tmp_path: Path) -> None:
    row = {"image_id": 700, "category_id": 3}
    thin, seen = [[5.1, 5.1, 5.4, 5.1, 5.4, 5.4]], rectangle(2, 2, 8, 8)
    rows = [row | {"segmentation": shape} for shape in (thin, seen, thin)]
    (label,) = labels(open_data(write_json(tmp_path, coco(["a.png"], rows)))).values()
    assert label.instances.max() == 1
    assert label.remarks == (Remark("objects that cover no pixel and are left out", 2),)


def test_one_file_is_split_by_name_and_an_image_may_have_no_object(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(20)]
    for i, name in enumerate(names):
        save(tmp_path / "images" / name, picture(i))
    data = open_data(write_json(tmp_path, coco(names, [])), val_fraction=0.3).check()
    assert 0 < len(data.split("val")) < 15
    assert all(not label.instances.any() for label in labels(data).values())


# Object ids


IDS = blocks((2, 2, 8, 9), (10, 3, 15, 12), (12, 20, 20, 29))
IN_SPLITS = {"train": "train", "val": "val"}


@pytest.mark.parametrize(
    ("image", "label", "given", "splits"),
    [
        ("{}/images/{}.png", "{}/labels/{}.png", "auto", IN_SPLITS),
        ("images/{}/{}.png", "labels/{}/{}.tif", "auto", IN_SPLITS),
        ("{}/images/{}.tif", "{}/masks/{}.tif", "folder", IN_SPLITS),  # StarDist's
        ("{}/{}_img.png", "{}/{}_masks.png", "auto", {"train_img": "train", "val_img": "val"}),
        ("{0}{1}.png", "{0}{1}_cp_masks.png", "auto", None),  # Cellpose's
        ("images/{0}{1}.png", "labels/{0}{1}_label.tif", "auto", None),
    ],
)
def test_object_ids_are_found_where_tools_keep_them(
    tmp_path: Path, image: str, label: str, given: Any, splits: dict[str, str] | None
) -> None:
    for i, split in enumerate(("train", "val")):
        save(tmp_path / image.format(split, split), picture(i))
        save(tmp_path / label.format(split, split), IDS.astype(np.uint16))
    data = open_data(str(tmp_path), LabelSettings(format=given)).check()
    assert data.format == "folder"
    assert len(data.images) == 2
    if splits:
        assert {one.name: one.split for one in data.images} == splits
    assert all(np.array_equal(one.instances, IDS) for one in labels(data).values())


def test_maps_of_classes_or_of_objects_are_asked_for_where_names_do_not_say(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in "ab":
            save(tmp_path / split / f"images/{name}.png", picture(0))
            save(tmp_path / split / f"masks/{name}.png", IDS.astype(np.uint8))
    with pytest.raises(DataError, match=r"write classes.txt.*object ids, --labels.format folder"):
        open_data(str(tmp_path))
    (tmp_path / "classes.txt").write_text("background\na\nb\nc\n")
    data = open_data(str(tmp_path)).check()
    assert data.format == "semantic"
    assert {one.name: one.split for one in data.images} == {
        "a": "train", "b": "train", "val/a": "val", "val/b": "val"
    }  # fmt: skip
    assert all(np.array_equal(one.semantic, IDS) for one in labels(data).values())


def test_ids_may_be_saved_as_colours(tmp_path: Path) -> None:
    """All channels alike, or, as BBBC039 has them, only the first."""
    for name, channels in (("a", [1, 1, 1]), ("b", [1, 0, 0])):
        save(tmp_path / f"images/{name}.png", picture(0))
        save(tmp_path / f"labels/{name}.png", (IDS[..., None] * channels).astype(np.uint8))
    found = labels(open_data(str(tmp_path)).check())
    assert all(np.array_equal(one.instances, IDS) for one in found.values())


@pytest.mark.parametrize(
    ("ids", "is_told"),
    [
        (IDS, False),
        (IDS + 1, True),  # no background
        ((IDS == 1) * 255, True),
        ((IDS > 0) * 1, True),
        ((IDS == 1) * 1, False),
        (IDS * 0, False),
    ],
)
def test_ids_that_look_like_classes_are_told(
    tmp_path: Path, ids: np.ndarray, is_told: bool
) -> None:
    save(tmp_path / "images/a.png", picture(0))
    save(tmp_path / "labels/a.png", ids.astype(np.uint8))
    (label,) = labels(open_data(str(tmp_path)).check()).values()
    assert [remark.what[:38] for remark in label.remarks] == (
        ["object ids that look like classes: the"] * is_told
    )


def test_labels_of_no_image_are_told(tmp_path: Path) -> None:
    """The image may be of a kind that is not read."""
    write_folder(tmp_path)
    (tmp_path / "images/c.png").rename(tmp_path / "images/c.gif")
    (note,) = open_data(str(tmp_path)).check().notes
    assert str(note) == f"{tmp_path}/labels holds 1 map of which there is no image in images/: c"


# Class maps


def test_an_index_list_names_void_by_setting(tmp_path: Path) -> None:
    """CamVid as SegNet's tutorial has it: trainannot/, 8-bit indices, and 2 is void."""
    for split in ("train", "val"):
        save(tmp_path / f"{split}/{split}.png", picture(0))
        save(tmp_path / f"{split}annot/{split}.png", class_ids())
    (tmp_path / "names.txt").write_text("sky\nroad\n")
    settings = LabelSettings(classes=str(tmp_path / "names.txt"), void=2)
    for label in labels(open_data(str(tmp_path), settings).check()).values():
        assert set(np.unique(label.semantic)) == {0, 1, VOID}


def test_colours_from_label_colors_txt_and_from_classes_yaml(tmp_path: Path) -> None:
    truth = write_semantic(tmp_path)["0001"][0]
    (tmp_path / "class_dict.csv").unlink()
    lines = [f"{r} {g} {b}\t{name}" for name, (r, g, b) in PALETTE.items()]
    (tmp_path / "label_colors.txt").write_text("\n".join(lines))
    assert np.array_equal(labels(open_data(str(tmp_path)))["0001"].semantic, truth)
    (tmp_path / "label_colors.txt").unlink()
    (tmp_path / "classes.yaml").write_text(
        "classes: [{id: 0, name: sky, kind: stuff, color: [70, 130, 180]},\n"
        " {id: 1, name: road, kind: stuff, color: [128, 64, 128]}]\nvoid: 2\nvoid_color: [0, 0, 0]"
    )
    for label in labels(open_data(str(tmp_path))).values():
        assert np.array_equal(label.semantic, truth)


def save_indexed(path: Path, ids: np.ndarray, palette: list[tuple[int, int, int]]) -> None:
    """A PNG with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(ids.astype(np.uint8), "P")
    picture.putpalette(bytes(np.array(palette, np.uint8)))
    picture.save(path)


def write_maps(root: Path, classes: str, file: str = "class_dict.csv") -> Path:
    """Two images and a class list; the maps are for the test to write, beside the one returned."""
    for i, split in enumerate(("train", "val")):
        save(root / f"{split}/{split}.png", picture(i))
        save(root / f"{split}_labels/{split}.png", np.zeros((H, W), np.uint8))
    (root / file).write_text(classes)
    return root / "train_labels/train.png"


def read_map(root: Path) -> np.ndarray:
    """The class map of the one training image."""
    data = open_data(str(root)).check()
    return read_label(data.split("train")[0], data.classes, data.void).semantic


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (5, 1, 0)])
def test_colours_of_a_palette_are_those_of_the_class_list(
    tmp_path: Path, order: tuple[int, ...]
) -> None:
    """Colour-coded maps that were saved with a palette: its order is the encoder's."""
    path = write_maps(tmp_path, "name,r,g,b\nbackground,0,0,0\nroad,255,0,0\ntree,0,255,0\n")
    palette = [(9, 9, 9)] * 6
    for place, color in zip(order, [(0, 0, 0), (255, 0, 0), (0, 255, 0)], strict=True):
        palette[place] = color
    save_indexed(path, np.array(order)[class_ids()], palette)
    assert np.array_equal(read_map(tmp_path), class_ids())


def test_indices_with_a_palette_for_the_eye_are_values(tmp_path: Path) -> None:
    """Also where it agrees with the class list in part, as in Pascal VOC, whose void is pale."""
    path = write_maps(tmp_path, "name,r,g,b\nbackground,0,0,0\nplane,128,0,0\nboat,0,128,0\n")
    ids = class_ids()
    ids[-2:] = 255
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), *[(64, 0, 128)] * 252, (224, 224, 192)]
    for palette in (voc, [(i, i, i) for i in range(256)], [(255 - i, i, 7) for i in range(256)]):
        save_indexed(path, ids, palette)
        assert np.array_equal(read_map(tmp_path), ids)


def test_black_that_begins_a_palette_for_the_eye_is_not_the_class_of_black(tmp_path: Path) -> None:
    path = write_maps(tmp_path, "name,r,g,b\nsky,70,130,180\nroad,128,64,128\nvoid,0,0,0\n")
    save_indexed(path, class_ids(), [(0, 0, 0), (31, 119, 180), (255, 127, 14)])
    assert np.array_equal(read_map(tmp_path), np.where(class_ids() == 2, VOID, class_ids()))


def test_gray_maps_are_read_by_the_grays_of_the_class_list(tmp_path: Path) -> None:
    listed = "name,r,g,b\nroad,255,255,255\nbackground,0,0,0\n"
    path = write_maps(tmp_path, listed)
    truth = np.where(class_ids() == 1, 0, 1)
    for shown in (truth == 0, truth < 0):  # the second without a road
        save(path, shown.astype(np.uint8) * 255)
        assert np.array_equal(read_map(tmp_path), np.where(shown, 0, 1))
    save(path, truth.astype(np.uint8))  # values, all the same
    assert np.array_equal(read_map(tmp_path), truth)


def test_values_of_gray_maps_are_not_taken_for_colours(tmp_path: Path) -> None:
    """A map of class 0 alone is black, which here is the colour of void."""
    path = write_maps(tmp_path, "name,r,g,b\nsky,70,130,180\nroad,255,255,255\nvoid,0,0,0\n")
    for ids in (class_ids(), np.zeros((H, W), np.uint8)):
        save(path, ids)
        assert np.array_equal(read_map(tmp_path), np.where(ids == 2, VOID, ids))


def test_every_row_that_is_void_is_void(tmp_path: Path) -> None:
    path = write_maps(tmp_path, "void\ntree\nignore\n", "codes.txt")
    save(path, class_ids())
    assert np.array_equal(read_map(tmp_path), np.where(class_ids() == 1, 1, VOID))
    (tmp_path / "codes.txt").unlink()
    path = write_maps(tmp_path, "name,r,g,b\nvoid,1,2,3\ntree,4,5,6\nignore,7,8,9\n")
    save(path, np.array([(1, 2, 3), (4, 5, 6), (7, 8, 9)], np.uint8)[class_ids()])
    assert np.array_equal(read_map(tmp_path), np.where(class_ids() == 1, 1, VOID))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("label_colors.txt", "# r g b name\n0 0 0 background\n255 0 0\troad\n0 255 0 tree\n"),
        ("label_colors.txt", "R G B Name\n0 0 0 background\n255 0 0\troad\n0 255 0 tree\n"),
        ("label_colors.txt", "0,0,0,background\n255,0,0,road\n\n0,255,0,tree\n"),
        ("classes.txt", "0,background\n1,road\n2,tree"),
        ("classes.txt", "0: background\n2 - tree\n1. road"),
        ("classes.txt", "id name\n1 road\n2 tree\n0 background\n"),
        ("codes.txt", "\ufeffbackground\r\nroad\r\n# all else\r\ntree\r\n"),
    ],
)
def test_class_lists_as_people_write_them(tmp_path: Path, file: str, text: str) -> None:
    write_maps(tmp_path, text, file)
    assert [(one.id, one.name, one.kind) for one in open_data(str(tmp_path)).classes] == [
        (0, "background", "background"), (1, "road", "stuff"), (2, "tree", "stuff")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("image", "label", "classes", "content"),
    [
        ("default/{}.png", "defaultannot/{}.png", "label_colors.txt", "{1} {2} {3} {0}"),
        ("JPEGImages/{}.png", "SegmentationClass/{}.png", "labelmap.txt", "{0}:{1},{2},{3}::"),
        ("701_StillsRaw_full/{}.png", "LabeledApproved_full/{}_L.png", "label_colors.txt",
         "{1} {2} {3}\t\t{0}"),
        ("{0}/{0}.jpg", "{0}/{0}_mask.png", "{0}/_classes.csv", "{4}, {0}"),
        ("images/{0}/{0}.jpg", "annotations/{0}/{0}.png", "objectInfo150.txt", "{5}\t0.1\t1\t{0}"),
    ],
    ids=["CVAT CamVid", "CVAT segmentation mask", "CamVid", "Roboflow", "ADE20K"],
)  # fmt: skip
def test_class_maps_as_tools_export_them(
    tmp_path: Path, image: str, label: str, classes: str, content: str
) -> None:
    headers = {"_classes.csv": "Pixel Value, Class", "objectInfo150.txt": "Idx\tRatio\tStuff\tName"}
    header = headers.get(classes.rpartition("/")[2], "# label:color_rgb:parts:actions")
    rows = [content.format(k, *rgb, i, i + 1) for i, (k, rgb) in enumerate(PALETTE.items())]
    ids = class_ids()
    first = 1 if "Idx" in header else 0
    if first:
        del rows[2]
    for i, split in enumerate(("train", "valid")):
        as_map = ids if classes.endswith("csv") else colour_map(ids)
        as_map = np.where(ids == 2, 0, ids + 1).astype(np.uint8) if first else as_map
        (tmp_path / image.format(split)).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(i)).save(tmp_path / image.format(split))
        save(tmp_path / label.format(split), as_map)
        (tmp_path / classes.format(split)).write_text("\n".join([header, *rows, ""]))
    data = open_data(str(tmp_path)).check()
    assert [spec.name for spec in data.classes] == ["sky", "road"]
    assert {one.split for one in data.images} == {"train", "val"}
    wanted = np.where(ids == 2, VOID, ids + first)
    assert all(np.array_equal(one.semantic, wanted) for one in labels(data).values())


def test_a_jpeg_tells_two_classes_in_black_and_white(tmp_path: Path) -> None:
    ids = (class_ids() == 1).astype(np.uint8)
    save(tmp_path / "images/a.png", picture(0))
    (tmp_path / "masks").mkdir()
    Image.fromarray(ids * 255).convert("RGB").save(tmp_path / "masks/a.jpg", quality=50)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,255,255,255\n")
    (label,) = labels(open_data(str(tmp_path)).check()).values()
    assert np.array_equal(label.semantic, ids)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,254,254,254\n")
    with pytest.raises(DataError, match=r"a.jpg is a JPEG, which does not keep values"):
        labels(open_data(str(tmp_path)).check())


def test_a_palette_maps_more_colours_than_there_are_classes(tmp_path: Path) -> None:
    """What the class list leaves out is void."""
    write_semantic(tmp_path)
    (tmp_path / "class_dict.csv").rename(tmp_path / "colours.csv")
    (tmp_path / "names.txt").write_text("road\n")
    settings = LabelSettings(
        classes=str(tmp_path / "names.txt"), palette=str(tmp_path / "colours.csv")
    )
    data = open_data(str(tmp_path), settings)
    semantic = read_label(data.split("train")[0], data.classes, data.void).semantic
    assert np.array_equal(semantic, np.where(class_ids() == 1, 0, VOID))


def test_a_folder_may_say_its_classes_in_colours(tmp_path: Path) -> None:
    for i, split in enumerate(["train", "val"]):
        save(tmp_path / f"images/{split}.png", picture(i))
        save(tmp_path / f"semantic/{split}.png", colour_map(np.minimum(class_ids(), 1)))
    (tmp_path / "classes.yaml").write_text(
        "classes: [{id: 3, name: sky, kind: stuff, color: [70, 130, 180]},\n"
        " {id: 4, name: road, kind: stuff, color: [128, 64, 128]}]\n"
    )
    for label in labels(open_data(str(tmp_path)).check()).values():
        assert np.array_equal(label.semantic, np.minimum(class_ids(), 1) + 3)


def test_pascal_voc_by_its_lists(tmp_path: Path) -> None:
    for i, name in enumerate(["x1", "x2", "x3", "unlabelled"]):
        save(tmp_path / f"JPEGImages/{name}.jpg", picture(i))
        if name != "unlabelled":
            save(tmp_path / f"SegmentationClass/{name}.png", np.minimum(class_ids(), 1))
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("x1\nx3\n")
    (lists / "val.txt").write_text("x2\n")
    (tmp_path / "classes.txt").write_text("background\naeroplane\n")
    data = open_data(str(tmp_path)).check()
    assert {i.name: i.split for i in data.images} == {"x1": "train", "x2": "val", "x3": "train"}
    assert [c.kind for c in data.classes] == ["background", "stuff"]
    (bare,) = data.notes
    assert str(bare).endswith("JPEGImages holds 1 image without a class map, left out: unlabelled")
    save(tmp_path / "JPEGImages/x4.jpg", picture(4))  # which leaves the splits of the others
    save(tmp_path / "SegmentationClass/x4.png", class_ids())
    more = open_data(str(tmp_path)).check()
    assert more.images == data.images
    _, note = more.notes
    assert str(note).endswith("1 of 4 images in no split; they are left out: x4")
    pair = "/JPEGImages/x{0}.jpg /SegmentationClass/x{0}.png\n"
    (lists / "train.txt").write_text("".join(pair.format(i) for i in (1, 3, 5)))
    (lists / "test.txt").write_text("x4\nx9\n")
    more = open_data(str(tmp_path)).check()
    assert [i.split for i in more.images] == ["train", "val", "train", "test"]
    _, note = more.notes
    assert str(note).startswith(f"{lists}/train.txt names 1 without a class map: /JPEGImages/x5")
    (lists / "train.txt").write_text("y1\n")
    (problem,) = open_data(str(tmp_path)).problems
    assert str(problem) == f"{lists}/train.txt names no image that has a class map"


def test_pascal_voc_itself_needs_no_list_of_classes(tmp_path: Path) -> None:
    """It has none; data of others in its layout is asked for one, whatever its maps hold."""
    write_voc(tmp_path)
    (tmp_path / "labelmap.txt").unlink()
    for folder in ("SegmentationClass", "SegmentationObject"):
        shutil.copy(tmp_path / folder / "a.png", tmp_path / folder / "b.png")
    with pytest.raises(DataError, match="has no class list"):
        open_data(str(tmp_path))
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir()
    for spec in PASCAL[1:]:
        (lists / f"{spec.name}_train.txt").write_text("a  1\n")
    data = open_data(str(tmp_path)).check()
    assert [(c.id, c.name, c.kind) for c in data.classes[:3]] == [
        (0, "background", "background"),
        (1, "aeroplane", "thing"),
        (2, "bicycle", "thing"),
    ]
    assert (len(data.classes), data.void) == (21, 255)
    assert labels(data)["a"].instances.max() == 3
    (tmp_path / "class_names.txt").write_text("_background_\ncar\nbead\n")  # as Labelme has it
    assert [c.name for c in open_data(str(tmp_path)).classes] == ["_background_", "car", "bead"]


def test_the_objects_of_pascal_voc(tmp_path: Path) -> None:
    truth = write_voc(tmp_path)
    kinds = {c.name: c.kind for c in open_data(str(tmp_path)).classes}
    assert kinds == {"background": "background", "car": "thing", "bead": "thing"}
    as_maps = open_data(str(tmp_path), LabelSettings(format="semantic")).check()
    assert [c.kind for c in as_maps.classes] == ["background", "stuff", "stuff"]
    (tmp_path / "classes.yaml").write_text(
        "classes: [{id: 0, name: background, kind: background}, {id: 1, name: car, kind: thing}, "
        "{id: 2, name: bead, kind: stuff}]\n"
    )
    for name, label in labels(open_data(str(tmp_path)).check()).items():
        semantic, instances = truth[name]
        assert np.array_equal(label.semantic, semantic), "beads without objects keep their class"
        assert np.array_equal(label.instances, np.where(semantic == 1, instances, 0))
    (tmp_path / "SegmentationObject/b.png").unlink()
    (problem,) = open_data(str(tmp_path)).problems
    assert str(problem).endswith("JPEGImages/b.png has no map of objects in SegmentationObject/")
    (tmp_path / "SegmentationObject/a.png").unlink()
    with pytest.raises(DataError, match="SegmentationObject holds no map of objects; --labels"):
        open_data(str(tmp_path), LabelSettings(format="voc"))


def test_the_border_of_objects_is_none_of_them(tmp_path: Path) -> None:
    """Also where class maps were drawn anew, and no longer hold it as void."""
    semantic, instances = write_voc(tmp_path)["a"]
    drawn = np.where(semantic == VOID, 1, semantic).astype(np.uint8)
    save(tmp_path / "SegmentationClass/a.png", drawn)
    label = labels(open_data(str(tmp_path)).check())["a"]
    assert np.array_equal(label.instances, instances)
    assert np.array_equal(label.semantic, semantic)


# Other laws


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_an_image_that_exif_turns_is_told(tmp_path: Path, suffix: str) -> None:
    write_folder(tmp_path)
    exif = Image.Exif()
    for name, orientation in (("a", 6), ("b", 1)):
        exif[ExifTags.Base.Orientation] = orientation
        (tmp_path / f"images/{name}.png").unlink()
        Image.fromarray(picture(0)).save(tmp_path / f"images/{name}.{suffix}", exif=exif)
    data = open_data(str(tmp_path)).check()
    samples = {i.name: read_sample(i, data.classes, data.void) for i in data.images}
    assert [name for name, one in samples.items() if one.label.remarks] == ["a"]
    assert samples["a"].pixels.shape == (H, W, 3)  # as it is stored


def test_ids_of_32_bits_are_renumbered_in_order(tmp_path: Path) -> None:
    ids = blocks((2, 2, 8, 9), (10, 3, 15, 12))
    for name in ("train", "val"):
        save(tmp_path / f"images/{name}.png", picture(0))
        save(tmp_path / f"labels/{name}.tif", np.array([0, 70_000, 2**32 - 1])[ids].astype("u4"))
    for label in labels(open_data(str(tmp_path))).values():
        assert np.array_equal(label.instances, ids)


@pytest.mark.parametrize(("depth", "colour_type"), [(1, 0), (2, 0), (4, 0), (1, 3), (2, 3), (4, 3)])
def test_indices_of_few_bits_are_read_as_they_are_stored(depth: int, colour_type: int) -> None:
    """Gray and palette PNGs of 1, 2 and 4 bits, which decoders spread over 8 or look up."""
    ids = np.random.default_rng(0).integers(0, 2**depth, (5, 16)).astype(np.uint8)
    bits = np.unpackbits(ids[..., None], axis=2)[..., 8 - depth :].reshape(5, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = struct.pack(">IIBBBBB", 16, 5, depth, colour_type, 0, 0, 0)
    palette = bytes(range(48)) if colour_type == 3 else b""
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind != b"PLTE"
    )
    found = decode_image(png, "x.png", ReaderSettings(), as_indices=True)
    assert np.array_equal(found[..., 0], ids)


def test_predictions_where_nobody_labelled_are_neither_right_nor_wrong() -> None:
    truth = np.zeros((H, W), np.uint8)
    truth[:10] = VOID
    found = outside_void(blocks((0, 0, 8, 8), (6, 10, 18, 14), (14, 20, 20, 25)), truth)
    assert not (found == 1).any()
    assert (found == 2).sum() == 8 * 4
    assert (found == 3).sum() == 30
    assert not found[:10].any()


def test_cityscapes_without_instances_is_semantic(tmp_path: Path) -> None:
    truth = write_cityscapes(tmp_path)
    for path in tmp_path.rglob("*_instanceIds.png"):
        path.unlink()
    data = open_data(str(tmp_path)).check()
    assert not data.has_instances
    semantic = labels(data)["ulm_1_2"].semantic
    assert (semantic[4:8, :10] == 26).all()  # nobody counts: a group is cars all the same
    assert np.array_equal(semantic[8:], truth["ulm_1_2"][0][8:])


def test_a_csv_manifest_by_its_own_uri_with_groups_to_evaluate_by(tmp_path: Path) -> None:
    ids = blocks((2, 2, 8, 9)).astype(np.uint16)
    rows = ["image,instances,split,batch"]
    for i, split in enumerate(["train", "val"]):
        save(tmp_path / f"images/00{i}.png", picture(i))
        save(tmp_path / f"truth/00{i}.png", ids)
        rows.append(f"images/00{i}.png,truth/00{i}.png,{split},{i}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    data = open_data(str(tmp_path / "list.csv")).check()
    assert [(i.name, i.split, i.attributes) for i in data.images] == [
        ("000", "train", {"batch": "0"}), ("001", "val", {"batch": "1"})
    ]  # fmt: skip
