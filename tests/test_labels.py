"""Annotated folders: what is read, how it is split, and one line for what is wrong."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.config import MethodSettings
from pipeline.errors import DataError, SettingsError
from pipeline.labels import open_data, read_sample
from pipeline.records import VOID
from pipeline.survey.configure import decide_method
from pipeline.synthetic import make_scene, write_annotated


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two gray images with instances, and no classes."""
    for i in range(12):
        scene = make_scene(40, 50, 5, i)
        save(tmp_path / f"images/im{i}.png", scene.image)
        save(tmp_path / f"labels/im{i}.png", scene.label.instances.astype(np.uint16))
    return tmp_path


def test_labels_alone_make_one_class_of_things(folder: Path) -> None:
    data = open_data(str(folder), val_fraction=0.3)
    sample = read_sample(data.images[0], data.classes, data.void)
    assert [spec.kind for spec in data.classes] == ["background", "thing"]
    assert np.array_equal(sample.label.semantic, (sample.label.instances > 0).astype(np.uint8))
    assert decide_method(MethodSettings(), data).name == "instance"


def test_classes_and_semantic_maps(annotated: str) -> None:
    data = open_data(annotated, val_fraction=0.3)
    sample = read_sample(data.split("train")[0], data.classes, data.void)
    assert [spec.name for spec in data.classes] == ["background", "tissue", "cell", "crystal"]
    assert set(np.unique(sample.label.semantic)) <= {0, 1, 2, 3}
    assert sample.label.instances.max() > 3
    assert len(data.split("val")) == 4


def test_split_by_name_is_stable(folder: Path) -> None:
    before = {image.name: image.split for image in open_data(str(folder), val_fraction=0.3).images}
    assert set(before.values()) == {"train", "val"}
    for i in range(12, 16):
        save(folder / f"images/im{i}.png", np.zeros((8, 8), np.uint8))
        save(folder / f"labels/im{i}.png", np.zeros((8, 8), np.uint16))
    after = {image.name: image.split for image in open_data(str(folder), val_fraction=0.3).images}
    assert before.items() <= after.items()


def test_the_only_image_trains(folder: Path) -> None:
    """Whatever its hash, and also where a list says so."""
    for i in range(12):
        (folder / "manifest.csv").write_text(f"name,split\nim{i},train\n")
        assert [image.split for image in open_data(str(folder)).images] == ["train"]


def test_void_is_kept_apart(tmp_path: Path) -> None:
    write_annotated(str(tmp_path), [(30, 30), (30, 30)], ["train", "val"], seed=9)
    path = tmp_path / "semantic/scene-0009.png"
    semantic = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    semantic[:5] = 200
    save(path, semantic)
    classes = tmp_path / "classes.yaml"
    classes.write_text(classes.read_text() + "void: 200\n")
    data = open_data(str(tmp_path), val_fraction=0.3)
    sample = read_sample(data.split("train")[0], data.classes, data.void)
    assert (sample.label.semantic[:5] == VOID).all()
    assert (sample.label.semantic[5:] != VOID).all()


def test_problems_are_one_line_that_names_the_file(folder: Path) -> None:
    uri = str(folder)

    def read_all() -> None:
        data = open_data(uri, val_fraction=0.3).check()
        for image in data.images:
            read_sample(image, data.classes, data.void)

    def problem() -> str:
        with pytest.raises(DataError) as error:
            read_all()
        assert "\n" not in str(error.value)
        return str(error.value)

    save(folder / "labels/im3.png", np.zeros((40, 51), np.uint16))
    assert problem() == f"{uri}/labels/im3.png is 40 x 51, its image 40 x 50"
    save(folder / "labels/im3.png", np.tile(np.uint8([1, 2, 3]), (40, 50, 1)))
    assert "labels/im3.png takes one channel of integer ids, not 3 of uint8" in problem()
    (folder / "labels/im3.png").write_bytes(b"")
    assert "labels/im3.png the file has no bytes" in problem()
    (folder / "labels/im3.png").unlink()
    assert "images/im3.png has no label" in problem()
    (folder / "manifest.csv").write_text("name,fold\nim1,train\n")
    assert "manifest.csv needs a header with the columns name and split" in problem()
    (folder / "manifest.csv").write_text("name,split\nim1,train\nnone,val\n")
    assert "manifest.csv names none, of which there is no image" in problem()
    (folder / "manifest.csv").unlink()
    save(folder / "semantic/im1.png", np.zeros((40, 50), np.uint8))
    assert "classes.yaml is missing" in problem()
    (folder / "classes.yaml").write_text("classes: [{id: 0, name: a, kind: sort}]\n")
    assert "classes.yaml: classes.0.kind" in problem()


def test_unknown_class_ids_are_named(tmp_path: Path) -> None:
    write_annotated(str(tmp_path), [(30, 30), (30, 30)], ["train", "val"], seed=9)
    save(tmp_path / "semantic/scene-0009.png", np.full((30, 30), 77, np.uint8))
    data = open_data(str(tmp_path), val_fraction=0.3)
    with pytest.raises(
        DataError, match=r"holds class ids that the class list does not name: \[77\]"
    ):
        read_sample(data.split("train")[0], data.classes, data.void)


def test_settings_that_the_labels_cannot_serve(folder: Path) -> None:
    data = open_data(str(folder), val_fraction=0.3)
    with pytest.raises(SettingsError, match="class_weights takes 2 weights"):
        decide_method(MethodSettings(class_weights=[1.0, 2.0, 3.0]), data)
    for path in (folder / "labels").iterdir():
        save(folder / "semantic" / path.name, np.zeros((40, 50), np.uint8))
        path.unlink()
    (folder / "classes.yaml").write_text(
        "classes: [{id: 0, name: a, kind: stuff}, {id: 1, name: b, kind: thing}]\n"
    )
    semantic_only = open_data(str(folder), val_fraction=0.3)
    assert decide_method(MethodSettings(), semantic_only).name == "semantic"
    with pytest.raises(SettingsError, match="instance needs labelled objects"):
        decide_method(MethodSettings(name="instance"), semantic_only)
