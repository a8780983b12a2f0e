import itertools

import numpy as np
import pytest
from PIL import Image, ImageDraw

from richsem_train.results.arrows import Arrow, draw_arrow, place_arrows
from richsem_train.results.labels import Style, covered

SIZES = [(640, 480), (480, 640), (512, 512), (2000, 100), (60, 480), (1333, 800)]
RED, WHITE, GREY = (204, 51, 0), (255, 255, 255), (128, 128, 128)


def boxes_of(size):
    """At every rim and corner, in the middle, of the whole picture, and without area; by name."""
    width, height = size[0] - 1, size[1] - 1
    thirds = [(0, 1 / 3), (1 / 3, 2 / 3), (2 / 3, 1)]
    names = itertools.product(("top", "middle", "bottom"), ("left", "middle", "right"))
    boxes = {
        f"{name[0]} {name[1]}": (x0 * width, y0 * height, x1 * width, y1 * height)
        for name, ((y0, y1), (x0, x1)) in zip(names, itertools.product(thirds, thirds), strict=True)
    }
    whole = {"whole": (0, 0, width, height), "left half": (0, 0, width / 2, height), "top": (0, 0, width, height / 2)}
    points = {"corner": (0, 0, 0, 0), "point": (width / 2, height / 2, width / 2, height / 2)}
    return boxes | whole | points


def distance_to_edge(point, box):
    """Of a point to the nearest of a box's four edges."""
    (x, y), (left, top, right, bottom) = point, box
    across, down = max(left - x, 0, x - right), max(top - y, 0, y - bottom)
    if across or down:
        return np.hypot(across, down)
    return min(x - left, right - x, y - top, bottom - y)


def is_in(point, box):
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", boxes_of(SIZES[0]))
def test_an_arrow_lies_in_the_picture_off_its_rim_and_its_tip_at_the_box(size, name):
    box, style = boxes_of(size)[name], Style.of(size)
    (arrow,) = place_arrows([box], [0], size, style, [])
    left, top, right, bottom = arrow.rectangle
    rim = 2 * style.line
    assert left >= rim
    assert top >= rim
    assert right <= size[0] - 1 - rim
    assert bottom <= size[1] - 1 - rim
    assert distance_to_edge(arrow.tip, box) <= 3 * style.line + 1e-6
    assert distance_to_edge(arrow.tail, box) > distance_to_edge(arrow.tip, box)
    assert arrow.length >= 12


@pytest.mark.parametrize("name", [name for name in boxes_of((640, 480)) if name != "whole"])
def test_it_points_from_outside_where_there_is_room(name):
    size = (640, 480)
    box = boxes_of(size)[name]
    (arrow,) = place_arrows([box], [0], size, Style.of(size), [])
    assert not is_in(arrow.tip, box)
    assert not is_in(arrow.tail, box)
    assert arrow.length == pytest.approx(Style.of(size).arrow)


def test_and_from_inside_at_what_is_as_large_as_the_picture():
    size = (640, 480)
    box = boxes_of(size)["whole"]
    (arrow,) = place_arrows([box], [0], size, Style.of(size), [])
    assert is_in(arrow.tip, box)
    assert is_in(arrow.tail, box)


def test_arrows_are_clear_of_labels_and_of_each_other():
    size = (640, 480)
    box, style = (200, 200, 400, 300), Style.of(size)
    free = place_arrows([box], [0], size, style, [])[0]
    label = free.rectangle
    beside = place_arrows([box], [0], size, style, [label])[0]
    assert covered(beside.rectangle, [label]) == 0
    rectangles = [arrow.rectangle for arrow in place_arrows([box] * 8, range(8), size, style, [label])]
    for number, rectangle in enumerate(rectangles):
        assert covered(rectangle, [label, *rectangles[:number]]) == 0


def test_only_boxes_that_are_asked_for_get_one_in_their_order():
    size, boxes = (640, 480), [(10, 10, 60, 60), (300, 200, 350, 300), (500, 400, 600, 470)]
    arrows = place_arrows(boxes, [2, 0], size, Style.of(size), [])
    assert [distance_to_edge(arrow.tip, boxes[index]) <= 10 for arrow, index in zip(arrows, (2, 0), strict=True)]
    assert len(arrows) == 2
    assert place_arrows(boxes, [], size, Style.of(size), []) == []


def test_pictures_too_narrow_for_any_have_none():
    assert place_arrows([(0, 0, 479, 3)], [0], (480, 4), Style.of((480, 4)), []) == [None]


@pytest.mark.parametrize("tail", [(60, 100), (140, 100), (100, 60), (100, 140), (130, 130), (70, 130)])
def test_it_is_drawn_from_its_tail_to_its_tip_and_nowhere_else(tail):
    image, arrow, style = Image.new("RGB", (200, 200), GREY), Arrow((100, 100), tail), Style.of((200, 200))
    draw_arrow(ImageDraw.Draw(image), arrow, RED, WHITE, style)
    pixels = np.asarray(image)
    ys, xs = np.nonzero((pixels == RED).all(axis=2))
    near = np.argmin(np.hypot(xs - 100, ys - 100))
    assert np.hypot(xs[near] - 100, ys[near] - 100) <= 1
    left, top, right, bottom = arrow.rectangle
    assert (xs.min(), ys.min(), xs.max(), ys.max()) == pytest.approx((left, top, right, bottom), abs=1)
    # Wider at its head than at its tail, and within a casing.
    middle = np.array(tail) / 2 + 50
    along = (np.array((100, 100)) - middle) / np.linalg.norm(np.array((100, 100)) - middle)
    places = (np.stack([xs, ys], axis=1) - middle) @ along
    assert (places > 0).sum() > 1.2 * (places < 0).sum()
    ys, xs = np.nonzero((pixels == WHITE).all(axis=2))
    assert xs.min() < left
    assert ys.min() < top
    casing = 2 * style.line + 1
    drawn = (pixels != GREY).any(axis=2)
    drawn[int(top) - casing : int(bottom) + casing + 2, int(left) - casing : int(right) + casing + 2] = False
    assert not drawn.any()
