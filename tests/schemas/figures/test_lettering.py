"""Names in any script: each letter by a font that has it, from right to left where it runs so."""

from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from richsem_schemas.figures import lettering
from richsem_schemas.figures.lettering import Lettering, can_be_drawn, one_line, split_by_face, turned
from tests.schemas.figures.scripts import LETTERLESS, NAMES


def drawn(text, size=(400, 60)):
    image = Image.new("L", size)
    Lettering(24.0).draw(ImageDraw.Draw(image), (4, 4), text, 255)
    return np.asarray(image)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_every_script_is_drawn_by_a_font_that_has_it(name):
    assert can_be_drawn(name)
    line = one_line(name)
    assert "".join(piece for _, piece in split_by_face(line)) == line
    for face, piece in split_by_face(line):
        assert all(lettering._has(face, letter) or letter in " \u200c\u200d" for letter in piece)
    pixels = drawn(line)
    assert (pixels > 128).any()
    # Never the box that a font has for what it lacks, one for each letter.
    assert not np.array_equal(pixels, drawn("\U0010ffff" * len(line)))
    columns = np.flatnonzero((pixels > 0).any(axis=0))
    assert columns.max() <= 4 + Lettering(24.0).getlength(line) + 2


def test_plain_text_is_in_pillows_own_font_as_it_always_was():
    image = Image.new("L", (400, 60))
    ImageDraw.Draw(image).text((4, 4), "passenger car (1) 0.87", fill=255, font=ImageFont.load_default(24.0))
    assert np.array_equal(drawn("passenger car (1) 0.87"), np.asarray(image))


def test_a_name_is_in_few_pieces_and_its_score_in_latin():
    pieces = split_by_face("كلب أسود 0.87")
    assert [piece for _, piece in pieces] == ["كلب أسود", " 0.87"]
    assert [piece for _, piece in split_by_face("狗 dog 猫")] == ["狗", " dog ", "猫"]
    assert [piece for _, piece in split_by_face("é é")] == ["é é"]


def test_marks_and_joiners_stay_with_their_letters():
    for name in (NAMES["Hindi"], NAMES["Burmese"], NAMES["Persian"], "e\u0301\u0323\u0332"):
        assert len(split_by_face(one_line(name))) == 1


def test_chinese_characters_have_the_forms_of_the_language_they_stand_in():
    """直 and 骨 differ between Chinese and Japanese fonts."""
    (chinese, _), *_ = split_by_face("直骨")
    (japanese, _), *_ = split_by_face("直骨の")
    assert (chinese.index, japanese.index) == (2, 0)
    assert not np.array_equal(drawn("直骨"), drawn("直骨の")[:, : drawn("直骨").shape[1]])


def test_arabic_letters_are_joined_and_run_from_right_to_left():
    if ImageFont.truetype(lettering.font_files()[0], 24).layout_engine != ImageFont.Layout.RAQM:
        pytest.skip("FriBidi is not installed")
    # Two lams are wider apart than joined ones.
    assert Lettering(24.0).getlength("لل") < 2 * Lettering(24.0).getlength("ل")
    # Alef, a plain stroke, comes first and so stands at the right.
    pixels = drawn("اس") > 128
    columns = np.flatnonzero(pixels.any(axis=0))
    heights = pixels.sum(axis=0)
    assert heights[columns[-4:]].max() > 1.5 * heights[columns[:4]].max()


def test_without_shaping_letters_are_turned_round_with_their_marks():
    assert turned("אבג") == "גבא"
    assert turned("בְּא") == "אבְּ"
    assert turned("abc") == "abc"
    with patch.object(lettering, "_font", lambda face, _: ImageFont.truetype(face.path, 24, layout_engine=0)):
        pieces = Lettering(24.0)._pieces("כלב 0.87")
    assert [piece for _, piece in pieces] == ["בלכ", " 0.87"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb\tc\r\0d", "a b c d"),
        ("e\u0301", "é"),
        ("\u202eevil\u202c", "evil"),
        ("a\ufeff\u2066b\u2069", "ab"),
        ("  two   words ", "two words"),
        ("\u3000宽　空", "宽 空"),
        ("", ""),
    ],
)
def test_names_are_one_line_without_what_is_invisible(text, line):
    assert one_line(text) == line


@pytest.mark.parametrize("name", LETTERLESS)
def test_letters_that_no_font_has_are_known(name):
    assert not can_be_drawn(name)
