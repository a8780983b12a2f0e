import numpy as np
import pytest

from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_train.data.cache.nearest import ABSENT, Sights, differences, distance, joined_sights, nearest, sights_of


def sights(*each):
    """Of (part, scale, mirrored)."""
    parts, scales, mirrored = zip(*each, strict=True)
    return Sights(np.array(parts, float), np.array(scales, float), np.array(mirrored, bool))


def far(one, other):
    return distance(differences(sights(one), sights(other))).item()


def test_sights_that_are_the_same_are_at_no_distance():
    assert far(([1, 2, 11, 22], 1.5, True), ([1, 2, 11, 22], 1.5, True)) == 0


def test_the_distance_is_a_quarter_an_octave_one_without_overlap_and_a_tenth_for_a_mirror():
    box, half, other = [0, 0, 10, 10], [0, 0, 5, 10], [20, 0, 30, 10]
    assert far((box, 1, False), (box, 2, False)) == pytest.approx(0.25)
    assert far((box, 1, False), (box, 0.25, False)) == pytest.approx(0.5)
    assert far((box, 1, False), (half, 1, False)) == pytest.approx(0.5)
    assert far((box, 1, False), (other, 1, False)) == pytest.approx(1)
    assert far((box, 1, False), (box, 1, True)) == pytest.approx(0.1)
    assert far((box, 1, False), (half, 2, True)) == pytest.approx(0.85)


def view_of(boxes, *, source, paste, flip, canvas_hw):
    tiles = np.array([(0, source, paste, flip)], TILE_DTYPE)
    regions = np.zeros(len(boxes), REGION_DTYPE)
    regions["box_xyxy_px"] = boxes
    return View("window", 0, canvas_hw, tiles, regions)


def test_a_part_is_what_is_there_of_the_picture_however_it_is_shown():
    plain = view_of([[0, 0, 30, 20]], source=(10, 20, 40, 40), paste=(0, 0, 60, 40), flip=0, canvas_hw=(40, 60))
    seen = sights_of(plain)
    np.testing.assert_allclose(seen.parts_xyxy_px, [[10, 20, 25, 30]])
    assert (seen.scales.tolist(), seen.are_mirrored.tolist()) == ([2.0], [False])
    mirrored = view_of([[0, 0, 30, 20]], source=(10, 20, 40, 40), paste=(0, 0, 60, 40), flip=1, canvas_hw=(40, 60))
    np.testing.assert_allclose(sights_of(mirrored).parts_xyxy_px, [[25, 20, 40, 30]])
    assert sights_of(mirrored).are_mirrored.tolist() == [True]


def test_a_tile_that_fills_a_part_of_its_canvas_is_seen_where_it_lies():
    view = view_of([[20, 10, 30, 20]], source=(0, 0, 10, 10), paste=(10, 0, 30, 20), flip=0, canvas_hw=(40, 60))
    np.testing.assert_allclose(sights_of(view).parts_xyxy_px, [[5, 5, 10, 10]])


def test_the_scale_is_the_one_at_which_the_teacher_sees_the_view():
    view = view_of([[0, 0, 30, 20]], source=(10, 20, 40, 40), paste=(0, 0, 60, 40), flip=0, canvas_hw=(40, 60))
    assert sights_of(view, teacher_size=30).scales.tolist() == [1.0]


def test_a_view_without_boxes_has_no_sights():
    view = view_of(np.zeros((0, 4)), source=(0, 0, 10, 10), paste=(0, 0, 10, 10), flip=0, canvas_hw=(10, 10))
    assert sights_of(view).parts_xyxy_px.shape == (0, 4)


def test_the_nearest_sight_of_the_same_thing_is_found():
    whole, left = [0, 0, 10, 10], [0, 0, 6, 10]
    stored = sights((whole, 1, False), (whole, 1, True), (left, 1, False), (whole, 2, True), (whole, 1, False))
    things, views = np.array([0, 1, 0, 0, 1]), np.array([0, 0, 1, 2, 3])
    shown = sights((whole, 1, False), (left, 1, True), (whole, 1.9, True), (whole, 1, False), (whole, 1, True))
    found = nearest(shown, np.array([0, 0, 0, 1, 1]), stored, things, views)
    assert found.tolist() == [0, 2, 3, 4, 1]


def test_of_equally_near_sights_the_first_view_counts():
    stored = sights(([0, 0, 10, 10], 1, False), ([0, 0, 10, 10], 1, False))
    shown = sights(([0, 0, 10, 10], 1, True))
    assert nearest(shown, np.array([0]), stored, np.array([0, 0]), np.array([0, 1])).tolist() == [0]


def test_a_thing_that_no_view_shows_or_another_part_of_it_has_none():
    stored = sights(([0, 0, 10, 10], 1, False))
    shown = sights(([0, 0, 10, 10], 1, False), ([0, 0, 4.9, 10], 1, False), ([0, 0, 5.1, 10], 1, False))
    of_it = (stored, np.array([0]), np.array([0]))
    assert nearest(shown, np.array([3, 0, 0]), *of_it).tolist() == [ABSENT, 0, 0]
    assert nearest(shown, np.array([3, 0, 0]), *of_it, min_overlap=0.5).tolist() == [ABSENT, ABSENT, 0]
    none = sights_of(view_of(np.zeros((0, 4)), source=(0, 0, 9, 9), paste=(0, 0, 9, 9), flip=0, canvas_hw=(9, 9)))
    no_things = np.zeros(0, int)
    assert nearest(shown, np.array([3, 0, 0]), none, no_things, no_things).tolist() == [ABSENT] * 3
    assert nearest(none, no_things, stored, np.array([0]), np.array([0])).tolist() == []


def test_sights_are_joined_in_their_order():
    both = joined_sights([sights(([0, 0, 1, 1], 1, False)), sights(([0, 0, 2, 2], 2, True), ([0, 0, 3, 3], 3, False))])
    assert both.scales.tolist() == [1, 2, 3]
