import numpy as np

from richsem_schemas.scoring.detections import PictureDetections, join_pictures


def test_boxes_become_corner_and_size():
    one = PictureDetections(np.array([7]), np.array([[10, 20, 40, 60]], np.float32), np.array([0.5], np.float32))
    assert join_pictures([(3, one)]).as_results() == [
        {"image_id": 3, "category_id": 7, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5}
    ]


def test_masks_select():
    boxes = np.arange(20, dtype=np.float32).reshape(5, 4)
    found = PictureDetections(np.arange(5), boxes, np.linspace(1, 0.5, 5, dtype=np.float32))
    joined = join_pictures([(1, found[np.arange(3)]), (2, found[np.arange(5) >= 3])])
    assert joined[joined.image_ids == 2].as_results() == joined.as_results()[3:]
    assert joined.category_ids.tolist() == [0, 1, 2, 3, 4]
