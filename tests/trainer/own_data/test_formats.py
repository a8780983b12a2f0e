"""Each format is read as hotcoco reads it, or as its documentation has it."""

import json
from pathlib import Path

import hotcoco
import numpy as np
import pytest
from rich.console import Console

from richsem_train.console import ConsoleReporter
from richsem_train.own_data.formats import read_export
from richsem_train.own_data.listing import list_files
from tests.detection_trees import HW, write
from tests.own_folders import FORMATS, NAMES, make_folder
from tests.pictures import jpeg

QUIET = ConsoleReporter(Console(quiet=True))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A COCO file of 5 pictures, one of them without boxes, and the folder of the pictures."""
    folder = tmp_path_factory.mktemp("source")
    images, annotations = [], []
    for number in range(5):
        name = f"pic_{number}.jpg"
        write(folder / "pictures" / name, jpeg(number, HW))
        images.append({"id": number + 1, "file_name": name, "height": HW[0], "width": HW[1]})
        for box in range(number):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": 1 + (number + box) % 2,
                    "bbox": [3 + 2 * box, 4, 10 + box, 20],
                    "area": 20 * (10 + box),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "big dog"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write(folder / "instances.json", json.dumps(content)), folder / "pictures"


def read(folder, file=None):
    return read_export(list_files(folder, QUIET), file, QUIET)


def boxes_by_stem(export):
    """Of each picture its names and boxes in pixels, sorted."""
    found = {}
    for record in export.pictures:
        boxes = record.boxes_xywh * (np.tile(HW[::-1], 2) if export.are_relative else 1)
        stem = Path(record.name).stem.split("-")[-1]
        rows = [(export.class_names[label], *box) for label, box in zip(record.labels, boxes.round(2), strict=True)]
        found[stem] = sorted((name, *map(float, box)) for name, *box in rows)
    return found


def boxes_of_coco(coco):
    names = {category["id"]: category["name"] for category in coco.dataset["categories"]}
    found = {Path(image["file_name"]).stem: [] for image in coco.dataset["images"]}
    stems = {image["id"]: Path(image["file_name"]).stem for image in coco.dataset["images"]}
    for annotation in coco.dataset["annotations"]:
        box = [round(float(number), 2) for number in annotation["bbox"]]
        found[stems[annotation["image_id"]]].append((names[annotation["category_id"]], *box))
    return {stem: sorted(boxes) for stem, boxes in found.items()}


@pytest.mark.parametrize("kind", FORMATS)
def test_boxes_of_each_format_are_those_of_the_source(kind, source, tmp_path):
    export = read(make_folder(kind, *source, tmp_path / kind))
    assert export.format_name == NAMES[kind]
    assert boxes_by_stem(export) == boxes_of_coco(hotcoco.COCO(str(source[0])))
    assert list(export.problems) == []


def test_voc_and_cvat_are_read_as_hotcoco_reads_them(source, tmp_path):
    voc, cvat = (make_folder(kind, *source, tmp_path / kind) for kind in ("voc", "cvat"))
    assert boxes_by_stem(read(voc)) == boxes_of_coco(hotcoco.COCO.from_voc(str(voc)))
    assert boxes_by_stem(read(cvat)) == boxes_of_coco(hotcoco.COCO.from_cvat(str(cvat / "annotations.xml")))


def test_yolo_is_read_as_hotcoco_reads_it(source, tmp_path):
    folder = tmp_path / "flat"
    hotcoco.COCO(str(source[0])).to_yolo(str(folder))
    for picture in source[1].iterdir():
        (folder / picture.name).symlink_to(picture)
    theirs = hotcoco.COCO.from_yolo(str(folder), images_dir=str(source[1]))
    assert boxes_by_stem(read(folder)) == boxes_of_coco(theirs)


def yolo(folder, rows, table="names: [cat, dog]\n", name="a"):
    write(folder / "images" / "train" / f"{name}.jpg", jpeg(0, HW))
    write(folder / "labels" / "train" / f"{name}.txt", rows)
    write(folder / "data.yaml", table)
    return folder


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "{'0': cat, '1': dog}", "\n  - cat\n  - dog"])
def test_names_of_yolo_are_a_list_or_a_mapping(names, tmp_path):
    export = read(yolo(tmp_path, "1 .5 .5 .5 .5\n", f"names: {names}\n"))
    assert boxes_by_stem(export) == {"a": [("dog", 16.0, 12.0, 32.0, 24.0)]}


def test_polygons_of_yolo_are_read_by_their_bounds(tmp_path):
    export = read(yolo(tmp_path, "0 .25 .5 .75 .25 .5 1\n"))
    assert boxes_by_stem(export) == {"a": [("cat", 16.0, 12.0, 32.0, 36.0)]}
    assert [count for _, count, _ in export.problems] == [1]


@pytest.mark.parametrize(
    "table",
    [
        "path: /home/somebody/set\ntrain: images/train\nval: images/val\n",
        "train: ../images/train\nval: ../images/val\n",
        "path: C:\\sets\\mine\ntrain: C:\\sets\\mine\\images\\train\nval: [images/val]\n",
        "train: train.txt\nval: val.txt\n",
    ],
)
def test_splits_of_yolo_are_found_wherever_the_paths_start(table, tmp_path):
    yolo(tmp_path, "0 .5 .5 .5 .5\n", f"names: [cat]\n{table}")
    write(tmp_path / "images" / "val" / "b.jpg", jpeg(1, HW))
    write(tmp_path / "labels" / "val" / "b.txt", "")
    write(tmp_path / "train.txt", "/home/somebody/set/images/train/a.jpg\n")
    write(tmp_path / "val.txt", "./images/val/b.jpg\n")
    assert {record.name: record.split for record in read(tmp_path).pictures} == {"a.jpg": "train", "b.jpg": "val"}


def test_bounds_of_turned_boxes_are_hand_computed():
    from richsem_train.own_data.records import turned_bounds

    # A quarter turn clockwise, y down: about the centre (30, 25); about the corner (10, 20) it falls to its left.
    assert turned_bounds((10, 20, 40, 10), 90) == pytest.approx((25, 5, 10, 40))
    assert turned_bounds((10, 20, 40, 10), 90, about_corner=True) == pytest.approx((0, 20, 10, 40))


def test_polygons_and_twice_listed_pictures_of_coco_are_read(tmp_path):
    write(tmp_path / "a.jpg", jpeg(0, HW))
    image = {"id": 7, "file_name": "C:\\somewhere\\a.jpg"}
    content = {
        "images": [image, image],
        "annotations": [
            {"image_id": 7, "category_id": 0, "bbox": [], "segmentation": [[1, 2, 11, 2, 11, 22]]},
            {"image_id": 7, "category_id": 0, "segmentation": {"size": [1, 1], "counts": ""}},
            {"image_id": 8, "category_id": 0, "bbox": [1, 1, 2, 2]},
        ],
        "categories": [{"id": 0, "name": "cat"}],
    }
    write(tmp_path / "any.json", json.dumps(content))
    export = read(tmp_path)
    assert boxes_by_stem(export) == {"C:\\somewhere\\a": [("cat", 1.0, 2.0, 10.0, 20.0)]}
    assert {(what.split(",")[0], count) for what, count, _ in export.problems} == {
        ("categories with the id 0", 1),
        ("pictures listed twice under one id", 1),
        ("polygons in the place of boxes", 1),
        ("annotations without a box or a polygon", 1),
        ("boxes of pictures that `images` doesn't list", 1),
    }


def test_lvis_keeps_what_its_pictures_were_looked_through_for(tmp_path):
    write(tmp_path / "a.jpg", jpeg(0, HW))
    content = {
        "images": [
            {
                "id": 1,
                "coco_url": "http://images.cocodataset.org/a.jpg",
                "height": HW[0],
                "width": HW[1],
                "neg_category_ids": [5],
                "not_exhaustive_category_ids": [3],
            }
        ],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 3, "name": "cat", "frequency": "r"}, {"id": 5, "name": "dog", "frequency": "f"}],
    }
    write(tmp_path / "lvis.json", json.dumps(content))
    export = read(tmp_path)
    (record,) = export.pictures
    assert (export.format_name, export.frequencies) == ("LVIS JSON", ("r", "f"))
    assert (record.negatives, record.not_exhaustive) == ((1,), (0,))


def test_subsets_of_cvat_are_splits_and_shapes_without_boxes_are_counted(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jpg", jpeg(0, HW))
    write(
        tmp_path / "annotations.xml",
        """<annotations><version>1.1</version>
        <image id="0" name="a.jpg" subset="Train" width="64" height="48">
          <box label="cat" xtl="1" ytl="2" xbr="11" ybr="22" rotation="90"/><points label="cat" points="1,2"/>
          <ellipse label="cat" cx="20" cy="20" rx="5" ry="10"/></image>
        <image id="1" name="b.jpg" subset="Validation" width="64" height="48">
          <mask label="dog" left="3" top="4" width="5" height="6" rle="1, 2"/><tag label="cat"/></image>
        </annotations>""",
    )
    export = read(tmp_path)
    assert [record.split for record in export.pictures] == ["train", "val"]
    assert boxes_by_stem(export) == {
        "a": [("cat", -4.0, 7.0, 20.0, 10.0), ("cat", 15.0, 10.0, 10.0, 20.0)],
        "b": [("dog", 3.0, 4.0, 5.0, 6.0)],
    }
    assert sum(count for what, count, _ in export.problems if "have no box" in what) == 2
