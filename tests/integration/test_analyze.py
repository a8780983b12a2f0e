"""`richsem-prep analyze`, as a user types it."""

import json
import uuid

import pytest
from PIL import Image

from richsem_schemas.io.places import open_place
from tests.integration.programs import error_of
from tests.schemas.annotations.coco_content import annotation, category, content, written

FILE = content(
    annotations=[annotation(1), annotation(2), annotation(3, category_id=2)],
    categories=[category(1, "cat [bold]"), category(2, "dog")],
)


@pytest.fixture
def file(tmp_path):
    return written(tmp_path, FILE)


def test_frequencies_are_a_table_a_figure_and_json(prep, file, tmp_path):
    code, output = prep("analyze", "frequency", file, file, "--label", "[red]one", "--label", "two")
    assert code == 0
    assert "[red]one" in output
    [line] = [line for line in output.splitlines() if "head over tail" in line]
    assert line.split()[-4:] == ["2.0", "│", "2.0", "│"]
    figure = tmp_path / "figure.png"
    code, output = prep("analyze", "frequency", file, "--json", "--figure", figure)
    assert code == 0
    [found] = json.loads(output.replace(str(figure), ""))
    assert (found["label"], found["instances"], found["head_over_tail"]) == ("annotations", 3, 2.0)
    assert found["counts"][1] == {"id": 2, "name": "dog", "instances": 1}
    with Image.open(figure) as image:
        assert image.format == "PNG"


def test_a_file_at_a_url_is_read(prep, file):
    url = f"memory://{uuid.uuid4().hex}/lvis.json"
    open_place(url).write_bytes(file.read_bytes())
    code, output = prep("analyze", "frequency", url, "--json")
    assert code == 0, output
    [found] = json.loads(output)
    assert (found["label"], found["file"]) == ("lvis", url)


def test_wrong_options_are_refused_before_anything_is_read(prep, file, tmp_path):
    missing = tmp_path / "missing.json"
    assert "1 --label for 2 files" in error_of(prep("analyze", "frequency", missing, missing, "--label", "x"))
    assert "a figure is a .png or an .svg" in error_of(prep("analyze", "frequency", missing, "--figure", "f.jpg"))
    linked = tmp_path / "linked.svg"
    linked.symlink_to(file)
    assert "would be overwritten" in error_of(prep("analyze", "frequency", file, "--figure", linked))
    assert json.loads(file.read_text()) == FILE
    assert "missing.json: can't be read" in error_of(prep("analyze", "frequency", missing))


def test_annotations_are_dropped_into_another_file(prep, file, tmp_path):
    out = tmp_path / "partial.json"
    code, output = prep("drop-annotations", file, "--ratio", "0.25", "--seed", "3", "--out", out, "--json")
    assert code == 0, output
    found = json.loads(output)
    assert (found["ratio"], found["seed"], found["boxes"], found["dropped"], found["kept"]) == (0.25, 3, 3, 1, 2)
    assert (found["file"], found["out"]) == (str(file), str(out))
    assert len(json.loads(out.read_text())["annotations"]) == 2
    code, output = prep("drop-annotations", file, "--ratio", "0.25", "--seed", "3", "--out", out)
    assert code == 0
    assert "2 of 3 stay; 1 dropped, 33.3%" in output
    assert "would be overwritten" in error_of(prep("drop-annotations", file, "--ratio", "0.5", "--out", file))
    code, output = prep("drop-annotations", file, "--ratio", "1.5", "--out", out)
    assert (code, "--ratio" in output) == (2, True)
