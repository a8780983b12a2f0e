from pathlib import Path

import numpy as np
import pytest

from richsem_schemas.annotations import Category, check_vocabulary, read_annotations
from richsem_schemas.errors import SourceError
from tests.schemas.annotations.coco_content import BROKEN, annotation, category, content, image, read, written

COCO128 = Path(__file__).parents[4] / "shared" / "data" / "coco128"


@pytest.fixture(scope="module")
def coco128() -> Path:
    if not COCO128.is_dir():
        pytest.skip(f"no real pictures at {COCO128}")
    return COCO128


def boxes_of(data):
    return data.boxes_xywh_px.tolist()


@pytest.mark.parametrize("file_format", ["lvis", "coco"])
def test_boxes_are_grouped_by_picture_in_the_order_of_the_file(root, file_format):
    annotations = [
        annotation(1, image_id=2, bbox=[0, 0, 1, 1]),
        annotation(2, image_id=1, bbox=[0, 0, 2, 2], category_id=7),
        annotation(3, image_id=2, bbox=[0, 0, 3.5, 3]),
    ]
    data = read(root, content([image(2), image(1)], annotations, [category(7, "dog"), category()]), file_format)
    assert data.image_ids.tolist() == [2, 1]
    assert data.offsets.tolist() == [0, 2, 3]
    assert boxes_of(data) == [[0, 0, 1, 1], [0, 0, 3.5, 3], [0, 0, 2, 2]]
    assert data.category_ids.tolist() == [1, 1, 7]
    assert data.boxes_xywh_px.dtype == np.float32
    assert data.hws_px.tolist() == [[40, 60], [40, 60]]
    assert [category.id for category in data.categories] == [1, 7]
    assert data.num_rows == 8
    assert data.problem_lines() == []
    boxes, ids = data.objects(1)
    assert boxes.tolist() == [[0, 0, 2, 2]]
    assert ids.tolist() == [7]


def test_pictures_without_boxes_stay(root):
    data = read(root, content([image(1), image(2)], []), "lvis")
    assert len(data) == 2
    assert data.offsets.tolist() == [0, 0, 0]
    assert data.objects(1)[0].shape == (0, 4)


@pytest.mark.parametrize("file_format", ["lvis", "coco"])
def test_segmentations_are_not_needed_and_not_read(root, file_format):
    data = read(root, content(annotations=[annotation(segmentation="nonsense"), annotation(2)]), file_format)
    assert len(data.category_ids) == 2


def test_boxes_that_cannot_be_learned_from_are_left_out_or_clipped_and_counted(root):
    boxes = {
        "zero": [5, 5, 0, 5],
        "negative": [5, 5, -3, 5],
        "nan": [float("nan"), 5, 5, 5],
        "infinite": [5, 5, float("inf"), 5],
        "right of the picture": [61, 5, 5, 5],
        "at its very border": [60, 5, 5, 5],
        "above": [5, -9, 5, 9],
        "reaching out": [-10, 30, 20, 20],
        "rounded": [59.5, 5, 0.9, 5],
        "good": [1, 2, 3, 4],
    }
    records = [annotation(number, bbox=box) for number, box in enumerate(boxes.values())]
    data = read(root, content(annotations=[*records, annotation(99, iscrowd=1)]))
    assert boxes_of(data) == [[0, 30, 10, 10], [59.5, 5, 0.5, 5], [1, 2, 3, 4]]
    assert data.problem_lines() == [
        "1 crowd regions left out",
        "2 boxes with NaN or infinite numbers left out",
        "2 boxes of zero or negative size left out",
        "3 boxes outside of their picture left out",
        "1 boxes clipped by more than a pixel",
    ]


def test_boxes_of_astronomic_size_are_clipped_without_overflow(root):
    with np.errstate(all="raise"):
        data = read(root, content(annotations=[annotation(bbox=[-1e300, -1e300, 1e305, 1e305])]))
    assert boxes_of(data) == [[0, 0, 60, 40]]


def test_counts_of_the_file_are_kept(root):
    categories = [category(1, "a", image_count=300, frequency="f"), category(3, "b", image_count=0, frequency="r")]
    data = read(root, content(categories=categories), "lvis")
    assert data.categories == (Category(1, "a", "f", 300), Category(3, "b", "r", 0))
    assert data.image_counts(5).tolist() == [0, 300, 0, 0, 0]


@pytest.mark.parametrize("given", [{}, {"image_count": 0}, {"image_count": None}, {"image_count": "3"}])
def test_counts_are_of_pictures_where_the_file_has_none(root, given):
    annotations = [annotation(1), annotation(2), annotation(3, image_id=2), annotation(4, category_id=2, iscrowd=1)]
    categories = [category(1, "a", **given), category(2, "b", **given)]
    data = read(root, content([image(1), image(2)], annotations, categories))
    assert data.categories == (Category(1, "a", None, 2), Category(2, "b", None, 0))


def test_pictures_of_lvis_are_found_in_both_folders_of_coco(root):
    images = [
        image(1, file_name=None, coco_url="http://images.cocodataset.org/train2017/1.png"),
        image(2, file_name=None, coco_url="http://images.cocodataset.org/val2017/2.png"),
    ]
    data = read(root, content(images), "lvis")
    assert data.files == ("train2017/1.png", "val2017/2.png")
    assert data.path(1) == root / "val2017" / "2.png"


def test_pictures_of_lvis_are_found_where_the_root_is_their_very_folder(root):
    images = [image(1, file_name=None, coco_url="http://images.cocodataset.org/train2017/1.png")]
    path = written(root.parent, content(images))
    assert read_annotations(path, root / "train2017").files == ("1.png",)


def test_file_name_goes_before_coco_url(root):
    images = [image(1, file_name="1.png", coco_url="http://images.cocodataset.org/train2017/1.png")]
    assert read(root, content(images), "lvis").files == ("1.png",)


def test_a_missing_picture_is_named_with_each_rule(root):
    images = [image(1), image(77, coco_url="http://host/val2017/77.png")]
    images[0]["coco_url"] = "http://host/train2017/1.png"
    with pytest.raises(SourceError) as caught:
        read(root, content(images), "lvis")
    for part in ("77.png (its file_name)", "val2017/77.png (the last two parts of its coco_url)", str(root)):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["../1.png", "/etc/passwd", "a/../../1.png", "", "./", "x\0.png", 3])
def test_names_cannot_leave_the_folder_of_the_pictures(root, name):
    with pytest.raises(SourceError, match="stays in the folder"):
        read(root, content([image(1), image(2, file_name=name)]))


def test_the_end_of_a_url_cannot_leave_the_folder_of_the_pictures(root):
    with pytest.raises(SourceError, match="stays in the folder"):
        read(root, content([image(1, file_name=None, coco_url="http://host/../1.png")]))


def test_a_picture_without_any_name_is_refused(root):
    with pytest.raises(SourceError, match="`file_name` or a `coco_url`"):
        read(root, content([image(1, file_name=None)]))


def test_a_missing_folder_of_pictures_is_named(root):
    with pytest.raises(SourceError, match="no such folder"):
        read_annotations(written(root.parent, content()), root / "absent")


@pytest.mark.parametrize("file_format", ["lvis", "coco"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_gives_one_clear_error(root, name, file_format):
    dataset, message = BROKEN[name]
    with pytest.raises(SourceError, match=message) as caught:
        read(root, dataset, file_format)
    assert "annotations.json" in str(caught.value)


@pytest.mark.parametrize("file_format", ["lvis", "coco"])
def test_a_missing_file_is_named(root, file_format):
    with pytest.raises(SourceError, match=r"absent\.json.*No such file"):
        read_annotations(root / "absent.json", root, file_format=file_format)


def test_a_compressed_file_is_refused(root):
    path = root.parent / "annotations.json"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(50))
    with pytest.raises(SourceError, match="compressed"):
        read_annotations(path, root)


def test_a_vocabulary_that_fits_passes_even_with_more_classes(root):
    data = read(root, content(categories=[category(1, "cat"), category(3, "dog")]))
    check_vocabulary(data, ["none", "cat", "other", "dog", "more"])


def test_a_vocabulary_that_does_not_fit_is_refused_by_name(root):
    data = read(root, content(categories=[category(1, "cat"), category(2, "dog"), category(9, "hen")]))
    with pytest.raises(SourceError, match="2 is 'dog' here, 'wolf' there; 9 is 'hen' here, no row there"):
        check_vocabulary(data, ["none", "cat", "wolf"])


def test_real_files_in_both_formats_hold_the_same_boxes(coco128):
    lvis = read_annotations(coco128 / "annotations/lvis_style_train.json", coco128)
    coco = read_annotations(coco128 / "annotations/instances_train2017.json", coco128 / "train2017", file_format="coco")
    assert (len(lvis), len(coco)) == (128, 128)
    assert (lvis.num_rows, coco.num_rows) == (1204, 91)
    assert coco.problem_lines() == ["10 crowd regions left out"]
    # Two of COCO's boxes are of the one category that LVIS doesn't have.
    assert len(coco.category_ids) - len(lvis.category_ids) == 2
    assert {tuple(box) for box in boxes_of(lvis)} <= {tuple(box) for box in boxes_of(coco)}


def test_real_boxes_equal_those_of_pycocotools(coco128, capsys):
    from pycocotools.coco import COCO

    path = coco128 / "annotations/instances_train2017.json"
    data = read_annotations(path, coco128 / "train2017", file_format="coco")
    oracle = COCO(path)
    capsys.readouterr()
    for index, image_id in enumerate(data.image_ids.tolist()):
        records = oracle.loadAnns(oracle.getAnnIds(image_id, iscrowd=False))
        boxes, ids = data.objects(index)
        np.testing.assert_allclose(boxes.reshape(-1, 4), np.reshape([r["bbox"] for r in records], (-1, 4)), atol=0.02)
        assert ids.tolist() == [record["category_id"] for record in records]
    assert {c.name: c.image_count for c in data.categories} == {
        record["name"]: len(
            {a["image_id"] for a in oracle.anns.values() if a["category_id"] == id_ and not a["iscrowd"]}
        )
        for id_, record in oracle.cats.items()
    }


@pytest.mark.parametrize("name", ["./1.png", "train2017//1.png", "train2017/./1.png", ".//train2017/1.png"])
def test_names_with_dots_and_doubled_slashes_are_relative_names(root, name):
    data = read(root, content([image(1, file_name=name)]))
    assert data.files == (name.replace(".//", "").replace("./", "").replace("//", "/"),)
    assert data.path(0).is_file()


@pytest.mark.parametrize(
    "name",
    ["/data/coco/1.png", "http://host/a/1.png", "file:///a/1.png", "C:\\pics\\1.png", "C:/pics/1.png", "\\\\s\\1.png"],
)
def test_absolute_names_and_addresses_are_refused_with_the_part_that_would_be_found(root, name):
    with pytest.raises(SourceError, match=r"Its last part is there: write '1\.png' in the place of the whole name"):
        read(root, content([image(1, file_name=name)]))


def test_names_with_backslashes_are_refused_with_the_part_that_would_be_found(root):
    with pytest.raises(SourceError, match=r"Its last part is there: write '1\.png'"):
        read(root, content([image(1, file_name="pics\\1.png")]))
    with pytest.raises(SourceError, match=r"Write names as they are below .*pictures, with `/` between folders"):
        read(root, content([image(1, file_name="train2017\\9.png")]))


def test_absolute_names_of_which_no_part_is_found_are_told_how_names_begin(root):
    with pytest.raises(SourceError, match=r"Write names as they are below .*pictures"):
        read(root, content([image(1, file_name="/data/9.png")]))
    with pytest.raises(SourceError) as caught:
        read(root, content([image(1, file_name="../1.png")]))
    assert "last part" not in str(caught.value)


def test_category_id_0_is_read(root):
    categories = [category(0, "zero"), category(5, "five")]
    data = read(
        root, content(annotations=[annotation(1, category_id=0), annotation(2, category_id=5)], categories=categories)
    )
    assert [(each.id, each.image_count) for each in data.categories] == [(0, 1), (5, 1)]
    assert data.category_ids.tolist() == [0, 5]
    with pytest.raises(SourceError, match="0 is 'none' here"):
        check_vocabulary(read(root, content(annotations=[], categories=[category(0, "none")])), ["none"])


def test_what_a_scored_file_leaves_out_is_said_as_the_metric_has_it(root):
    boxes = [[5, 5, 0, 5], [float("nan"), 5, 5, 5], [70, 5, 5, 5], [-10, 30, 20, 20], [1, 2, 3, 4]]
    records = [annotation(number, bbox=box) for number, box in enumerate(boxes)]
    path = written(root.parent, content(annotations=[*records, annotation(99, iscrowd=1)]))
    data = read_annotations(path, root, file_format="coco", is_scored=True)
    assert data.problem_lines() == [
        "1 boxes with NaN or infinite numbers left out",
        "1 boxes of zero or negative size, which no detection matches",
    ]
    assert data.scored.boxes.boxes_xywh.tolist() == [boxes[0], *boxes[2:], [10, 10, 20, 20]]
    assert data.scored.boxes.is_crowd.tolist() == [False] * 4 + [True]
    assert len(data.category_ids) == 2
