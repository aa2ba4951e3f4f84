"""nnU-Net's raw data sets, as people who come from there have them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_sets import H, W, class_ids, picture, save, write_nnunet

from pipeline.errors import DataError, TesseraError
from pipeline.labels import open_data, read_label


def describe(root: Path, labels: Any) -> None:
    (root / "dataset.json").write_text(json.dumps({"labels": labels}))


def line(root: Path) -> str:
    """What opening it complains of, in one line."""
    with pytest.raises(TesseraError) as error:
        open_data(str(root)).check()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_was_kept_to_test_on_is_a_split_where_it_is_labelled(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    save(tmp_path / "imagesTs/z_0000.tif", picture(7))
    (tmp_path / "labelsTs").mkdir()
    data = open_data(str(tmp_path)).check()
    assert ({image.split for image in data.images}, data.notes) == ({"train", "val"}, ())
    save(tmp_path / "labelsTs/z.tif", class_ids())
    data = open_data(str(tmp_path)).check()
    assert [image.name for image in data.split("test")] == ["z"]


def test_images_to_test_on_stop_no_training(tmp_path: Path) -> None:
    """Whether they are labelled or not, and where they are called as images to train on are."""
    write_nnunet(tmp_path)
    for name in ("a", "y", "z"):
        save(tmp_path / f"imagesTs/{name}_0000.tif", picture(7))
    save(tmp_path / "labelsTs/a.tif", class_ids())
    data = open_data(str(tmp_path)).check()
    assert [image.name for image in data.split("test")] == ["test/a"]
    (note,) = data.notes
    assert str(note).endswith("labelsTs has no class map of 2 images, left out: y, z")


def test_a_list_names_what_to_validate_on(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    for name in ("a", "b_1"):
        (tmp_path / "val.txt").write_text(f"{name}\n")
        data = open_data(str(tmp_path)).check()
        assert [image.name for image in data.split("val")] == [name]


def test_a_name_may_end_in_a_number_of_its_own(tmp_path: Path) -> None:
    """Also where that of the channel lacks: it is no channel."""
    write_nnunet(tmp_path)
    save(tmp_path / "imagesTr/c_0001_0000.tif", picture(3))
    save(tmp_path / "imagesTr/d_0001.tif", picture(4))
    for name in ("c_0001", "d_0001"):
        save(tmp_path / f"labelsTr/{name}.tif", class_ids())
    names = [image.name for image in open_data(str(tmp_path)).check().images]
    assert sorted(names) == ["a", "b_1", "c_0001", "d_0001"]


def test_labels_of_its_first_version(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    now = open_data(str(tmp_path))
    describe(tmp_path, {"0": "background", "1": "road", "2": "ignore"})
    before = open_data(str(tmp_path))
    assert before.classes == now.classes
    assert [(spec.name, spec.kind) for spec in now.classes] == [
        ("background", "background"),
        ("road", "stuff"),
    ]
    for image in now.images:
        first, second = (read_label(image, d.classes, d.void) for d in (now, before))
        assert np.array_equal(first.semantic, second.semantic)


def test_channels_in_files_of_their_own_are_told_how_to_become_one(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    save(tmp_path / "imagesTr/a_0001.tif", np.zeros((H, W), np.uint8))
    assert "a_0001.* is a channel of an image in several files; join those" in line(tmp_path)


def test_volumes_are_told_to_be_saved_as_slices(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    for file in (tmp_path / "imagesTr").iterdir():
        file.rename(file.with_suffix(".nii.gz"))
    assert "imagesTr/a_0000.nii.gz: save each slice of a volume as PNG or TIFF" in line(tmp_path)


def test_nothing_but_the_label_ignore_is_void(tmp_path: Path) -> None:
    """Masks of 0 and 255 would otherwise hold nothing but background."""
    write_nnunet(tmp_path)
    describe(tmp_path, {"background": 0, "cell": 1})
    for path in (tmp_path / "labelsTr").iterdir():
        save(path, (class_ids() > 0).astype(np.uint8) * 255)
    data = open_data(str(tmp_path)).check()
    with pytest.raises(DataError, match=r"class ids that the class list does not name: \[255\]"):
        read_label(data.images[0], data.classes, data.void)


def test_the_list_of_labels_is_asked_for(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    (tmp_path / "dataset.json").unlink()
    assert "dataset.json is missing: it names the classes, as in {" in line(tmp_path)


def test_images_and_maps_without_one_another(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    save(tmp_path / "imagesTr/c_0000.tif", picture(3))
    save(tmp_path / "labelsTr/e.tif", class_ids())
    data = open_data(str(tmp_path))
    assert [str(problem).rpartition("/imagesTr/")[2] for problem in data.problems] == [
        "c_0000.tif has no class map in labelsTr/",
    ]
    (note,) = data.notes
    assert str(note).endswith("holds 1 map of which there is no image in imagesTr/: e")


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, "labels is no list of names with ids"),
        ({"background": 0, "whole": [1, 2], "core": [2]}, "whole is a region of several labels"),
        ({"background": 0, "road": "first"}, "road has the id 'first', which is no whole number"),
        ({"background": 0, "a": 1, "b": 1}, "labels takes names with ids of their own, from 0"),
        ({"background": 0, "a": 300}, "labels takes names with ids of their own, from 0 to 254"),
        ({}, "labels takes names with ids of their own"),
    ],
)
def test_a_wrong_list_of_labels(tmp_path: Path, labels: Any, said: str) -> None:
    write_nnunet(tmp_path)
    describe(tmp_path, labels)
    assert said in line(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    assert "dataset.json is not nnU-Net's: it is JSON with the key labels" in line(tmp_path)
