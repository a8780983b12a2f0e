import numpy as np
import pytest
from PIL import Image

from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.labels import Style, place_labels
from richsem_train.results.pictures import FREQUENCY_COLOURS, choose_drawn, contact_sheet, draw_detections
from tests.schemas.figures import scripts
from tests.trainer.results.classes import class_table, detections

NAMES = {1: "passenger_car_(part_of_a_train)", 2: "jalapeño", 3: "an_extraordinarily_long_name_" * 6}
PLAIN, OF_FREQUENCIES = class_table(NAMES), class_table(NAMES, {1: "r", 2: "c", 3: "f"})
GREY = Image.new("RGB", (640, 480), (128, 128, 128))
# Severity 1.0 of Machado, Oliveira and Fernandes 2009, on linear RGB.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TRITANOPIA = [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]


def lab(colour, vision):
    srgb = np.array(colour) / 255
    linear = np.clip(np.array(vision) @ np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.cbrt(np.maximum(xyz / np.array([0.9505, 1.0, 1.089]), 1e-4))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA, TRITANOPIA])
def test_frequencies_differ_for_every_kind_of_colour_vision(vision):
    r, c, f = (lab(FREQUENCY_COLOURS[letter], vision) for letter in "rcf")
    assert min(np.linalg.norm(r - c), np.linalg.norm(r - f), np.linalg.norm(c - f)) > 25


def test_boxes_have_the_colour_of_their_frequency():
    found = detections([1, 50, 50, 150, 150, 0.9], [2, 250, 50, 350, 150, 0.9], [3, 450, 200, 550, 300, 0.9])
    drawn = draw_detections(GREY, found, OF_FREQUENCIES, legend=False)
    assert drawn.size == GREY.size
    for x, y, letter in ((50, 120, "r"), (250, 120, "c"), (450, 250, "f")):
        assert drawn.getpixel((x, y)) == FREQUENCY_COLOURS[letter]


def test_the_picture_itself_is_left_alone_and_shown_where_nothing_is_found():
    image = Image.effect_noise((640, 480), 50).convert("RGB")
    before = image.tobytes()
    draw_detections(image, detections([1, 50, 50, 150, 150, 0.9]), PLAIN)
    assert image.tobytes() == before
    assert draw_detections(image, detections(), OF_FREQUENCIES, legend=False).tobytes() == before


def test_a_legend_stands_below_the_picture_only_where_there_are_frequencies():
    image = Image.effect_noise((640, 480), 50).convert("RGB")
    with_legend = draw_detections(image, detections(), OF_FREQUENCIES)
    assert with_legend.height > image.height
    assert with_legend.crop((0, 0, 640, 480)).tobytes() == image.tobytes()
    colours = {colour for _, colour in with_legend.crop((0, 480, 640, with_legend.height)).getcolors(10_000)}
    assert set(FREQUENCY_COLOURS.values()) <= colours
    assert draw_detections(image, detections(), PLAIN).size == image.size


def test_small_pictures_are_enlarged_with_their_boxes():
    small = Image.new("RGB", (128, 128), (128, 128, 128))
    drawn = draw_detections(small, detections([2, 32, 64, 96, 120, 0.9]), OF_FREQUENCIES, legend=False)
    assert drawn.size == (512, 512)
    assert drawn.getpixel((128, 400)) == FREQUENCY_COLOURS["c"]


@pytest.mark.parametrize("size", [(500, 375), (300, 2000), (1333, 800), (480, 20)])
def test_labels_stay_inside_and_clear_of_each_other(size):
    rng = np.random.default_rng(0)
    style = Style.of(size)
    boxes = []
    for _ in range(40):
        x, y = rng.uniform(0, size[0] - 1), rng.uniform(0, size[1] - 1)
        boxes.append((x, y, rng.uniform(x, size[0] - 1), rng.uniform(y, size[1] - 1)))
    texts = [f"{NAMES[i % 3 + 1].replace('_', ' ')} 0.{i:02d}" for i in range(40)]
    placed = [label for label in place_labels(boxes, texts, size, style) if label is not None]
    assert placed
    for (left, top, right, bottom), text in placed:
        assert left >= 0
        assert top >= 0
        assert right <= size[0]
        assert bottom <= max(size[1], bottom - top)
        assert text[-4:-2] == "0."
    for i, (one, _) in enumerate(placed):
        for other, _ in placed[:i]:
            width = min(one[2], other[2]) - max(one[0], other[0])
            height = min(one[3], other[3]) - max(one[1], other[1])
            area = (one[2] - one[0]) * (one[3] - one[1])
            assert max(0, width) * max(0, height) <= 0.2 * area


def test_lines_and_letters_grow_with_the_picture():
    small, large = Style.of((480, 480)), Style.of((4000, 3000))
    assert large.line > small.line
    assert large.font.getlength("name") > 2 * small.font.getlength("name")


def test_worst_and_surplus_detections_are_left_out():
    found = detections(*[[1, 10 * i, 0, 10 * i + 8, 8, 0.1 * i] for i in range(10)])
    assert choose_drawn(found, score_threshold=0.35).boxes_xyxy_px[:, 0].tolist() == [90, 80, 70, 60, 50, 40]
    assert choose_drawn(found, score_threshold=0.0, most=2).boxes_xyxy_px[:, 0].tolist() == [90, 80]


def test_of_boxes_that_coincide_the_best_is_drawn():
    found = detections([1, 0, 0, 100, 100, 0.5], [2, 1, 0, 100, 100, 0.6], [3, 0, 0, 50, 100, 0.4])
    assert choose_drawn(found, score_threshold=0.3).category_ids.tolist() == [2, 3]


def test_boxes_without_area_or_of_equal_scores_are_kept_in_the_models_order():
    empty = [20, 20, 20, 20, 0.7]
    found = detections([1, *empty], [2, *empty], [3, 50, 50, 60, 60, 0.7], [4, 0, 0, 9, 9, 0.8])
    assert choose_drawn(found, score_threshold=0.7).category_ids.tolist() == [4, 1, 2, 3]
    assert len(choose_drawn(detections(), score_threshold=0)) == 0


def test_boxes_outside_and_without_area_are_no_error():
    found = detections([1, -50, -50, 2000, 2000, 0.9], [2, 700, 700, 800, 800, 0.8], [3, 20, 20, 20, 20, 0.7])
    assert draw_detections(GREY, found, PLAIN).size == (640, 480)


def test_a_contact_sheet_shows_all_pictures_row_by_row():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0), (0, 200, 200)]
    pictures = [Image.new("RGB", (60, 40 + 5 * i), colour) for i, colour in enumerate(colours)]
    sheet = contact_sheet(pictures, "abcde", 3)
    pixels = np.asarray(sheet)
    centres = [np.argwhere((pixels == colour).all(axis=2)).mean(axis=0) for colour in colours]
    assert max(c[0] for c in centres[:3]) < min(c[0] for c in centres[3:])
    assert centres[0][1] < centres[1][1] < centres[2][1]
    assert [int((pixels == c).all(axis=2).sum()) for c in colours] == [60 * (40 + 5 * i) for i in range(5)]


def test_a_contact_sheet_of_one_picture_needs_no_more_columns():
    assert contact_sheet([Image.new("RGB", (60, 40))], [""], 4).width < 120


@pytest.mark.parametrize("name", scripts.LETTERLESS)
def test_a_class_whose_letters_no_font_has_is_shown_by_its_number(name):
    found = PictureDetections(np.array([17]), np.array([[40, 60, 200, 300]], np.float32), np.array([0.5], np.float32))
    image = Image.new("RGB", (640, 480))
    shown = draw_detections(image, found, class_table({17: name}))
    assert shown.tobytes() == draw_detections(image, found, class_table({17: "#17"})).tobytes()
    # A caption has no number; whatever it shows, it is no error.
    contact_sheet([image], [name], 1)


@pytest.mark.parametrize("name", scripts.NAMES.values(), ids=scripts.NAMES)
def test_labels_hold_their_text(name):
    """A label's colour surrounds its letters, but for marks that reach above or below a line."""
    found = PictureDetections(np.array([0]), np.array([[40, 100, 600, 400]], np.float32), np.array([0.5], np.float32))
    image = Image.new("RGB", (640, 480), (255, 255, 255))
    shown = np.asarray(draw_detections(image, found, class_table({0: name})))
    colour = (shown == (86, 180, 233)).all(axis=2)
    right = np.flatnonzero(colour[80:99].any(axis=0)).max()
    letters = (shown[70:99] < 100).all(axis=2).any(axis=0)
    assert np.flatnonzero(letters).max() <= right + 1
