"""A list names some pictures of a split, and they are scored as if the file had no others."""

import json

import numpy as np
import pytest

from richsem_schemas.annotations import read_annotations
from richsem_schemas.annotations.picture_list import chosen_pictures
from richsem_schemas.errors import SourceError
from richsem_schemas.scoring.evaluation import score, truth_of
from tests.schemas.scoring.scoring_cases import noisy_detections, small_lvis

NAMES = [f"{folder}/{number:012d}.jpg" for folder in ("train2017", "val2017") for number in range(4)]


def read(content, folder, file_format="lvis"):
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(content))
    return read_annotations(path, folder, file_format=file_format, is_scored=True, may_miss=True)


@pytest.fixture
def content():
    content = small_lvis()
    for image, name in zip(content["images"], NAMES, strict=True):
        image["file_name"] = name
    return content


@pytest.fixture
def data(content, tmp_path):
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return read(content, tmp_path)


def chosen(data, tmp_path, text):
    path = tmp_path / "list.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return chosen_pictures(data, path).tolist()


@pytest.mark.parametrize(
    "text",
    [
        "3\n63\n43\n",
        "\n 0000000063\r\n3\n\n43\n43",
        "train2017/000000000000.jpg\nval2017/000000000002.jpg\nval2017/000000000000.jpg",
        "3\nval2017/000000000002.jpg\n43",
        "\ufeff3\n63\n43",
        "[3, 63, 43]",
        ' ["val2017/000000000000.jpg", 3, 63, 3]',
        '{"info": {"year": 2021}, "images": [{"id": 63}, {"id": 3, "height": 4}, {"id": 43}], "annotations": [{}]}',
    ],
    ids=["ids", "blanks", "names", "mixed", "mark", "json", "json-names", "annotations"],
)
def test_pictures_are_named_by_id_or_name_in_lines_or_json(data, tmp_path, text):
    assert chosen(data, tmp_path, text) == [0, 4, 6]


def test_the_last_part_of_a_name_will_do_where_one_picture_has_it(content, tmp_path, data):
    content["images"][5]["file_name"] = "val2017/another.jpg"
    (tmp_path / "val2017/another.jpg").touch()
    assert chosen(read(content, tmp_path), tmp_path, "another.jpg\n000000000001.jpg") == [1, 5]
    with pytest.raises(SourceError, match=r"'000000000001\.jpg' ends the names of several pictures; write the whole"):
        chosen(data, tmp_path, "000000000001.jpg")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no pictures"),
        ("[]", "names no pictures"),
        ('{"image": [1]}', "names no pictures"),
        ("3\n4\nno.jpg", r"2 of 3 pictures are not among the annotations' 8, by id or by name: 4, 'no\.jpg'; give"),
        ("[3.0]", r"\[0\] is 3\.0; a picture is given by its id or its file name"),
        ("[true]", r"\[0\] is true"),
        ("[3, [63]]", r"\[1\] is \[63\]"),
        (f"[{2**70}]", r"\[0\] is 1180591620717411303424"),
        (str(2**70), "1 of 1 pictures are not among"),
        ('{"images": [{"id": 3}, 4]}', r"images\[1\] has no id"),
        ("[3, 63", "not a JSON file"),
        (b"\xff\xfe3\0", "no text in UTF-8"),
        ("../../etc/passwd", "1 of 1 pictures are not among"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_their_name(data, tmp_path, text, message):
    with pytest.raises(SourceError, match=rf"list\.txt: .*{message}"):
        chosen(data, tmp_path, text)


def test_a_list_that_is_not_there_or_no_file_is_refused(data, tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(SourceError, match=path.name):
            chosen_pictures(data, path)


@pytest.mark.parametrize("file_format", ["lvis", "coco"])
def test_a_part_is_scored_as_a_file_of_these_pictures_alone_is(content, data, tmp_path, file_format):
    data = read(content, tmp_path, file_format)
    pictures = np.array([1, 2, 6, 7])
    part = data.of_pictures(pictures)
    ids = data.image_ids[pictures]
    content["images"] = [each for each in content["images"] if each["id"] in ids]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in ids]
    alone = read(content, tmp_path, file_format)
    assert part.files == alone.files
    for name in ("image_ids", "hws_px", "offsets", "boxes_xywh_px", "category_ids"):
        np.testing.assert_array_equal(getattr(part, name), getattr(alone, name), err_msg=name)
    # Of a category the pictures of the whole file are known, by which it is rare or not.
    assert [each.image_count for each in part.categories] == [each.image_count for each in data.categories]
    detections = noisy_detections(content, levels=3, strays=310)
    found = score(truth_of(part, file_format), detections)
    assert found == score(truth_of(alone, file_format), detections)
    assert found["AP"] > 0
