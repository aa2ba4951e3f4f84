"""What is wrong with annotated data is said in one line each that names the thing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_sets import (
    H,
    W,
    blocks,
    coco,
    compressed,
    picture,
    rectangle,
    save,
    write_cityscapes,
    write_folder,
    write_manifest,
    write_masks,
    write_semantic,
)
from PIL import Image

from jobs._main import FAILED, run_job
from jobs.train import work
from pipeline.config import LabelSettings, TrainSettings
from pipeline.errors import DataProblems, SettingsError, TesseraError
from pipeline.labels import open_data, read_sample


def lines(uri: Path | str, settings: LabelSettings | None = None) -> str:
    """What opening and reading everything complains of."""

    def read_all() -> None:
        data = open_data(str(uri), settings).check()
        for image in data.images:
            read_sample(image, data.classes, data.void)

    with pytest.raises(TesseraError) as error:
        read_all()
    found = str(error.value)
    assert all(found.splitlines())
    return found


def one_line(uri: Path | str, settings: LabelSettings | None = None) -> str:
    found = lines(uri, settings)
    assert "\n" not in found
    return found


# COCO


def write_json(root: Path, annotation: dict[str, Any], **image: Any) -> Path:
    content = coco(["a.png"], [{"image_id": 700, "category_id": 3, **annotation}])
    content["images"][0].update(image)
    save(root / "images/a.png", picture(0))
    (root / "instances.json").write_text(json.dumps(content))
    return root / "instances.json"


GOOD = {"segmentation": rectangle(2, 2, 8, 8)}
MASK = blocks((2, 2, 8, 8)) > 0


@pytest.mark.parametrize(
    ("annotation", "line"),
    [
        ({"segmentation": [[1, 1, 5, 1, 5, 5, 1]]}, "odd number of coordinates, 7"),
        ({"segmentation": [[1, 1, 5, 1]]}, "a polygon of 2 points; it takes 3 or more"),
        ({"segmentation": [[1, 1, 5, "1", 5, 5]]}, "a coordinate that is no number"),
        ({"segmentation": [[1, 1, 5, float("nan"), 5, 5]]}, "a coordinate that is no number"),
        ({"segmentation": [[1, 1, 1e9, 1, 5, 5]]}, f"far outside of its image, {H} x {W}"),
        ({"segmentation": [5, 5, 5]}, "a polygon that is no list of coordinates"),
        ({"segmentation": {"counts": "0"}}, "without a size"),
        ({"segmentation": {"size": [H, W]}}, "without counts"),
        ({"segmentation": {"size": [H, W], "counts": [3, 4]}}, f"of 7 pixels, not {H} x {W}"),
        ({"segmentation": {"size": [H, W], "counts": [-1, H * W + 1]}}, "no whole number"),
        ({"segmentation": {"size": [H, W], "counts": "0000"}}, f"does not fill {H} x {W}"),
        ({"segmentation": {"size": [H, W], "counts": "~~~"}}, "a character that is none of it"),
        ({"segmentation": {"size": [H, W], "counts": "oo"}}, "ends within a run"),
        ({"segmentation": compressed(MASK[:, :-1])}, f"is for {H} x {W - 1}, its image {H} x {W}"),
        ({**GOOD, "category_id": 8}, "names category 8, which the file does not hold"),
        ({**GOOD, "image_id": 8}, "names image 8, which the file does not hold"),
        ({**GOOD, "image_id": [8]}, "has no image_id and category_id"),
        ({**GOOD, "image_id": 8.5}, "category_id (ids are whole numbers or text)"),
        ({**GOOD, "iscrowd": "perhaps"}, "has the iscrowd perhaps, not 0 or 1"),
    ],
)
def test_a_wrong_annotation_is_named_by_its_place(
    tmp_path: Path, annotation: dict[str, Any], line: str
) -> None:
    path = write_json(tmp_path, annotation)
    found = one_line(path)
    assert found.startswith(f"{path} annotations[0] ")
    assert line in found


@pytest.mark.parametrize(
    ("image", "line"),
    [
        ({"height": H + 1}, f"images/a.png is {H + 1} x {W}, but it is {H} x {W}"),
        ({"height": -1}, "images[0] has the size -1 x"),
        ({"height": "24.5"}, "images[0] has the size 24.5 x"),
        ({"file_name": None}, "images[0] has no id and file_name"),
        ({"file_name": "../secret.png"}, "there is no secret.png below "),
        ({"file_name": "/etc/secret.png"}, "there is no secret.png below "),
        ({"file_name": "s3://else/b.png"}, "there is no b.png below "),
    ],
)
def test_a_wrong_image_entry_is_named(tmp_path: Path, image: dict[str, Any], line: str) -> None:
    save(tmp_path / "secret.png", picture(0))
    assert line in lines(write_json(tmp_path / "data", GOOD, **image))


def test_annotations_of_an_image_that_is_a_problem_are_none(tmp_path: Path) -> None:
    found = one_line(write_json(tmp_path, GOOD, height=0))
    assert f"images[0] has the size 0 x {W}" in found


def test_a_missing_image_and_one_that_is_annotated_twice(tmp_path: Path) -> None:
    path = write_json(tmp_path, GOOD)
    content = json.loads(path.read_text())
    content["images"].append({**content["images"][0], "id": 1, "file_name": "gone.png"})
    path.write_text(json.dumps(content))
    assert one_line(path) == f"{path} image 1 is gone.png, which is not in {tmp_path}/images"
    save(tmp_path / "images/masks/gone.png", picture(1))  # of the same name, and something else
    assert one_line(path) == f"{path} image 1 is gone.png, which is not in {tmp_path}/images"
    (tmp_path / "images/masks/gone.png").unlink()
    content["images"][1]["file_name"] = "../gone.png"
    path.write_text(json.dumps(content))
    assert "has the file_name ../gone.png, outside of the folder of its images" in one_line(path)
    content["images"][1]["file_name"] = "a.png"
    path.write_text(json.dumps(content))
    assert f"images/a.png is annotated in {path} and again" in one_line(path)
    content["images"] = [{**content["images"][0], "file_name": "gone.png"}]
    path.write_text(json.dumps(content))
    assert f"there is no gone.png below {tmp_path}; say where" in one_line(path)
    elsewhere = LabelSettings(images=str(tmp_path / "elsewhere"))
    assert f"is gone.png, which is not in {tmp_path}/elsewhere" in one_line(path, elsewhere)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text[: len(text) // 2], "is not whole JSON: "),
        (lambda text: text + "{}", "is not whole JSON: more after its end at line 1"),
        (lambda text: "[]", "is not whole JSON: no '{' at line 1"),
        (lambda text: "", "is not whole JSON"),
        (lambda text: "[" * 100_000, "is not whole JSON"),
        (lambda text: '{"images": [' + "[" * 100_000, "is not readable JSON: RecursionError"),
        (lambda text: '{"images": []}', "is not a COCO instances file: it has no annotations"),
        (lambda text: text.replace("toothbrush", "car"), "has two categories named car"),
    ],
)
def test_a_damaged_json_is_one_line(
    tmp_path: Path, damage: Callable[[str], str], line: str
) -> None:
    path = write_json(tmp_path, GOOD)
    path.write_text(damage(path.read_text()))
    found = one_line(path)
    assert found.startswith(str(path))
    assert line in found


# The other formats


@pytest.mark.parametrize(
    ("annotation", "line"),
    [
        ({"bbox": [1, 1, 5, 5]}, "has no segmentation in any of 1 annotations, as for detection"),
        (
            {"segments_info": []},
            "is COCO's panoptic format, whose masks are PNG files; panopticapi",
        ),
    ],
)
def test_coco_of_another_kind_is_told_once(
    tmp_path: Path, annotation: dict[str, Any], line: str
) -> None:
    path = write_json(tmp_path, annotation)
    assert f"{path} {line}" in one_line(path)


def test_an_annotation_without_a_segmentation_among_others_is_named(tmp_path: Path) -> None:
    path = write_json(tmp_path, GOOD)
    content = json.loads(path.read_text())
    for empty in ({"segmentation": []}, {"bbox": [1, 1, 5, 5]}):
        row = {"image_id": 700, "category_id": 3, **empty}
        path.write_text(json.dumps(content | {"annotations": [*content["annotations"], row]}))
        assert one_line(path) == f"{path} annotations[1] has no segmentation"


def test_masks(tmp_path: Path) -> None:
    write_masks(tmp_path)
    save(tmp_path / "0a1b/masks/second.png", np.zeros((H, W), np.uint8))
    assert one_line(tmp_path).endswith("0a1b/masks/second.png holds no object: every pixel is 0")
    save(tmp_path / "0a1b/masks/second.png", np.ones((H, W + 1), np.uint8))
    assert f"masks/second.png is {H} x {W + 1}, " in one_line(tmp_path)
    for path in (tmp_path / "0a1b/masks").iterdir():
        path.rename(path.with_suffix(".gif"))
    (tmp_path / "none/images").mkdir(parents=True)
    save(tmp_path / "none/images/none.png", picture(3))
    save(tmp_path / "0c2d/images/more.png", picture(3))
    (tmp_path / "only/masks").mkdir(parents=True)
    save(tmp_path / "only/masks/a.png", np.ones((H, W), np.uint8))
    assert lines(tmp_path).splitlines() == [
        f"{tmp_path}/only has masks but no image",
        f"{tmp_path}/0a1b/images/0a1b.png has no mask: masks/ holds first.gif, which is no PNG, "
        "JPEG, TIFF, BMP, WebP or JPEG 2000 image",
        f"{tmp_path}/0c2d/images holds more than one image",
        f"{tmp_path}/none/images/none.png has no mask: there is no masks/; an empty one says that "
        "there is no object",
    ]


def test_class_maps(tmp_path: Path) -> None:
    write_semantic(tmp_path)
    label = tmp_path / "train_labels/0001_L.png"
    save(label, np.full((H, W, 3), 9, np.uint8))
    found = one_line(tmp_path)
    assert found == f"{label} holds colours that the palette does not name: [(9, 9, 9)]"
    save(label, np.full((H, W), 9, np.uint8))
    found = one_line(tmp_path)
    assert found == f"{label} holds class ids that the class list does not name: [9]"
    label.unlink()
    assert one_line(tmp_path).endswith("train/0001.png has no class map in train_labels/")
    classes = tmp_path / "class_dict.csv"
    text = classes.read_text()
    classes.write_text(text.replace("128", "328", 1))
    assert "class_dict.csv: 328 64 128 is no colour" in one_line(tmp_path)
    classes.write_text(text.replace("70,130,180", "0,0,0"))
    assert "class_dict.csv: the colour (0, 0, 0) stands for two classes" in one_line(tmp_path)
    classes.write_text("label,red\n")
    assert "class_dict.csv needs a header with the columns name, r, g, b" in one_line(tmp_path)
    classes.write_text(text)
    assert "the value 0 is both void and sky" in one_line(tmp_path, LabelSettings(void=0))
    classes.unlink()
    assert "has no class list (classes.yaml, class_dict.csv" in (found := one_line(tmp_path))
    assert "write classes.txt, a name a line in the order of ids" in found
    (tmp_path / "codes.txt").write_text("sky\nroad\n")
    (tmp_path / "colours.txt").write_text("1 2 3 sky\n")
    settings = LabelSettings(palette=str(tmp_path / "colours.txt"))
    assert one_line(tmp_path, settings).endswith("colours.txt has no colour for road")


def test_values_and_colours_that_differ(tmp_path: Path) -> None:
    """A palette that names classes of the list, and others by its values."""
    write_semantic(tmp_path)
    label = tmp_path / "val_labels/0002_L.png"
    for palette, line in (
        ([128, 64, 128, 9, 9, 9], "means other classes by its values than by the colours"),
        ([0, 0, 0, 9, 9, 9], "means other classes by its values than by the colours"),
    ):
        indexed = Image.new("P", (W, H))
        indexed.putpalette(palette)
        indexed.putpixel((0, 0), int(palette[0] > 0))  # of no class, beside a colour of one
        indexed.save(label)
        assert line in one_line(tmp_path)
    indexed = Image.new("P", (W, H), 7)
    indexed.putpalette([9] * 24)
    indexed.save(label)
    assert one_line(tmp_path).endswith(
        "does not name: [7], nor their colours in its palette: [(9, 9, 9)]"
    )


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [
        ("class_dict.csv", "name,r,g,b\nsky,1,1,1\n,2,2,2\n", "row 2 has no name"),
        ("label_colors.txt", "colours\n1 1 1 sky", "the line 'colours' is not 'r g b name'"),
        ("codes.txt", "0 sky\nroad\n2 tree", "the line 'road' is not 'id name', as others are"),
        ("codes.txt", "7 sky\n900 road", "has the id 900; ids are 0 to 254"),
        ("codes.txt", "7 sky\n7 road", "two classes have the same id or name"),
    ],
)
def test_a_wrong_class_list(tmp_path: Path, file: str, text: str, line: str) -> None:
    write_semantic(tmp_path)
    (tmp_path / "class_dict.csv").unlink()
    (tmp_path / file).write_text(text)
    assert f"{file}" in (found := one_line(tmp_path))
    assert line in found


def test_cityscapes(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    city = tmp_path / "gtFine/train/aachen"
    save(city / "aachen_0_0_gtFine_labelIds.png", np.full((H, W), 200, np.uint8))
    assert "labelIds.png holds 200; Cityscapes' label ids are 0 to 33" in one_line(tmp_path)
    (city / "aachen_0_0_gtFine_instanceIds.png").unlink()
    (tmp_path / "gtFine/val/ulm/ulm_1_2_gtFine_labelIds.png").unlink()
    instances, semantic = lines(tmp_path).splitlines()
    assert "has no instances: aachen_0_0_gtFine_instanceIds.png is missing" in instances
    assert "has no label: ulm_1_2_gtFine_labelIds.png is missing" in semantic


def test_a_manifest(tmp_path: Path) -> None:
    write_manifest(tmp_path)
    parquet = tmp_path / "manifest.parquet"
    (tmp_path / "pictures/val/x.png").unlink()
    found = one_line(tmp_path)
    assert found == f"{parquet} row 2 names {tmp_path}/pictures/val/x.png, which does not exist"
    parquet.write_bytes(parquet.read_bytes()[:-20])
    assert one_line(tmp_path).startswith(f"{parquet} is not Parquet: ")
    write_manifest(tmp_path)
    whole = parquet.read_bytes()
    parquet.write_bytes(whole[:4] + b"\xff" * 100 + whole[104:])  # pages, behind a good footer
    assert one_line(tmp_path).startswith(f"{parquet} is not Parquet: ")
    parquet.unlink()
    table = tmp_path / "list.csv"
    table.write_text("image,split\na.png,train\n")
    assert "needs rows with the columns image, and instances or semantic" in one_line(table)
    table.write_text(
        "image,instances,split\n,b,train\npictures/train/x.png,,train\n"
        "pictures/train/x.png,truth/0-objects.tif,train\n"
        "./pictures/train/x.png,truth/0-objects.tif,train\n"
    )
    (tmp_path / "classes.yaml").unlink()
    assert lines(table).splitlines() == [
        f"{table} row 1 names no image",
        f"{table} row 2 names no label for {tmp_path}/pictures/train/x.png",
        f"{table} names x twice",
    ]


@pytest.mark.parametrize("column", ["", ",image,instances"])
def test_a_word_that_is_no_split(tmp_path: Path, column: str) -> None:
    write_folder(tmp_path)
    cells = ",images/a.png,labels/a.png" if column else ""
    (tmp_path / "manifest.csv").write_text(f"name,split{column}\na,tarin{cells}\n")
    assert "names the split tarin for a; it takes train, val or test" in one_line(tmp_path)
    (tmp_path / "manifest.csv").write_text(
        f"name,split{column}\na,train{cells}\nb,{cells.replace('a.', 'b.')}\n"
    )
    assert "names no split for b" in one_line(tmp_path)


def test_object_ids(tmp_path: Path) -> None:
    write_folder(tmp_path)
    save(tmp_path / "labels/d.tif", np.full((H, W), -3, np.int32))
    assert "labels/d.tif holds ids below 0" in one_line(tmp_path)
    save(tmp_path / "labels/d.tif", np.full((H, W), 0.5, np.float32))
    assert "labels/d.tif takes one channel of integer ids, not 1 of float32" in one_line(tmp_path)
    (tmp_path / "labels/d.tif").unlink()
    Image.fromarray(blocks((2, 2, 8, 9)).astype(np.uint8)).save(tmp_path / "labels/d.jpg")
    assert "labels/d.jpg is a JPEG, which does not keep ids" in one_line(tmp_path)
    (tmp_path / "labels/d.jpg").unlink()
    gray = np.where(blocks((2, 2, 8, 9)) > 0, 80, 0).astype(np.uint8)
    Image.fromarray(255 - gray).quantize(4).save(tmp_path / "labels/d.png")
    assert one_line(tmp_path).endswith("is not black; save plain integers")
    indexed = Image.fromarray(blocks((2, 2, 8, 9)).astype(np.uint8), "P")
    indexed.putpalette([0, 0, 0, 200, 10, 90])  # as Pascal VOC keeps them
    indexed.save(tmp_path / "labels/d.png")
    data = open_data(str(tmp_path)).check()
    found = {i.name: read_sample(i, data.classes, data.void).label for i in data.images}
    assert np.array_equal(found["d"].instances, blocks((2, 2, 8, 9)))


# Which format it is


def test_an_image_too_large_to_train_on_at_once(tmp_path: Path) -> None:
    write_folder(tmp_path)
    image = next((tmp_path / "images").iterdir())
    Image.new("1", (10_001, 10_000)).save(image)
    end = "over the limit of 100,000,000; cut it into smaller images"
    assert one_line(tmp_path).startswith(str(image))
    assert one_line(tmp_path).endswith(end)


def test_data_of_no_format_and_of_two(tmp_path: Path) -> None:
    assert one_line(tmp_path).endswith("holds nothing: there is no such folder, or it is empty")
    save(tmp_path / "pictures/a.png", picture(0))
    found = one_line(tmp_path)
    assert "holds annotations of no known format. Looked for: folder: images/ with" in found
    assert all(name in found for name in ("masks: ", "coco: ", "semantic: ", "cityscapes: "))
    write_folder(tmp_path)
    write_cityscapes(tmp_path)
    assert "could be of the formats folder and cityscapes; say which with --labels.format" in (
        one_line(tmp_path)
    )
    assert open_data(str(tmp_path), LabelSettings(format="cityscapes")).images


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("a.json", "a.json: export as COCO, which is one JSON file for many images"),
        (
            "train/labels/a.txt",
            "train/labels/a.txt: put the images of YOLO's text files into images/",
        ),
        ("a_seg.npy", "a_seg.npy: let Cellpose save the masks"),
        ("Train/Labels/a.mat", "Labels/a.mat: save each image and each map of object ids as PNG"),
        ("Annotations/a.xml", "Annotations/a.xml: draw its outlines as label images"),
        ("Train/Labels/a.nii.gz", "Labels/a.nii.gz: save each slice of a volume as PNG or TIFF"),
        (
            "SegmentationClass/a.png",
            "SegmentationClass: put the images of its maps into JPEGImages/",
        ),
        ("gtFine_trainvaltest/gtFine/a", "/gtFine_trainvaltest: put leftImg8bit/ and gtFine/"),
    ],
)
def test_annotations_that_are_not_read_are_recognised(tmp_path: Path, file: str, line: str) -> None:
    save(tmp_path / "images/a.png", picture(0))
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("{}")
    assert f"holds annotations of no known format, but {tmp_path}" in one_line(tmp_path)
    assert line in one_line(tmp_path)


def test_data_one_folder_below_is_pointed_at(tmp_path: Path) -> None:
    write_masks(tmp_path / "stage1_train")
    assert one_line(tmp_path).endswith(f"but {tmp_path}/stage1_train does (masks): give that")


def test_class_maps_where_object_ids_are_expected(tmp_path: Path) -> None:
    """labels/ are object ids, unless the format is named."""
    save(tmp_path / "images/a.png", np.zeros((H, W, 3), np.uint8))
    save(tmp_path / "labels/a.png", np.zeros((H, W), np.uint8))
    (tmp_path / "classes.yaml").write_text("classes: [{id: 0, name: sky, kind: stuff}]\n")
    assert "--labels.format semantic reads them" in one_line(tmp_path)
    assert open_data(str(tmp_path), LabelSettings(format="semantic")).check().format == "semantic"


def test_a_setting_that_would_be_passed_over_is_refused(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    with pytest.raises(SettingsError, match=r"labels\.void means nothing to the format cityscapes"):
        open_data(str(tmp_path), LabelSettings(void=3))


@pytest.mark.parametrize(
    "name", ["coco", "masks", "semantic", "voc", "cityscapes", "nnunet", "manifest", "folder"]
)
def test_a_format_that_is_asked_for_says_what_is_missing(tmp_path: Path, name: Any) -> None:
    (tmp_path / "codes.txt").write_text("sky\n")
    assert str(tmp_path) in one_line(tmp_path, LabelSettings(format=name))


def test_training_prints_every_problem_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "data")
    for name in ("a.png", "c.tif"):
        (tmp_path / "data/labels" / name).unlink()
    flags = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "model")]
    assert run_job(TrainSettings, work, flags) == FAILED
    images = tmp_path / "data/images"
    assert capsys.readouterr().err.splitlines() == [
        f"error: {images}/{name}.png has no label: neither labels/{name}.* nor semantic/"
        for name in "ac"
    ]
    assert not (tmp_path / "model").exists()


def test_problems_survive_the_way_from_another_process() -> None:
    given = DataProblems(("a is wrong", "b is wrong"))
    kind, arguments = given.__reduce__()[:2]
    assert str(kind(*arguments)) == "a is wrong\nb is wrong"


def test_more_classes_than_a_map_has_values_are_refused_with_what_to_do(tmp_path: Path) -> None:
    write_semantic(tmp_path)
    (tmp_path / "class_dict.csv").unlink()
    listed = [f"  - {{id: {k}, name: kind {k}, kind: stuff}}" for k in range(300)]
    (tmp_path / "classes.yaml").write_text("\n".join(["classes:", *listed]))
    assert "classes.255.id: ids go from 0 to 254, so a model tells up to 255 classes" in one_line(
        tmp_path
    )
