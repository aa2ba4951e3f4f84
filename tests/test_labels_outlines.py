"""Files of outlines, one an image: Labelme's, QuPath's, YOLO's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from label_sets import H, W, blocks, corners, labelme, picture, save

from pipeline.config import LabelSettings
from pipeline.errors import DataProblems, TesseraError
from pipeline.exporting.geojson import outline
from pipeline.labels import AnnotatedData, open_data, read_sample
from pipeline.records import Label

IDS = blocks((2, 2, 8, 9), (10, 3, 15, 12), (12, 20, 20, 29))


def opened(root: Path, **settings: Any) -> tuple[AnnotatedData, dict[str, Label]]:
    data = open_data(str(root), LabelSettings(**settings)).check()
    assert data.format == "outlines"
    samples = (read_sample(image, data.classes, data.void) for image in data.images)
    return data, {sample.name: sample.label for sample in samples}


def names(data: AnnotatedData) -> list[str]:
    return [spec.name for spec in data.classes]


def yolo(*boxes: tuple[int, int, int, int], number: int = 0) -> str:
    lines = []
    for box in boxes:
        shares = [f"{x / W:.8f} {y / H:.8f}" for x, y in corners(*box)]
        lines.append(f"{number} {' '.join(shares)}\n")
    return "".join(lines)


def feature(geometry: dict[str, Any], name: str | None = "tumor") -> dict[str, Any]:
    said = {"classification": {"name": name, "color": [200, 0, 0]}} if name else {}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "cell", **said}}


def write_geojson(path: Path, features: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def runs(mask: np.ndarray) -> np.ndarray:
    """(R, 3) x, y0, y1 of single pixels."""
    y, x = np.nonzero(mask)
    return np.stack([x, y, y + 1], 1)


def test_what_is_exported_for_qupath_is_what_is_read_back(tmp_path: Path) -> None:
    """Round and ragged objects, with holes and in parts, to the pixel."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    ring = (np.hypot(y - 8, x - 8) < 7) & (np.hypot(y - 8, x - 8) > 3)
    ragged = (rng.random((H, W)) < 0.6) & (x > 18)
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", picture(0))
        geometries = [json.loads(shapely.to_geojson(outline(runs(m)))) for m in (ring, ragged)]
        write_geojson(tmp_path / f"annotations/{name}.png.geojson", [*map(feature, geometries)])
    data, labels = opened(tmp_path)
    assert names(data) == ["background", "tumor"]
    for label in labels.values():
        assert np.array_equal(label.instances, ring * 1 + ragged * 2)


def test_a_feature_without_a_class_is_an_object(tmp_path: Path) -> None:
    ring = [*corners(2, 2, 8, 9), [2, 2]]
    for name in ("a", "b"):
        save(tmp_path / f"{name}.tif", picture(0))
        write_geojson(tmp_path / f"{name}.geojson",
                      [feature({"type": "Polygon", "coordinates": [ring]}, None)])  # fmt: skip
    data, labels = opened(tmp_path)
    assert names(data) == ["background", "object"]
    assert (labels["a"].instances == (IDS == 1)).all()


@pytest.mark.parametrize("inside", [True, False])
def test_yolo_in_either_order_of_folders(tmp_path: Path, inside: bool) -> None:
    """Classes in data.yaml's order; an image without a file is one without objects."""
    for i, split in enumerate(["train", "val"]):
        parts = ("{}", split) if inside else (split, "{}")
        where = "/".join(parts)
        for name in (f"{split}-a", f"{split}-b"):
            save(tmp_path / where.format("images") / f"{name}.png", picture(i))
        text = tmp_path / where.format("labels") / f"{split}-a.txt"
        text.parent.mkdir(parents=True)
        text.write_text(yolo((2, 2, 8, 9)) + yolo((10, 3, 15, 12), number=2))
    (tmp_path / "data.yaml").write_text("path: x\nnames: [zebra, mouse, ant]\n")
    data, labels = opened(tmp_path)
    assert names(data) == ["background", "zebra", "mouse", "ant"]
    assert {image.name: image.split for image in data.images} == {
        "train-a": "train", "train-b": "train", "val-a": "val", "val-b": "val",
    }  # fmt: skip
    assert (labels["val-a"].semantic == np.where(IDS == 2, 3, IDS == 1)).all()
    assert not labels["val-b"].instances.any()
    assert "2 images without outlines, taken for empty: train-b, val-b" in str(data.notes[0])


def test_labelme_where_coco_is_looked_for(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", picture(0))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        shape = {"label": "cell", "points": corners(2, 2, 8, 9)}
        (tmp_path / f"annotations/{name}.json").write_text(labelme([shape]))
    _, labels = opened(tmp_path)
    assert (labels["b"].instances == (IDS == 1)).all()


def test_images_that_nobody_outlined_are_left_out(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png", picture(0))
    for name in ("a", "b"):
        shape = {"label": "cell", "points": corners(2, 2, 8, 9)}
        (tmp_path / f"{name}.json").write_text(labelme([shape]))
    data, labels = opened(tmp_path)
    assert set(labels) == {"a", "b"}
    assert "has 1 image without outlines, left out: c" in str(data.notes[0])


def test_a_class_list_says_what_is_stuff(tmp_path: Path) -> None:
    """And what its id is; stuff lies under things."""
    shapes = [
        {"label": "cell", "points": corners(2, 2, 8, 9)},
        {"label": "tissue", "points": corners(0, 0, 12, 20)},
        {"label": "cell", "points": [[20, 18], [24, 18]], "shape_type": "circle"},
    ]
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", picture(0))
        (tmp_path / f"{name}.json").write_text(labelme(shapes))
    (tmp_path / "classes.yaml").write_text(
        "classes: [{id: 0, name: none, kind: background}, {id: 4, name: tissue, kind: stuff}, "
        "{id: 7, name: cell, kind: thing}]"
    )
    _, labels = opened(tmp_path)
    label = labels["a"]
    assert (label.semantic[:12, :20] == np.where(IDS[:12, :20] == 1, 7, 4)).all()
    assert label.instances.max() == 2
    assert abs((label.instances == 2).sum() - np.pi * 16) < 4


def test_what_is_to_be_ignored_is_void(tmp_path: Path) -> None:
    """As QuPath's class of that name, and Labelme's."""
    for name, void in (("a", "Ignore*"), ("b", "__ignore__")):
        save(tmp_path / f"{name}.png", picture(0))
        shapes = [
            {"label": "cell", "points": corners(2, 2, 8, 9)},
            {"label": void, "points": corners(0, 0, 12, 20)},
        ]
        (tmp_path / f"{name}.json").write_text(labelme(shapes))
    data, labels = opened(tmp_path)
    assert names(data) == ["background", "cell"]
    for label in labels.values():
        assert (label.semantic[:12, :20] == np.where(IDS[:12, :20] == 1, 1, data.void)).all()


@pytest.mark.parametrize(
    ("file", "content", "line"),
    [
        ("a.json", labelme([{"points": corners(2, 2, 8, 9)}]), "a.json shapes[0] has no label"),
        ("a.json", labelme([{"label": "c", "points": [[1, 2], [3, 4]]}]), "polygon of 2 points"),
        (
            "a.json",
            labelme([{"label": "c", "points": [[1, 2]], "shape_type": "point"}]),
            "shapes[0] is a point; polygons, rectangles and circles are read",
        ),
        (
            "a.json",
            labelme([{"label": "c", "points": [[1, 2]], "shape_type": "circle"}]),
            "shapes[0] is a circle without two points",
        ),
        (
            "a.json",
            labelme([{"label": "c", "points": corners(2, 2, 8, 9)}], imageHeight=99),
            "but it is 24 x 30",
        ),
        ("a.json", '{"shapes": [', "a.json is not whole JSON"),
        ("a.geojson", "[1]", "a.geojson features[0] has no geometry"),
        (
            "a.geojson",
            json.dumps([feature({"type": "Point", "coordinates": [1, 2]})]),
            "features[0] is a Point; polygons and multipolygons are read",
        ),
        (
            "a.geojson",
            json.dumps([feature({"type": "Polygon", "coordinates": []})]),
            "features[0] has no coordinates",
        ),
        (
            "a.geojson",
            json.dumps([feature({"type": "Polygon", "coordinates": [[["x", 1]] * 4]})]),
            "features[0] has a polygon with a coordinate that is no number",
        ),
        ("a.txt", "0 0.5 0.5 0.1 0.1", "a.txt line 1 is a box, as for detection; export as seg"),
        ("a.txt", "cat 0.5 0.5", "a.txt line 1 begins with cat, not with the number of a class"),
        ("a.txt", "0 0.1 0.2 x 0.3", "a.txt line 1 is not a class and numbers"),
        ("a.txt", "0 1 2 30 4 5 6", "a.txt line 1 has points in pixels"),
        ("a.txt", "0 nan nan 0 1 1 1", "a coordinate that is no number"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_place(
    tmp_path: Path, file: str, content: str, line: str
) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"{name}.png", picture(0))
    (tmp_path / file).write_text(content)
    with pytest.raises(TesseraError) as error:
        opened(tmp_path)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_one_bad_file_of_many_is_a_problem_beside_the_others(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / f"{name}.png", picture(0))
        shape = {"label": "cell", "points": corners(2, 2, 8, 9)}
        (tmp_path / f"{name}.json").write_text(labelme([shape]))
    (tmp_path / "b.json").write_text(labelme([])[:-9])
    data = open_data(str(tmp_path))
    assert {image.name for image in data.images} == {"a", "c"}
    with pytest.raises(DataProblems, match=r"b\.json is not whole JSON"):
        data.check()


def test_a_number_without_a_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / f"images/{name}.png", picture(0))
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{name}.txt").write_text(yolo((2, 2, 8, 9), number=3))
    data, _ = opened(tmp_path)
    assert names(data) == ["background", "class 3"]
    (tmp_path / "labels/classes.txt").write_text("ant\nbee\n")
    with pytest.raises(TesseraError, match="files name class 3, of 2 in all"):
        opened(tmp_path)
