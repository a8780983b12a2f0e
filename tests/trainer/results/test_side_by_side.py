import numpy as np
import pytest
from PIL import Image

from richsem_train.results.matching import match_detections
from richsem_train.results.pictures import FREQUENCY_COLOURS, INK
from richsem_train.results.side_by_side import choose_shown, draw_side_by_side, legend_of
from tests.trainer.results.classes import class_table, detections

RED = FREQUENCY_COLOURS["r"]
NAMES = {1: "gas_mask", 2: "person", 3: "sofa"}
CLASSES = class_table(NAMES, {1: "r", 2: "f", 3: "c"})
SHARED = np.array([False, True, True, True])
GREY = Image.new("RGB", (640, 480), (128, 128, 128))
TITLES = ("baseline", "richsem")


def drawn(a, b, *, image=GREY, classes=CLASSES, threshold=0.3, legend=False):
    sides = match_detections(a, b, are_shared=SHARED, score_threshold=threshold)
    return draw_side_by_side(image, sides, classes, TITLES, legend=legend)


def panels(picture, size=(640, 480)):
    """Both copies, cut out of what is drawn; they lie in the middle of their halves."""
    gap = max(8, round(0.02 * size[0]))
    cell = max(size[0], 240)
    top = picture.height - gap - size[1]
    lefts = (gap + (cell - size[0]) // 2, 2 * gap + cell + (cell - size[0]) // 2)
    return [np.asarray(picture.crop((left, top, left + size[0], top + size[1]))) for left in lefts]


def count(pixels, colour):
    return int((pixels == colour).all(axis=2).sum())


def outside(pixels, box):
    """A panel without a box, its casing and what is in it."""
    left, top, right, bottom = box
    kept = pixels.copy()
    kept[top - 3 : bottom + 4, left - 3 : right + 4] = 128
    return kept


def test_both_copies_are_the_picture_where_nothing_is_found():
    image = Image.effect_noise((640, 480), 50).convert("RGB")
    before = image.tobytes()
    for panel in panels(drawn(detections(), detections(), image=image)):
        assert panel.tobytes() == before
    drawn(detections([1, 50, 50, 150, 150, 0.9]), detections(), image=image)
    assert image.tobytes() == before


def test_rare_classes_are_red_and_others_dark_each_on_its_side():
    a, b = panels(
        drawn(
            detections([1, 100, 100, 250, 250, 0.9]),
            detections([2, 100, 100, 250, 250, 0.9], [3, 300, 300, 400, 400, 0.5]),
        )
    )
    # In the middle of a box's left line, away from labels.
    assert tuple(a[180, 100]) == RED
    assert tuple(b[180, 100]) == tuple(b[350, 300]) == INK
    assert count(a, INK) == 0
    assert count(b, RED) == 0


@pytest.mark.parametrize(("row", "colour"), [(1, RED), (2, INK)])
def test_an_arrow_stands_beside_what_one_side_found_and_none_beside_what_both_found(row, colour):
    found = [row, 200, 200, 400, 300, 0.9]
    box = (200, 200, 400, 300)
    with_arrow, empty = panels(drawn(detections(found), detections()))
    plain, same = panels(drawn(detections(found), detections(found)))
    assert plain.tobytes() == same.tobytes()
    assert (empty == 128).all()
    # Beyond the box and its label, which lies above it.
    extra = (outside(with_arrow, box) != outside(plain, box)).any(axis=2)
    ys, xs = np.nonzero(extra)
    assert len(xs) > 200
    arrow = outside(with_arrow, box)[ys, xs]
    assert (arrow == colour).all(axis=1).sum() > 100
    nearest = np.maximum.reduce([200 - xs, xs - 400, 200 - ys, ys - 300]).min()
    assert nearest <= 5


def test_classes_that_the_other_does_not_know_have_no_arrow():
    a = detections([1, 200, 200, 400, 300, 0.9])
    for shared, alike in ((SHARED, False), (np.array([False, False, True, True]), True)):
        sides = match_detections(a, detections(), are_shared=shared, score_threshold=0.3)
        assert (
            panels(draw_side_by_side(GREY, sides, CLASSES, TITLES, legend=False))[0].tobytes()
            == panels(drawn(a, a))[0].tobytes()
        ) is alike


def test_a_partner_below_the_threshold_is_drawn_on_its_side():
    found, partner = detections([1, 200, 200, 400, 300, 0.9]), detections([1, 200, 200, 400, 300, 0.2])
    a, b = panels(drawn(found, partner))
    assert tuple(a[250, 200]) == tuple(b[250, 200]) == RED
    # Without it there is nothing.
    assert (panels(drawn(detections(), partner))[1] == 128).all()


def test_small_pictures_are_enlarged_and_large_ones_made_smaller_with_their_boxes():
    small = drawn(
        detections([2, 32, 64, 96, 120, 0.9]), detections(), image=Image.new("RGB", (128, 128), (128, 128, 128))
    )
    assert tuple(panels(small, (512, 512))[0][400, 128]) == INK
    large = drawn(
        detections([1, 1000, 1000, 3000, 2000, 0.9]),
        detections(),
        image=Image.new("RGB", (4000, 3000), (128, 128, 128)),
    )
    assert tuple(panels(large, (2000, 1500))[0][900, 500]) == RED


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (480, 20), (20, 480), (70_000, 3)])
def test_pictures_of_any_sides_can_be_drawn_and_saved(size, tmp_path):
    image = Image.new("RGB", size, (128, 128, 128))
    found = detections([1, 0, 0, *size, 0.9], [2, -5, -5, 2 * size[0], 0, 0.8])
    picture = drawn(found, detections(), image=image, legend=True)
    picture.save(tmp_path / "picture.jpg")
    assert max(picture.size) < 5000


def test_titles_stand_above_their_sides_and_long_ones_are_cut():
    sides = match_detections(detections(), detections(), are_shared=SHARED, score_threshold=0.3)
    for titles in (("a", ""), ("", "a"), ("long_" * 100, ""), ("two\nlines", "")):
        picture = draw_side_by_side(GREY, sides, CLASSES, titles, legend=False)
        strip = np.asarray(picture)[: picture.height - 480 - 13]
        halves = np.split(strip, [picture.width // 2], axis=1)
        assert [bool((half < 200).any()) for half in halves] == [bool(title) for title in titles]


def test_the_legend_tells_red_and_dark_only_where_there_are_frequencies():
    plain = class_table(NAMES)
    assert [entry.text for entry in legend_of(CLASSES)] == ["rare", "others", "found on this side only"]
    assert [entry.text for entry in legend_of(plain)] == ["found on this side only"]
    for classes, is_red in ((CLASSES, True), (plain, False)):
        without, picture = (
            drawn(detections(), detections(), classes=classes, legend=legend) for legend in (False, True)
        )
        strip = np.asarray(picture)[without.height :]
        assert (count(strip, RED) > 0) is is_red
        assert count(strip, INK) > 0


def test_of_many_the_best_of_each_side_are_drawn_and_the_others_partners():
    a = detections(*[[1, 20 * i, 0, 20 * i + 10, 10, 0.9 - 0.01 * i] for i in range(40)])
    b = detections([1, 20 * 35, 0, 20 * 35 + 10, 10, 0.9], *[[2, 20 * i, 50, 20 * i + 10, 60, 0.8] for i in range(40)])
    shown_a, shown_b = choose_shown(*match_detections(a, b, are_shared=SHARED, score_threshold=0.3))
    assert shown_a.tolist() == [*range(30), 35]
    assert shown_b.tolist() == list(range(30))
