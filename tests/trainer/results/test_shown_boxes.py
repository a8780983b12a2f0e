import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from richsem_schemas.scoring.box_errors import Outcome
from richsem_train.results.shown_boxes import BoxError, cut_out, spread_over_classes


def error(picture=1, found=None, true=None, category=0, outcome=Outcome.POOR_BOX):
    return BoxError(outcome, False, category, 0.5, None, picture, found, true)


@pytest.fixture
def data(tmp_path):
    """Two pictures of 100 x 60, black but for a red box at (20, 10) of 20 x 10; the second one is missing."""
    pixels = np.zeros((60, 100, 3), np.uint8)
    pixels[10:20, 20:40] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "0.png")
    return SimpleNamespace(
        files=("0.png", "1.png"),
        image_ids=np.array([11, 22]),
        hws_px=np.array([[60, 100]] * 2),
        are_relative=False,
        path=lambda index: tmp_path / f"{index}.png",
    )


TRUTH = SimpleNamespace(image_ids=np.array([11, 22]))


def test_a_piece_shows_box_and_surroundings_and_where_the_box_is_in_it(data):
    wanted = error(found=(20.0, 10.0, 20.0, 10.0))
    shown, problems = cut_out([wanted], data, TRUTH)
    assert not problems
    piece = shown[wanted]
    with Image.open(io.BytesIO(base64.b64decode(piece.jpeg))) as image:
        assert image.size == piece.size
        x, y, width, height = piece.found
        assert (width, height) == (20, 10)
        assert image.getpixel((round(x + width / 2), round(y + height / 2)))[0] > 200
        assert image.getpixel((2, 2))[0] < 60
    assert piece.true is None


def test_boxes_that_are_fractions_are_scaled_to_the_picture(data):
    data.are_relative = True
    in_pixels, as_fractions = (20.0, 10.0, 20.0, 10.0), (0.2, 1 / 6, 0.2, 1 / 6)
    shown, _ = cut_out([error(true=as_fractions)], data, TRUTH)
    relative = next(iter(shown.values()))
    data.are_relative = False
    shown, _ = cut_out([error(true=in_pixels)], data, TRUTH)
    assert relative.true == pytest.approx(next(iter(shown.values())).true)


@pytest.mark.parametrize("box", [(-500.0, -500.0, 20.0, 20.0), (99.5, 59.5, 400.0, 300.0), (50.0, 30.0, 0.0, 0.0)])
def test_odd_boxes_have_a_piece_within_the_picture(data, box):
    shown, _ = cut_out([error(found=box)], data, TRUTH)
    assert min(next(iter(shown.values())).size) >= 1


def test_what_lies_in_a_missing_picture_is_left_out_and_told(data):
    here, lost = error(1, found=(0.0, 0.0, 9.0, 9.0)), error(2, found=(0.0, 0.0, 9.0, 9.0))
    shown, problems = cut_out([here, lost], data, TRUTH)
    assert list(shown) == [here]
    assert len(problems) == 1
    assert "1.png: can't be read" in problems[0]


def test_no_class_fills_the_page():
    many = [error(category=category, found=(float(n), 0.0, 1.0, 1.0)) for n in range(3) for category in (0, 0, 1, 2)]
    chosen = spread_over_classes(many, most=5, of_a_class=2)
    assert [each.category for each in chosen] == [0, 0, 1, 2, 1]
