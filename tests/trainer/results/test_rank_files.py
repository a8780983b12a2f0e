import numpy as np
import pyarrow as pa
import pytest

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections, join_pictures
from richsem_train.results.rank_files import merge_detections, rank_file, write_detections


def found(seed: int, count: int) -> PictureDetections:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 100, (count, 2))
    return PictureDetections(
        category_ids=rng.integers(1, 1204, count),
        boxes_xyxy_px=np.concatenate([corners, corners + rng.uniform(1, 50, (count, 2))], axis=1).astype(np.float32),
        scores=np.sort(rng.random(count).astype(np.float32))[::-1],
    )


def merged(folder, *ranks, wanted):
    """What comes of the files of some ranks."""
    for rank, pictures in enumerate(ranks):
        write_detections(rank_file(folder, rank), pictures)
    return merge_detections([rank_file(folder, rank) for rank in range(len(ranks))], wanted)


def assert_same(one, other):
    for field in ("image_ids", "category_ids", "boxes_xywh_px", "scores"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_files_of_ranks_merge_into_what_one_process_found(tmp_path):
    pictures = [(image_id, found(image_id, image_id % 5)) for image_id in range(1, 201)]
    ranks = [pictures[rank::3] for rank in range(3)]
    assert_same(merged(tmp_path, *ranks, wanted=range(1, 201)), join_pictures(pictures))


def test_a_picture_of_a_padded_sampler_counts_once(tmp_path):
    one, two, three = pictures = [(image_id, found(image_id, 4)) for image_id in (5, 6, 7)]
    assert_same(merged(tmp_path, [one, three], [two, one, one], wanted=[5, 6, 7]), join_pictures(pictures))


def test_the_first_of_two_different_views_of_a_picture_is_kept_whole(tmp_path):
    first, second = (5, found(1, 2)), (5, found(2, 9))
    assert_same(merged(tmp_path, [first], [second], wanted=[5]), join_pictures([first]))


def test_pictures_without_detections_are_accounted_for_and_none_merge_to_nothing(tmp_path):
    for pictures in ([(1, found(0, 0)), (2, found(0, 0))], []):
        nothing = merged(tmp_path, pictures, wanted=[image_id for image_id, _ in pictures])
        assert len(nothing) == 0
        assert nothing.boxes_xywh_px.shape == (0, 4)


@pytest.mark.parametrize(
    ("image_ids", "wanted", "message"),
    [
        ([1], range(1, 9), r"7 \(image ids 2, 3, 4, 5, 6, \.\.\.\) of 8 pictures were never evaluated"),
        ([1, 99], [1], r"1 \(image ids 99\) evaluated pictures are not in the annotations"),
    ],
    ids=["missing", "nobody asked for"],
)
def test_pictures_that_are_too_few_or_too_many_are_named(tmp_path, image_ids, wanted, message):
    with pytest.raises(RichSemError, match=message):
        merged(tmp_path, [(image_id, found(0, 2)) for image_id in image_ids], wanted=wanted)


def test_a_rank_that_fails_leaves_no_file(tmp_path):
    def interrupted():
        yield 1, found(0, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_detections(rank_file(tmp_path, 3), interrupted())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RichSemError, match=r"detections-00003\.arrow: no such file"):
        merge_detections([rank_file(tmp_path, 3)], [1])


@pytest.mark.parametrize("keep", [0, 40, -40], ids=["empty", "head", "tail-cut"])
def test_a_cut_file_is_named(tmp_path, keep):
    path = rank_file(tmp_path, 0)
    write_detections(path, [(i, found(i, 5)) for i in range(100)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RichSemError, match=r"detections-00000\.arrow|never evaluated"):
        merge_detections([path], range(100))


def test_a_file_of_other_fields_is_refused(tmp_path):
    table = pa.table({"image_id": [1]})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(RichSemError, match="has fields"):
        merge_detections([tmp_path / "x.arrow"], [1])
