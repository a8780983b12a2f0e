"""From a folder to a new one: what is written, what is said, and what is refused."""

import hashlib
import json
import stat
import zipfile

import pytest
from PIL import Image
from rich.console import Console

from richsem_schemas.annotations import read_annotations
from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config
from richsem_train.console import ConsoleReporter
from richsem_train.own_data.make import NewRequest, found_content, make_new
from tests.detection_trees import HW, write
from tests.pictures import encoded, jpeg

QUIET = ConsoleReporter(Console(quiet=True))


def new(data, out, **more):
    given = {
        "images": None,
        "teacher": "demo",
        "base": None,
        "changes": (),
        "near_copies": False,
        "seed": 0,
        "hours": 8.0,
        "device": "cpu",
    }
    return make_new(NewRequest(data=data, out=out, **given | more), QUIET)


def coco(folder, boxes, *, names=("cat", "dog"), first_id=1, **image):
    """A picture for each list of (class, box), and one JSON file."""
    images, annotations = [], []
    for number, objects in enumerate(boxes):
        write(folder / "photos" / f"{number}.jpg", jpeg(number, HW))
        images.append({"id": number, "file_name": f"{number}.jpg", "height": HW[0], "width": HW[1], **image})
        annotations += [{"image_id": number, "category_id": label, "bbox": box} for label, box in objects]
    categories = [{"id": first_id + number, "name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write(folder / "labels.json", json.dumps(content))
    return folder


BOX = [5, 5, 20, 20]


def problems(made):
    return {what: count for what, count, _ in made.found.data.export.problems}


def test_annotations_of_the_new_folder_are_read_by_the_trainer_and_the_configs_are_whole(tmp_path):
    data = coco(tmp_path / "data", [[(0, BOX)], [(0, BOX), (1, [0, 0, 9, 9])], [(1, BOX)], []], first_id=0)
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    made = new(data, tmp_path / "mine")
    mine = tmp_path / "mine"
    assert {path.name for path in mine.iterdir()} == {
        *("annotations", "names.txt", "config.yaml", "hard_labels.yaml", "commands.sh", "found.json"),
    }
    config = load_config(mine / "config.yaml")
    train, val = (
        read_annotations(split.annotations, split.images, file_format="coco", is_scored=True)
        for split in (config.detection.train, config.detection.val)
    )
    assert [(category.id, category.name) for category in train.categories] == [(1, "cat"), (2, "dog")]
    assert {category.frequency for category in val.categories} <= {"r", "c", "f"}
    assert len(train) + len(val) == 4
    assert len(train.category_ids) + len(val.category_ids) == 4
    assert load_config(mine / "hard_labels.yaml").model.needs_text is False
    assert (mine / "names.txt").read_text() == "cat\ndog\n"
    assert (mine / "commands.sh").stat().st_mode & stat.S_IXUSR
    assert json.loads((mine / "found.json").read_text()) == json.loads(json.dumps(found_content(made)))
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_boxes_are_cleaned_and_each_problem_is_counted_with_its_record(tmp_path):
    boxes = [
        [(1, BOX), (1, BOX), (1, [60, 40, 20, 20]), (1, [-50, 0, 20, 20]), (1, [1, 1, 0, 5]), (2, BOX)],
        [(1, BOX)],
    ]
    made = new(coco(tmp_path / "data", boxes), tmp_path / "mine")
    assert problems(made) == {
        "boxes given twice, taken once": 1,
        "boxes of zero or negative size left out": 1,
        "boxes outside of their picture left out": 1,
        "boxes clipped by more than a pixel": 1,
    }
    assert made.found.data.boxes == 4


def test_names_that_differ_by_case_are_one_class(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(2, BOX)], [(2, BOX)]], names=("Cat", "cat", "dog"))
    made = new(data, tmp_path / "mine")
    assert [each.name for each in made.found.classes] == ["cat"]
    assert problems(made)["classes without a box, left out"] == 1


def test_pictures_without_labels_and_labels_without_pictures_are_counted(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)], [(1, BOX)]])
    (data / "photos" / "1.jpg").rename(data / "photos" / "other.jpg")
    made = new(data, tmp_path / "mine")
    assert problems(made) == {
        "labels of pictures that aren't there, left out": 1,
        "pictures without labels, left out": 1,
        "classes without a box, left out": 1,
    }


def test_absolute_names_of_another_machine_are_found_by_their_ends(tmp_path):
    boxes = [[(1, BOX)], [(1, BOX)]]
    data = coco(tmp_path / "data", boxes)
    content = json.loads((data / "labels.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"/home/somebody/sets/photos/{image['file_name']}"
    (data / "labels.json").write_text(json.dumps(content))
    # Pictures of the same names elsewhere agree in fewer parts.
    write(data / "old" / "0.jpg", jpeg(7, HW))
    made = new(data, tmp_path / "mine")
    assert {str(each.file) for each in (*made.found.split.train, *made.found.split.val)} == {
        str(data / "photos" / f"{number}.jpg") for number in range(2)
    }


def test_pictures_of_another_size_have_their_boxes_scaled_and_those_of_another_shape_are_left_out(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)], [(1, BOX)]])
    write(data / "photos" / "0.jpg", jpeg(0, (2 * HW[0], 2 * HW[1])))
    write(data / "photos" / "1.jpg", jpeg(1, HW[::-1]))
    write(data / "photos" / "3.jpg", jpeg(3, HW))
    with pytest.raises(RichSemError, match="at least 2"):
        new(coco(tmp_path / "few", [[(1, BOX)]]), tmp_path / "mine")
    made = new(data, tmp_path / "mine")
    boxes = {each.file.name: each.boxes_xywh_px.tolist() for each in made.found.data.pictures}
    assert boxes == {"0.jpg": [[10, 10, 40, 40]], "2.jpg": [BOX]}
    assert problems(made)["pictures of another shape than their labels say, left out"] == 1


def test_turned_pictures_are_taken_upright(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)]])
    exif = Image.Exif()
    exif[0x0112] = 6
    write(data / "photos" / "0.jpg", encoded(Image.new("RGB", HW), "JPEG", exif=exif))
    made = new(data, tmp_path / "mine")
    assert {each.hw for each in made.found.data.pictures} == {HW}


def test_the_same_picture_in_train_and_val_is_left_out_of_train(tmp_path):
    for split, numbers in (("train", range(4)), ("valid", (3, 9))):
        for number in numbers:
            write(tmp_path / "data" / split / "images" / f"{split}_{number}.jpg", jpeg(number, HW))
            write(tmp_path / "data" / split / "labels" / f"{split}_{number}.txt", "0 .5 .5 .5 .5")
    write(tmp_path / "data" / "data.yaml", "names: [cat]\ntrain: ../train/images\nval: ../valid/images\n")
    made = new(tmp_path / "data", tmp_path / "mine")
    assert [each.file.name for each in made.found.split.leaked] == ["train_3.jpg"]
    assert (len(made.found.split.train), len(made.found.split.val), made.found.data.copies) == (3, 2, 1)
    assert "1 pictures of train are in val" in " ".join(made.found.warnings())


def test_a_thousand_classes_and_one_are_read(tmp_path):
    names = [f"class {number}" for number in range(1000)]
    boxes = [[(1 + (number + shift) % 1000, BOX) for shift in range(10)] for number in range(0, 1000, 5)]
    many = new(coco(tmp_path / "many", boxes, names=names), tmp_path / "mine_many")
    assert len(many.found.classes) == 1000
    assert {each.frequency for each in many.found.classes} <= {"r", "c", "f"}
    one = new(coco(tmp_path / "one", [[(1, BOX)], [(1, BOX)]]), tmp_path / "mine_one")
    assert [(each.train_pictures, each.val_pictures) for each in one.found.classes] == [(1, 1)]


def test_a_class_of_one_box_is_learnt_and_it_is_said_that_it_is_not_scored(tmp_path):
    made = new(coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)], [(2, BOX)]]), tmp_path / "mine")
    assert made.found.classes[1].train_pictures == 1
    assert "no picture of val shows dog" in made.found.warnings()[0]


def zipped(data, archive):
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(data.rglob("*")):
            if path.is_file():
                file.write(path, path.relative_to(data))
    return archive


def test_an_archive_is_unpacked_into_the_new_folder(tmp_path):
    archive = zipped(coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)]]), tmp_path / "export.zip")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    made = new(archive, tmp_path / "mine")
    assert made.images == tmp_path / "mine" / "unpacked"
    config = load_config(tmp_path / "mine" / "config.yaml")
    assert len(read_annotations(config.detection.train.annotations, config.detection.train.images)) == 1
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg"])
def test_members_that_would_leave_the_folder_are_refused(name, tmp_path):
    archive = zipped(coco(tmp_path / "data", [[(1, BOX)]]), tmp_path / "export.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, b"x")
    with pytest.raises(RichSemError, match="would lie outside of the folder"):
        new(archive, tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "export.zip"]


def test_bombs_links_and_broken_archives_are_refused(tmp_path):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.txt", "w", force_zip64=True) as member:
        for _ in range(1100):
            member.write(bytes(2**20))
    with pytest.raises(RichSemError, match=r"would unpack to 1.2 GB, more than 100 times"):
        new(bomb, tmp_path / "mine")
    link = tmp_path / "link.zip"
    with zipfile.ZipFile(zipped(coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)]]), link), "a") as file:
        info = zipfile.ZipInfo("photos/2.jpg")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    assert len(new(link, tmp_path / "linked").found.data.pictures) == 2
    write(tmp_path / "cut.zip", link.read_bytes()[:100])
    with pytest.raises(RichSemError, match="a damaged archive"):
        new(tmp_path / "cut.zip", tmp_path / "mine")


REFUSED = {
    "two formats": "holds annotations in 2 formats: COCO JSON (labels.json); YOLO (photos/0.txt). Only one is read",
    "no annotations": "no annotations found",
    "nothing": "neither pictures nor annotations",
    "a class without a name": "a.txt line 1: class 5, and",
    "pixels": "these seem to be pixels",
    "no names": "labels of YOLO's without names of their classes",
    "an unknown category": "has the category_id 9, which `categories` doesn't list",
    "two pictures of one id": "a box can't tell which it is of",
    "none": "a class is called 'none'",
    "a document type": "has a document type",
    "no boxes": "not one box is left",
    "two files": "their names don't tell one split each",
    "names that are no text": "quote it",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_with_rule_and_remedy_and_nothing_is_written(case, tmp_path):
    data = tmp_path / "data"
    if case in ("two formats", "two files"):
        coco(data, [[(1, BOX)], [(1, BOX)]])
        write(data / "photos" / "0.txt", "0 .5 .5 .5 .5") if case == "two formats" else None
        write(data / "more.json", (data / "labels.json").read_bytes()) if case == "two files" else None
    elif case in ("no annotations", "nothing"):
        write(data / "a.jpg", jpeg(0, HW)) if case == "no annotations" else data.mkdir()
    elif case == "an unknown category":
        coco(data, [[(9, BOX)]])
    elif case == "two pictures of one id":
        coco(data, [[(1, BOX)], [(1, BOX)]], id=3)
    elif case == "none":
        coco(data, [[(1, BOX)]], names=("none",))
    elif case == "no boxes":
        coco(data, [[], []])
    elif case == "a document type":
        write(data / "a.jpg", jpeg(0, HW))
        write(data / "a.xml", '<?xml version="1.0"?><annotation/>')
        write(data / "b.xml", '<!DOCTYPE a [<!ENTITY b "cc">]><annotation>&b;</annotation>')
        write(data / "a.xml", "<!DOCTYPE a><annotations/>")
        assert "holds annotations in 2 formats" in refusal(data, tmp_path)
        (data / "b.xml").unlink()
        assert REFUSED[case] in refusal(data, tmp_path)
        write(data / "a.xml", "<annotations>" + " " * 20_000 + "<!DOCTYPE a></annotations>")
        assert "not well-formed" in refusal(data, tmp_path)
        return
    else:
        table = {"no names": None, "names that are no text": "names: [no, yes]"}.get(case, "names: [cat]")
        row = {"pixels": "0 30 20 10 10", "a class without a name": "5 .5 .5 .1 .1"}.get(case, "0 .5 .5 .1 .1")
        write(data / "a.jpg", jpeg(0, HW))
        write(data / "a.txt", row)
        if table is not None:
            write(data / "data.yaml", table)
    assert REFUSED[case] in refusal(data, tmp_path)


def refusal(data, tmp_path):
    with pytest.raises(RichSemError) as error:
        new(data, tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    return str(error.value)


def test_a_folder_that_is_there_and_one_within_the_data_are_refused(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)]])
    with pytest.raises(RichSemError, match="lies in"):
        new(data, data / "mine")
    new(data, tmp_path / "mine")
    with pytest.raises(RichSemError, match="is there already"):
        new(data, tmp_path / "mine")


def test_a_file_with_its_pictures_elsewhere_is_read(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)]])
    (data / "labels.json").rename(write(tmp_path / "apart" / "x", "").parent / "train.json")
    with pytest.raises(RichSemError, match=r"no pictures below it; name their folder with --images|neither pictures"):
        new(tmp_path / "apart" / "train.json", tmp_path / "mine")
    made = new(tmp_path / "apart" / "train.json", tmp_path / "mine", images=data)
    assert made.images == data


def test_size_and_epochs_follow_the_hours_that_are_allowed(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)] for _ in range(20)])
    plans = [new(data, tmp_path / f"mine_{hours}", hours=hours, device="cuda").plan for hours in (1, 0.02, 0.001)]
    assert [(plan.side_px, plan.epochs, plan.steps, plan.fits) for plan in plans] == [
        (640, 100, 400, True),
        (480, 100, 400, True),
        (320, 100, 400, False),
    ]


def test_values_given_by_set_reach_both_configs_and_a_wrong_one_leaves_nothing(tmp_path):
    data = coco(tmp_path / "data", [[(1, BOX)], [(1, BOX)]])
    with pytest.raises(RichSemError, match="unknown key"):
        new(data, tmp_path / "mine", changes=["schedule.epoch=1"])
    new(data, tmp_path / "mine", changes=["schedule.epochs=7", "detection.augmentation.side=96"])
    for name in ("config.yaml", "hard_labels.yaml"):
        assert load_config(tmp_path / "mine" / name).schedule.epochs == 7
    assert "--scale-jitter 96,0.5,1.5" in (tmp_path / "mine" / "commands.sh").read_text()
