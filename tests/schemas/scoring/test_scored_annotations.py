"""What is scored is what the reader of annotations read, however odd the file; the right values are `lvis`' own."""

import json

import numpy as np
import pytest

from richsem_schemas.annotations import read_annotations
from richsem_schemas.errors import SourceError
from richsem_schemas.scoring.detections import Detections
from tests.schemas.scoring.scoring_cases import (
    METRICS,
    ORACLES,
    assert_equal_scores,
    no_detections,
    noisy_detections,
    score,
    small_lvis,
    truth_of,
)


def found_in(data):
    return noisy_detections(data, levels=20, strays=30)


def with_ids(detections, change):
    return Detections(change(detections.image_ids), *(vars(detections)[key] for key in list(vars(detections))[1:]))


def problems_of(data, folder, metric="lvis"):
    """The lines that are said of a file with its pictures."""
    for image in data["images"]:
        image["file_name"] = f"{image['id']}.jpg"
        (folder / image["file_name"]).touch()
    (folder / "val.json").write_text(json.dumps(data))
    return read_annotations(folder / "val.json", folder, file_format=metric, is_scored=True).problem_lines()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shift", [2**53, 2**60, -1000, -(2**62)])
def test_image_ids_of_any_size_and_sign_score_the_same(metric, shift):
    data = small_lvis()
    detections = found_in(data)
    expected = score(data, detections, metric)
    for image in data["images"]:
        image["id"] += shift
    for annotation in data["annotations"]:
        annotation["image_id"] += shift
    assert score(data, with_ids(detections, lambda ids: ids + shift), metric) == expected
    assert expected["AP"] > 0.05


def anew_in_each_picture(data):
    seen = {}
    for annotation in data["annotations"]:
        seen[annotation["image_id"]] = annotation["id"] = seen.get(annotation["image_id"], 0) + 1
    return data


def each_with(key, value_of):
    """An edit of one field of all annotations: by number and box; None takes it away."""

    def edit(data):
        for number, annotation in enumerate(data["annotations"]):
            value = value_of(number, annotation[key]) if key in annotation else value_of(number, None)
            annotation[key] = value
            if value is ABSENT:
                del annotation[key]
        return data

    return edit


ABSENT = object()
MARKED = b"\xef\xbb\xbf"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "edit",
    [
        each_with("id", lambda *_: ABSENT),
        each_with("id", lambda *_: None),
        each_with("id", lambda number, _: number),
        each_with("id", lambda number, _: 2**60 + number),
        anew_in_each_picture,
        lambda data: data | {"annotations": 2 * data["annotations"]},
        lambda data: MARKED + json.dumps(data, indent=1).encode(),
        lambda data: {"licenses": "CC-BY", "license": 7} | data | {"info": "mine"},
        each_with("segmentation", lambda *_: [1, 2, 3, 4]),
    ],
    ids=["no ids", "ids of null", "ids from 0", "ids beyond float64", "ids anew in each picture", "all given twice",
         "byte order mark", "texts for objects", "flat segmentations"],
)  # fmt: skip
def test_what_makes_no_difference_to_the_score(metric, edit):
    data = small_lvis()
    detections = found_in(data)
    expected = score(data, detections, metric)
    assert score(edit(data), detections, metric) == expected


def test_crowds_are_ordinary_objects_of_lvis():
    data = small_lvis()
    detections = found_in(data)
    before = score(data, detections)
    crowds = each_with("iscrowd", lambda number, _: int(number % 3 == 0))(data)
    assert score(crowds, detections) == before
    assert_equal_scores(before, ORACLES["lvis"](crowds, detections))


OTHER_BOXES = (
    lambda x, y, w, h: [x + 150, y, w, h],
    lambda x, y, w, h: [x - 60, y, w, h],
    lambda x, y, w, h: [x, y, 0, h],
    lambda x, y, w, h: [x, y, w, h],
)


@pytest.mark.parametrize(
    ("metric", "edit"),
    [
        ("coco", each_with("iscrowd", lambda number, _: int(number % 3 == 0))),
        ("lvis", each_with("ignore", lambda number, _: int(number % 4 == 0))),
        *((metric, each_with("area", lambda number, _: [10.0, 2000.0, 20000.0, 0, -3.0, 3e10][number % 6]))
          for metric in METRICS),
        *((metric, each_with("bbox", lambda number, box: OTHER_BOXES[number % 4](*box))) for metric in METRICS),
    ],
    ids=["crowds of coco", "ignored ones of lvis", "areas of lvis", "areas of coco", "boxes of lvis", "boxes of coco"],
)  # fmt: skip
def test_what_makes_a_difference_makes_the_official_one(metric, edit):
    data = small_lvis()
    detections = found_in(data)
    before = score(data, detections, metric)
    edited = edit(data)
    after = score(edited, detections, metric)
    assert after != before
    assert_equal_scores(after, ORACLES[metric](edited, detections))


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_without_an_area_it_is_that_of_the_box(metric, absent):
    data = small_lvis()
    detections = found_in(data)
    for annotation in data["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    expected = ORACLES[metric](data, detections)
    without = each_with("area", lambda number, area: area if number % 2 else ABSENT if absent else None)
    assert_equal_scores(score(without(data), detections, metric), expected)


def test_boxes_that_are_not_finite_are_left_out_and_said(tmp_path):
    data = small_lvis()
    detections = found_in(data)
    expected = score(data | {"annotations": data["annotations"][1:]}, detections)
    data["annotations"][0]["bbox"][1] = float("nan")
    assert score(data, detections) == expected
    assert problems_of(data, tmp_path) == ["1 boxes with NaN or infinite numbers left out"]


@pytest.mark.parametrize("metric", METRICS)
def test_annotations_given_twice_under_one_id_are_said(tmp_path, metric):
    data = small_lvis()
    count = len(data["annotations"])
    data["annotations"] *= 2
    assert f"{count} annotations given twice under one id left out" in problems_of(data, tmp_path, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_category_ids_may_begin_at_0_and_have_large_gaps(metric):
    data = small_lvis()
    detections = found_in(data)
    expected = score(data, detections, metric)
    ids = [0, 5, 90, 1204, 900_000, 900_001, 1_000_000]
    for category in data["categories"]:
        category["id"] = ids[category["id"] - 1]
    for image in data["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [ids[each - 1] for each in image[key]] + [777]
    data = each_with("category_id", lambda _, category_id: ids[category_id - 1])(data)
    moved = Detections(
        detections.image_ids, np.array(ids)[detections.category_ids - 1], detections.boxes_xywh_px, detections.scores
    )
    assert score(data, moved, metric) == expected
    assert_equal_scores(expected, ORACLES[metric](data, moved))


def test_pictures_in_another_order_score_as_lvis_has_them():
    data = small_lvis()
    detections = noisy_detections(data, levels=2, strays=40)
    data["images"] = data["images"][::-1]
    assert_equal_scores(score(data, detections), ORACLES["lvis"](data, detections))


@pytest.mark.parametrize(
    ("key", "of", "message"),
    [
        ("neg_category_ids", "images", r"val\.json: `neg_category_ids` of images\[3\] .*detection\.format: coco"),
        ("not_exhaustive_category_ids", "images", r"`not_exhaustive_category_ids` of images\[3\] .*: coco"),
        ("frequency", "categories", r"category 4 has no `frequency`.*detection.format: coco"),
    ],
)
def test_lvis_without_what_its_metric_needs_is_refused(key, of, message):
    data = small_lvis()
    for record in data[of][3:]:
        del record[key]
    with pytest.raises(SourceError, match=message):
        score(data, no_detections())
    assert score(data, no_detections(), "coco")["AP"] == 0


def test_what_lvis_metric_needs_of_pictures_is_read_for_it_alone():
    scored = truth_of(small_lvis()).annotations
    assert len(scored.image_ids) == 8
    assert scored.negative_ids is not None
    assert truth_of(small_lvis(), "coco").annotations.negative_ids is None
