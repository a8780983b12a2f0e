import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from richsem_schemas.errors import RichSemError
from richsem_schemas.figures.figure import (
    LINE_COLOURS,
    drawing_style,
    require_figure_name,
    titled_figure,
    write_figure,
)
from richsem_schemas.figures.lines import Line, draw_lines


def draw(out, lines, title="title"):
    with drawing_style([title, *(line.label for line in lines)]):
        figure = titled_figure(title, 4, 3)
        panel = figure.subplots()
        draw_lines(panel, lines)
        write_figure(figure, out)
    return panel


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_the_same_figure_is_the_same_bytes_and_leaves_nothing_beside_it(tmp_path, kind):
    lines = [Line("one", [0, 1], [1, 2], band=([0, 1], [2, 3])), Line("红", [0, 1], [2, 1], dashed=True)]
    for name in "ab":
        draw(tmp_path / f"{name}.{kind}", lines)
    first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert first == second
    assert len(list(tmp_path.iterdir())) == 2


def test_files_are_what_their_names_say(tmp_path):
    for name in ("a.png", "b", "c.SVG"):
        draw(tmp_path / name, [Line("one", [0, 1], [1, 2])])
    for name in ("a.png", "b"):
        with Image.open(tmp_path / name) as image:
            assert (image.format, image.size) == ("PNG", (520, 390))
    assert ElementTree.parse(tmp_path / "c.SVG").getroot().tag.endswith("}svg")


def test_an_svg_names_no_version_and_no_date(tmp_path):
    draw(tmp_path / "a.svg", [])
    assert not re.search(r"20\d\d-\d\d-\d\d|Matplotlib v", (tmp_path / "a.svg").read_text())


@pytest.mark.parametrize("name", ["a.jpg", "a", "png", "a.png.gz"])
def test_other_names_than_a_figures_are_refused(tmp_path, name):
    with pytest.raises(RichSemError, match=r"a figure is a \.png or an \.svg; name it so"):
        require_figure_name(tmp_path / name)


def test_a_band_lies_between_its_values_in_the_colour_of_its_line():
    out = io.BytesIO()
    with drawing_style([]):
        figure = titled_figure("", 4, 3)
        panel = figure.subplots()
        draw_lines(panel, [Line("mean", [0.0, 1.0], [1.0, 2.0], band=([0.5, 1.5], [1.5, 2.5]))])
        figure.savefig(out, format="png")
    (band,), (line,) = panel.collections, panel.lines
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert corners == {(0.0, 0.5), (1.0, 1.5), (1.0, 2.5), (0.0, 1.5)}
    assert line.get_color() == LINE_COLOURS[0]
    assert np.allclose(band.get_facecolor()[0][:3], [0x2B / 255, 0x8C / 255, 0xC4 / 255])
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["mean"]


def test_without_lines_there_is_no_legend(tmp_path):
    assert draw(tmp_path / "a.png", []).get_legend() is None
