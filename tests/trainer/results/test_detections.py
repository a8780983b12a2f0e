import numpy as np
import pyarrow as pa
import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.results.detections import (
    PictureDetections,
    join_pictures,
    merge_detections,
    rank_file,
    write_detections,
)


def found(seed: int, count: int) -> PictureDetections:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (count, 2))
    return PictureDetections(
        category_ids=rng.integers(1, 1204, count),
        boxes_xyxy_px=np.concatenate([corners, corners + rng.uniform(1, 50, (count, 2))], axis=1).astype(np.float32),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1],
    )


def write(path, pictures):
    write_detections(path, pictures)
    return path


def assert_same(one, other):
    for field in ("image_ids", "category_ids", "boxes_xywh_px", "scores"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_files_of_ranks_merge_into_what_one_process_found(tmp_path):
    pictures = [(image_id, found(image_id, image_id % 5)) for image_id in range(1, 201)]
    paths = [write(rank_file(tmp_path, rank), pictures[rank::3]) for rank in range(3)]
    assert_same(merge_detections(paths, range(1, 201)), join_pictures(pictures))


def test_boxes_become_corner_and_size():
    one = PictureDetections(np.array([7]), np.array([[10, 20, 40, 60]], np.float32), np.array([0.5], np.float32))
    assert join_pictures([(3, one)]).as_results() == [
        {"image_id": 3, "category_id": 7, "bbox": [10.0, 20.0, 30.0, 40.0], "score": 0.5}
    ]


def test_a_picture_of_a_padded_sampler_counts_once(tmp_path):
    pictures = [(image_id, found(image_id, 4)) for image_id in (5, 6, 7)]
    paths = [
        write(rank_file(tmp_path, 0), [pictures[0], pictures[2]]),
        write(rank_file(tmp_path, 1), [pictures[1], pictures[0], pictures[0]]),
    ]
    assert_same(merge_detections(paths, [5, 6, 7]), join_pictures(pictures))


def test_the_first_of_two_different_views_of_a_picture_is_kept_whole(tmp_path):
    paths = [
        write(rank_file(tmp_path, 0), [(5, found(1, 2))]),
        write(rank_file(tmp_path, 1), [(5, found(2, 9))]),
    ]
    assert_same(merge_detections(paths, [5]), join_pictures([(5, found(1, 2))]))


def test_pictures_without_detections_are_accounted_for(tmp_path):
    path = write(rank_file(tmp_path, 0), [(1, found(0, 0)), (2, found(0, 0))])
    merged = merge_detections([path], [1, 2])
    assert len(merged) == 0
    assert merged.boxes_xywh_px.shape == (0, 4)


def test_no_pictures_at_all_merge_to_nothing(tmp_path):
    assert len(merge_detections([write(rank_file(tmp_path, 0), [])], [])) == 0


def test_missing_pictures_are_named(tmp_path):
    path = write(rank_file(tmp_path, 0), [(1, found(0, 2))])
    with pytest.raises(RichSemError, match=r"7 \(image ids 2, 3, 4, 5, 6, \.\.\.\) of 8 pictures were never evaluated"):
        merge_detections([path], range(1, 9))


def test_pictures_nobody_asked_for_are_named(tmp_path):
    path = write(rank_file(tmp_path, 0), [(1, found(0, 2)), (99, found(0, 2))])
    with pytest.raises(RichSemError, match=r"image ids 99\)"):
        merge_detections([path], [1])


def test_a_rank_that_fails_leaves_no_file(tmp_path):
    path = rank_file(tmp_path, 3)

    def interrupted():
        yield 1, found(0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, interrupted())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RichSemError, match=r"detections-00003\.arrow: no such file"):
        merge_detections([path], [1])


@pytest.mark.parametrize("keep", [0, 40, -40], ids=["empty", "head", "tail-cut"])
def test_a_cut_file_is_named(tmp_path, keep):
    path = write(rank_file(tmp_path, 0), [(i, found(i, 5)) for i in range(100)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RichSemError, match=r"detections-00000\.arrow|never evaluated"):
        merge_detections([path], range(100))


def test_a_file_of_other_fields_is_refused(tmp_path):
    path = tmp_path / "other.arrow"
    table = pa.table({"image_id": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(RichSemError, match="has fields"):
        merge_detections([path], [1])


def test_masks_select():
    joined = join_pictures([(1, found(0, 3)), (2, found(1, 2))])
    assert joined[joined.image_ids == 2].as_results() == joined.as_results()[3:]
