"""The boxes that teachers are compared on: every class has some, and equal shares where there are enough."""

import json

import numpy as np
import pytest

from richsem_prep.teacher_choice.sample import draw_sample, shares
from richsem_schemas.annotations import read_annotations
from richsem_schemas.errors import SourceError
from tests.pipeline.analyses.split import content, write_split


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("split"))


def drawn(split, boxes, seed=0):
    return draw_sample(read_annotations(split / "val.json", split), "val.json", boxes=boxes, seed=seed)


@pytest.mark.parametrize(
    ("counts", "boxes", "expected"),
    [
        ([0, 5, 1, 100], 12, [0, 5, 1, 6]),
        ([0, 50, 1, 100], 11, [0, 5, 1, 5]),
        ([0, 50, 1, 100], 12, [0, 6, 1, 5]),
        # Each class has one, however few are asked for; and no more than there are.
        ([0, 5, 1, 100], 2, [0, 1, 1, 1]),
        ([0, 5, 1, 3], 100, [0, 5, 1, 3]),
    ],
)
def test_shares_are_equal_as_far_as_classes_have_boxes(counts, boxes, expected):
    assert shares(np.array(counts), boxes).tolist() == expected


def test_the_same_seed_draws_the_same_boxes_and_another_one_others(split):
    one, again, other = drawn(split, 20), drawn(split, 20), drawn(split, 20, seed=1)
    boxes = [np.concatenate([each.boxes.boxes_xyxy for each in sample.pictures]) for sample in (one, again, other)]
    assert np.array_equal(boxes[0], boxes[1])
    assert not np.array_equal(boxes[0], boxes[2])


def test_drawn_boxes_are_the_annotated_ones_with_their_classes(split):
    sample = drawn(split, 12)
    names = {each["id"]: each["file_name"] for each in content()["images"]}
    known = {
        (names[each["image_id"]], each["category_id"], tuple(np.float32(each["bbox"][:2]).tolist()))
        for each in content()["annotations"]
    }
    found = [
        (picture.name, int(row), tuple(box[:2].tolist()))
        for picture in sample.pictures
        for box, row in zip(picture.boxes.boxes_xyxy, picture.boxes.rows, strict=True)
    ]
    assert len(set(found)) == len(found) == 12
    assert set(found) <= known
    assert sample.rows.tolist() == [row for _, row, _ in found]
    assert np.bincount(sample.rows, minlength=6).tolist() == [0, 3, 3, 3, 3, 0]
    assert sample.counts.sum() == 40


def test_annotations_that_teach_nothing_are_refused(split, tmp_path):
    empty = content() | {"annotations": []}
    (tmp_path / "empty.json").write_text(json.dumps(empty))
    with pytest.raises(SourceError, match=r"val: has no boxes to show"):
        draw_sample(read_annotations(tmp_path / "empty.json", split), "val", boxes=10, seed=0)
    one = content()
    one["annotations"] = [each for each in one["annotations"] if each["category_id"] == 2]
    one["categories"] = one["categories"][1:2]
    (tmp_path / "one.json").write_text(json.dumps(one))
    with pytest.raises(SourceError, match=r"has one class, 'bee'.*two classes or more"):
        draw_sample(read_annotations(tmp_path / "one.json", split), "val", boxes=10, seed=0)
