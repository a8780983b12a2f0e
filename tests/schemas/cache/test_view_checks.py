import numpy as np
import pytest

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.cache.view_checks import (
    BoxRows,
    ShardPictures,
    ViewBatch,
    _have_unit_norm,
    _magnitudes,
    geometry_problems,
)


def test_every_float16_has_the_magnitude_that_numpy_gives_it():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        expected = np.abs(every.astype(np.float32))
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(_magnitudes(every)[finite], expected[finite])
    assert (_magnitudes(every)[~finite] >= 65536).all()


def test_norms_of_stored_and_of_wide_embeddings_agree():
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((200, 64))
    embeddings *= np.linspace(0.98, 1.02, 200)[:, None] / np.linalg.norm(embeddings, axis=1, keepdims=True)
    stored = embeddings.astype(np.float16)
    wide = _have_unit_norm(stored.astype(np.float32))
    np.testing.assert_array_equal(_have_unit_norm(stored), wide)
    assert 0 < wide.sum() < 200
    stored[0, 0] = np.nan
    assert not _have_unit_norm(stored)[0]


WHOLE = (0, 0, 32, 32)


def labelled(kind, annotation, noise_scale, *, canvas=32, paste=WHOLE, box=None, source=WHOLE, flip=0):
    """A view of sample 1, 32 px wide and high, with one region of class 2."""
    tiles = np.array([(1, source, paste, flip)], TILE_DTYPE)
    regions = np.array([(box or paste, 0, 2, annotation, noise_scale)], REGION_DTYPE)
    labels = TopKSoftLabels(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.float16), np.zeros(1, np.float32))
    return LabelledView(View(kind, 0, (canvas, canvas), tiles, regions), labels, None)


def problems(view, boxes=None):
    """What is wrong with a view where pictures have boxes of these classes each."""
    rows = None
    if boxes is not None:
        rows = BoxRows(np.cumsum([0, *map(len, boxes)]), np.array([row for rows in boxes for row in rows], np.int32))
    pictures = ShardPictures(np.arange(3), np.full((3, 2), 32), np.full(3, 2), 4, boxes=rows)
    return list(geometry_problems(ViewBatch.of([("x", view)]), pictures))


@pytest.mark.parametrize(
    ("kind", "annotation", "noise_scale"),
    [("crop", -1, 0), ("window", 0, 0), ("jitter", 7, 0.1), ("whole", 7, 0), ("whole-jitter", 0, 1)],
)
def test_a_region_is_a_box_of_its_picture_as_its_kind_of_view_has_it(kind, annotation, noise_scale):
    assert problems(labelled(kind, annotation, noise_scale)) == []


@pytest.mark.parametrize(("kind", "annotation"), [("crop", 0), ("crop", -2), ("window", -1), ("jitter", -1)])
def test_an_annotation_that_the_kind_of_view_has_not_is_found(kind, annotation):
    found = problems(labelled(kind, annotation, float(kind == "jitter")))
    assert found == ["x: a region's annotation is not one that its kind of view has"]


@pytest.mark.parametrize(
    ("kind", "noise_scale"),
    [("crop", 1), ("window", 0.1), ("jitter", 0), ("jitter", -1), ("jitter", np.inf), ("jitter", np.nan)],
)
def test_a_noise_scale_that_the_kind_of_view_has_not_is_found(kind, noise_scale):
    found = problems(labelled(kind, -1 if kind == "crop" else 0, noise_scale))
    assert found == ["x: a region's noise_scale is not one that its kind of view has"]


def test_an_annotation_beyond_the_boxes_of_its_picture_is_found_where_they_are_known():
    boxes = [[1] * 9, [3, 2], [1] * 9]
    assert problems(labelled("window", 1, 0), boxes) == []
    assert problems(labelled("window", 0, 0), boxes) == ["x: a region's category_id is not that of its annotation"]
    assert problems(labelled("window", 2, 0)) == []
    assert problems(labelled("window", 2, 0), boxes) == ["x: a region's annotation is one that its picture has not"]


@pytest.mark.parametrize("kind", ["window", "jitter"])
def test_a_window_may_leave_the_rest_of_its_canvas_empty_but_boxes_stay_on_its_tile(kind):
    noise = float(kind == "jitter")
    part = {"canvas": 64, "paste": (0, 0, 20, 30)}
    assert problems(labelled(kind, 0, noise, **part)) == []
    assert problems(labelled(kind, 0, noise, **part, box=(5, 5, 25, 30))) == ["x: a region's box leaves its tile"]
    moved = labelled(kind, 0, noise, canvas=64, paste=(1, 0, 20, 30))
    assert problems(moved) == ["x: its tile isn't in the upper left corner of the canvas"]


@pytest.mark.parametrize("kind", ["whole", "whole-jitter"])
def test_a_whole_view_shows_the_whole_of_its_picture_as_it_is(kind):
    noise = float(kind == "whole-jitter")
    assert problems(labelled(kind, 0, noise, canvas=64, paste=(0, 0, 64, 64))) == []
    for other in ({"flip": 1}, {"source": (0, 0, 31, 32)}, {"canvas": 64}):
        found = problems(labelled(kind, 0, noise, **other))
        assert found == ["x: it doesn't show the whole of its picture as it is"]
