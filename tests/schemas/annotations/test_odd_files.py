"""Annotation files that are JSON, or nearly, and aren't what they seem: each is refused by what it is."""

import gzip
import json
import os
import subprocess
import sys
import zlib

import pytest

from richsem_schemas.annotations import read_annotations
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import SourceError
from tests.schemas.annotations.coco_content import annotation, category, content, image, read, written


def test_a_list_given_twice_is_refused_by_its_name(root):
    text = json.dumps(content())
    twice = text[:-1] + ', "annotations": ' + json.dumps([annotation(2)]) + "}"
    with pytest.raises(SourceError, match=r"annotations\.json: it has 'annotations' twice.*keep one"):
        read(root, twice)


@pytest.mark.parametrize("name", ["", "  ", "\t"])
def test_a_blank_category_name_is_refused_by_record(root, name):
    with pytest.raises(SourceError, match=r"categories\[1\] has the name .*can't name a class.*rename it"):
        read(root, content(categories=[category(), category(2, name)]))


def test_half_a_surrogate_pair_in_a_category_name_is_refused_by_record(root):
    with pytest.raises(SourceError, match=r"categories\[0\] has the name '\\ud800'") as error:
        read(root, content(categories=[category(1, "\ud800")]))
    str(error.value).encode()


@pytest.mark.parametrize("file_format", ["coco", "lvis"])
def test_an_image_count_that_nothing_holds_is_refused_with_the_range(root, file_format):
    with pytest.raises(SourceError, match=r"category 1 has the image_count 10+….*2\^63 - 1"):
        read(root, content(categories=[category(image_count=10**30)]), file_format)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_told(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(content()).encode(encoding))
    with pytest.raises(SourceError, match=r"a\.json: is UTF-16 or UTF-32.*save it as UTF-8"):
        list(stream_json(path))


@pytest.mark.parametrize("compress", [lambda data: gzip.compress(data, mtime=0), zlib.compress, lambda data: bytes(99)])
def test_compressed_files_and_zeros_are_not_taken_for_other_encodings(tmp_path, compress):
    path = tmp_path / "a.json"
    path.write_bytes(compress(json.dumps(content()).encode()))
    with pytest.raises(SourceError, match=r"not a JSON file.*still compressed"):
        list(stream_json(path))


@pytest.mark.parametrize("between", ["", "\n", "\n\n"])
def test_json_lines_and_joined_files_are_told(tmp_path, between):
    path = tmp_path / "a.json"
    path.write_text(between.join([json.dumps(content())] * 2))
    with pytest.raises(SourceError, match=r"more text follows after its end; is it JSON Lines") as error:
        list(stream_json(path))
    assert "cut short" not in str(error.value)


@pytest.mark.parametrize("reader", ["coco", "openimages", "visual-genome"])
def test_a_pipe_is_refused_and_nothing_waits_for_it(tmp_path, reader):
    path = tmp_path / "objects.json"
    os.mkfifo(path)
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/1,cat\n")
    code = (
        "import sys; from pathlib import Path; from richsem_schemas.annotations import read_annotations\n"
        "read_annotations(Path(sys.argv[1]), Path(sys.argv[1]).parent, file_format=sys.argv[2])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, path, reader], capture_output=True, text=True, timeout=60, check=False
    )
    assert f"SourceError: {path}: not a regular file, and only those are read" in ended.stderr


@pytest.mark.parametrize("is_scored", [False, True])
@pytest.mark.parametrize("names", [("1.png", "1.png"), ("1.png", "./1.png")])
def test_two_records_of_one_picture_are_refused_by_both_programs_reader(root, names, is_scored):
    images = [image(7, file_name=names[0]), image(9, file_name=names[1])]
    path = written(root.parent, content(images, [annotation(image_id=7)]))
    with pytest.raises(SourceError, match=r"2 images are called '1\.png' \(ids 7, 9\).*list each picture once"):
        read_annotations(path, root, file_format="coco", is_scored=is_scored)


def test_names_that_are_one_file_only_once_their_folders_are_cut_are_refused(root):
    images = [image(7, file_name="a/2.png"), image(9, file_name="b/2.png")]
    with pytest.raises(SourceError, match=r"2 images are called '2\.png'"):
        read(root, content(images, [annotation(image_id=7)]))


def fractions_line(data):
    return [line for line in data.problem_lines() if "fractions" in line]


@pytest.mark.parametrize("is_scored", [False, True])
def test_boxes_written_as_fractions_are_told(root, is_scored):
    boxes = [[0.1 * n, 0.2, 0.25, 0.5] for n in range(5)]
    path = written(root.parent, content(annotations=[annotation(n, bbox=box) for n, box in enumerate(boxes)]))
    data = read_annotations(path, root, file_format="coco", is_scored=is_scored)
    (line,) = fractions_line(data)
    assert line.startswith("5 boxes within the first pixel of their picture: they seem to be fractions")


def test_a_few_tiny_boxes_among_boxes_in_pixels_are_no_fractions(root):
    boxes = [[0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.5, 0.5], [3.0, 4.0, 5.0, 6.0]]
    data = read(root, content(annotations=[annotation(n, bbox=box) for n, box in enumerate(boxes)]))
    assert fractions_line(data) == []


def test_openimages_fractions_are_as_they_should_be(tmp_path):
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/1,cat\n")
    (tmp_path / "a.jpg").write_bytes(b"")
    path = tmp_path / "boxes.csv"
    path.write_text("ImageID,LabelName,XMin,XMax,YMin,YMax\na,/m/1,0.1,0.5,0.2,0.6\n")
    assert read_annotations(path, tmp_path, file_format="openimages").problem_lines() == []
