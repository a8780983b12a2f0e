import json

import numpy as np

from richsem_prep.shard.loaded_pictures import annotated_fields
from richsem_prep.sources.entry import PictureBoxes, SourceEntry

BOXES = PictureBoxes(np.array([[0.1, 2, 1 / 3, 40.7]], np.float32), np.array([3], np.int32), (480, 640))


def entry(**annotated):
    return SourceEntry("a.jpg", b"a.jpg", -1, 10, 0, **annotated)


def test_a_picture_without_annotations_adds_nothing():
    assert annotated_fields(entry()) == {}


def test_boxes_read_back_to_the_last_bit():
    fields = json.loads(json.dumps(annotated_fields(entry(boxes=BOXES))))
    assert fields == {"boxes": [[0.1, 2.0, 0.33333334, 40.7, 3]], "boxes_hw": [480, 640]}
    np.testing.assert_array_equal(np.float32(fields["boxes"])[:, :4], BOXES.boxes_xyxy)


def test_fractions_have_no_size_and_an_empty_picture_has_an_empty_list():
    empty = PictureBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), None)
    assert annotated_fields(entry(boxes=empty, caption="a dog")) == {"caption": "a dog", "boxes": [], "boxes_hw": None}


def test_boxes_follow_their_picture_to_another_size():
    np.testing.assert_array_equal(BOXES.in_picture((480, 640)), BOXES.boxes_xyxy)
    np.testing.assert_allclose(BOXES.in_picture((240, 1280)), BOXES.boxes_xyxy * [2, 0.5, 2, 0.5], rtol=1e-6)
    fractions = PictureBoxes(np.float32([[0.25, 0.5, 0.75, 1]]), np.array([1], np.int32), None)
    np.testing.assert_array_equal(fractions.in_picture((10, 20)), [[5, 5, 15, 10]])
