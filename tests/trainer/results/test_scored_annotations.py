"""What is scored is what the reader of annotations read, however odd the file; the right values are `lvis`' own."""

import json

import numpy as np
import pytest

from richsem_schemas.annotations import read_annotations
from richsem_schemas.errors import RichSemError, SourceError
from richsem_train.results.detections import Detections
from richsem_train.results.evaluation import score
from richsem_train.results.official_lvis import official_cost, official_score, require_official
from tests.trainer.results.test_evaluation import (
    LVIS_METRICS,
    assert_equal_scores,
    coco_oracle,
    lvis_oracle,  # noqa: F401 - a fixture
    no_detections,
    noisy_detections,
    small_lvis,
)
from tests.trainer.truth import truth_in

METRICS = ["lvis", "coco"]


@pytest.fixture
def scored(tmp_path):
    """Scores of a file of this content, text or value."""

    def run(content, detections, metric="lvis"):
        path = tmp_path / "val.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return score(truth_in(path, metric=metric), detections)

    return run


def found_in(data):
    return noisy_detections(data, levels=20, strays=30)


def with_ids(detections, change):
    return Detections(change(detections.image_ids), *(vars(detections)[key] for key in list(vars(detections))[1:]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shift", [2**53, 2**60, -1000, -(2**62)])
def test_image_ids_of_any_size_and_sign_score_the_same(scored, metric, shift):
    data = small_lvis()
    detections = found_in(data)
    expected = scored(data, detections, metric)
    for image in data["images"]:
        image["id"] += shift
    for annotation in data["annotations"]:
        annotation["image_id"] += shift
    assert scored(data, with_ids(detections, lambda ids: ids + shift), metric) == expected
    assert expected["AP"] > 0.05


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("ids", ["none", "null", "anew in each picture", "beyond float64"])
def test_ids_of_annotations_do_not_matter(scored, metric, ids):
    data = small_lvis()
    detections = found_in(data)
    expected = scored(data, detections, metric)
    seen = {}
    for number, annotation in enumerate(data["annotations"]):
        seen[annotation["image_id"]] = seen.get(annotation["image_id"], 0) + 1
        changed = {"null": None, "anew in each picture": seen[annotation["image_id"]], "beyond float64": 2**60 + number}
        if ids == "none":
            del annotation["id"]
        else:
            annotation["id"] = changed[ids]
    assert scored(data, detections, metric) == expected


@pytest.mark.parametrize("metric", METRICS)
def test_annotations_given_twice_under_one_id_count_once_and_are_said(scored, tmp_path, metric):
    data = small_lvis()
    detections = found_in(data)
    expected = scored(data, detections, metric)
    count = len(data["annotations"])
    data["annotations"] *= 2
    assert scored(data, detections, metric) == expected
    read = read_annotations(tmp_path / "val.json", pictures_of(data, tmp_path), file_format=metric, is_scored=True)
    assert f"{count} annotations given twice under one id left out" in read.problem_lines()


def pictures_of(data, folder):
    for image in data["images"]:
        image["file_name"] = f"{image['id']}.jpg"
        (folder / image["file_name"]).touch()
    (folder / "val.json").write_text(json.dumps(data))
    return folder


def test_crowds_are_ordinary_objects_of_lvis_as_lvis_says(scored, lvis_oracle):  # noqa: F811
    data = small_lvis()
    detections = found_in(data)
    before = scored(data, detections)
    for annotation in data["annotations"][::3]:
        annotation["iscrowd"] = 1
    assert_equal_scores(scored(data, detections), lvis_oracle(data, detections))
    assert scored(data, detections) == before


def test_crowds_are_ignored_regions_of_coco_as_pycocotools_says(scored):
    data = small_lvis()
    detections = found_in(data)
    before = scored(data, detections, "coco")
    for annotation in data["annotations"][::3]:
        annotation["iscrowd"] = 1
    assert_equal_scores(scored(data, detections, "coco"), coco_oracle(data, detections))
    assert scored(data, detections, "coco") != before


def test_annotations_to_be_ignored_are_as_lvis_has_them(scored, lvis_oracle):  # noqa: F811
    data = small_lvis()
    detections = found_in(data)
    before = scored(data, detections)
    for annotation in data["annotations"][::4]:
        annotation["ignore"] = 1
    assert_equal_scores(scored(data, detections), lvis_oracle(data, detections))
    assert scored(data, detections) != before


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("metric", METRICS)
def test_without_an_area_it_is_that_of_the_box(scored, lvis_oracle, metric, absent):  # noqa: F811
    data = small_lvis()
    detections = found_in(data)
    for annotation in data["annotations"]:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    expected = (lvis_oracle if metric == "lvis" else coco_oracle)(data, detections)
    for annotation in data["annotations"][::2]:
        if absent:
            del annotation["area"]
        else:
            annotation["area"] = None
    assert_equal_scores(scored(data, detections, metric), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_areas_are_the_files_own(scored, lvis_oracle, metric):  # noqa: F811
    data = small_lvis()
    detections = found_in(data)
    for number, annotation in enumerate(data["annotations"]):
        annotation["area"] = [10.0, 2000.0, 20000.0, 0, -3.0, 3e10][number % 6]
    expected = (lvis_oracle if metric == "lvis" else coco_oracle)(data, detections)
    assert_equal_scores(scored(data, detections, metric), expected)


@pytest.mark.parametrize("metric", METRICS)
def test_boxes_beyond_their_picture_or_of_zero_size_are_compared_as_written(scored, lvis_oracle, metric):  # noqa: F811
    data = small_lvis()
    detections = found_in(data)
    for number, annotation in enumerate(data["annotations"]):
        x, y, w, h = annotation["bbox"]
        annotation["bbox"] = [[x + 150, y, w, h], [x - 60, y, w, h], [x, y, 0, h], [x, y, w, h]][number % 4]
        annotation["area"] = 400.0
    expected = (lvis_oracle if metric == "lvis" else coco_oracle)(data, detections)
    assert_equal_scores(scored(data, detections, metric), expected)


def test_boxes_that_are_not_finite_are_left_out_and_said(scored, tmp_path):
    data = small_lvis()
    detections = found_in(data)
    kept = data["annotations"][1:]
    expected = scored(data | {"annotations": kept}, detections)
    data["annotations"][0]["bbox"][1] = float("nan")
    assert scored(data, detections) == expected
    read = read_annotations(tmp_path / "val.json", pictures_of(data, tmp_path), is_scored=True)
    assert read.problem_lines() == ["1 boxes with NaN or infinite numbers left out"]


def other_forms(data):
    yield b"\xef\xbb\xbf" + json.dumps(data).encode()
    yield json.dumps({"licenses": "CC-BY", "license": 7, "info": None} | data | {"info": "mine"}).encode()
    for annotation in data["annotations"]:
        annotation["segmentation"] = [1, 2, 3, 4]
    yield json.dumps(data, indent=1).encode()


@pytest.mark.parametrize("metric", METRICS)
def test_a_byte_order_mark_texts_for_objects_and_flat_segmentations_score_the_same(scored, metric):
    data = small_lvis()
    detections = found_in(data)
    expected = scored(data, detections, metric)
    assert [scored(form, detections, metric) for form in other_forms(data)] == [expected] * 3


@pytest.mark.parametrize("metric", METRICS)
def test_category_ids_may_begin_at_0_and_have_large_gaps(scored, lvis_oracle, metric):  # noqa: F811
    data = small_lvis()
    detections = found_in(data)
    expected = scored(data, detections, metric)
    ids = [0, 5, 90, 1204, 900_000, 900_001, 1_000_000]
    for category in data["categories"]:
        category["id"] = ids[category["id"] - 1]
    for annotation in data["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"] - 1]
    for image in data["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [ids[each - 1] for each in image[key]] + [777]
    moved = Detections(
        detections.image_ids,
        np.array(ids)[detections.category_ids - 1],
        detections.boxes_xywh_px,
        detections.scores,
    )
    assert scored(data, moved, metric) == expected
    assert_equal_scores(expected, (lvis_oracle if metric == "lvis" else coco_oracle)(data, moved))


def test_pictures_in_another_order_score_as_lvis_has_them(scored, lvis_oracle):  # noqa: F811
    data = small_lvis()
    detections = noisy_detections(data, levels=2, strays=40)
    data["images"] = data["images"][::-1]
    assert_equal_scores(scored(data, detections), lvis_oracle(data, detections))


@pytest.mark.parametrize("key", ["neg_category_ids", "not_exhaustive_category_ids"])
def test_lvis_without_what_its_metric_needs_is_refused(scored, key):
    data = small_lvis()
    for image in data["images"][3:]:
        del image[key]
    with pytest.raises(SourceError, match=rf"val\.json: `{key}` of images\[3\] .*detection\.format: coco"):
        scored(data, no_detections())
    assert scored(data, no_detections(), "coco")["AP"] == 0


@pytest.mark.parametrize("metric", METRICS)
def test_without_boxes_nothing_is_defined(scored, metric):
    data = small_lvis()
    assert set(scored(data | {"annotations": []}, found_in(data), metric).values()) == {-1}


# The official evaluator


@pytest.mark.parametrize(
    "kind",
    [{"levels": 1000, "strays": 20}, {"levels": 4, "strays": 400}, {"levels": 4, "strays": 320, "strangers": True}],
    ids=["distinct", "more-than-300", "unknown-categories"],
)
def test_the_official_scorer_gives_the_same_figures(tmp_path, lvis_oracle, kind):  # noqa: F811
    data = small_lvis()
    for number, annotation in enumerate(data["annotations"]):
        annotation |= {"iscrowd": number % 2, "area": annotation["area"] * (number % 5 > 0), "ignore": number % 7 == 0}
    path = tmp_path / "val.json"
    path.write_text(json.dumps(data))
    truth = truth_in(path)
    detections = noisy_detections(data, **kind)
    official = official_score(truth, detections)
    assert list(official) == LVIS_METRICS
    assert official == lvis_oracle(data, detections)
    assert_equal_scores(score(truth, detections), official)


def test_the_official_scorer_leaves_numpy_and_loggers_as_they_were_and_prints_nothing(tmp_path, capfd):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(small_lvis()))
    official_score(truth_in(path), found_in(small_lvis()))
    assert "float" not in vars(np)
    assert capfd.readouterr() == ("", "")


def test_the_official_scorer_scores_what_was_read_and_not_the_file(tmp_path):
    data = small_lvis()
    path = tmp_path / "val.json"
    path.write_text(json.dumps(data))
    expected = official_score(truth_in(path), found_in(data))
    data["annotations"] *= 2
    for image in data["images"]:
        image["id"] += 2**60
    for annotation in data["annotations"]:
        annotation["image_id"] = annotation["image_id"] % 2**60 + 2**60
        annotation.pop("id", None)
    data["annotations"] = data["annotations"][: len(data["annotations"]) // 2]
    path.write_text(json.dumps(data))
    assert official_score(truth_in(path), with_ids(found_in(small_lvis()), lambda i: i + 2**60)) == expected


def test_the_official_scorer_is_for_lvis_and_for_some_detections(tmp_path):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(small_lvis()))
    with pytest.raises(RichSemError, match=r"detection\.format.*leave --scorer out"):
        require_official(truth_in(path, metric="coco"))
    require_official(truth_in(path))
    with pytest.raises(RichSemError, match="nothing at all is detected"):
        official_score(truth_in(path), no_detections())


def test_a_missing_library_of_opencv_is_named_with_its_packages(tmp_path, monkeypatch):
    import builtins

    def refusing(name, *args, **kwargs):
        if name == "lvis":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return whole(name, *args, **kwargs)

    whole = builtins.__import__
    path = tmp_path / "val.json"
    path.write_text(json.dumps(small_lvis()))
    truth = truth_in(path)
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(RichSemError, match=r"libGL\.so\.1.*apt install libgl1 libglib2\.0-0 libxcb1"):
        require_official(truth)


def test_cost_of_the_official_scorer_is_that_which_was_measured(tmp_path):
    """3,000 pictures of LVIS with 300 detections each: 3.45 GB and 63 seconds."""
    path = tmp_path / "val.json"
    categories = [{"id": n, "name": str(n), "frequency": "f"} for n in range(1, 1204)]
    image = {"height": 9, "width": 9, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    images = [image | {"id": number} for number in range(3000)]
    path.write_text(json.dumps({"images": images, "annotations": [], "categories": categories}))
    cost = official_cost(truth_in(path), 3000 * 300)
    assert 3.3 < cost.gigabytes < 3.9
    assert 45 < cost.seconds < 80
    assert str(cost) == "about 3.5 GB of memory and 63 seconds"


def test_what_lvis_metric_needs_of_pictures_is_read_for_it_alone(tmp_path):
    path = tmp_path / "val.json"
    path.write_text(json.dumps(small_lvis()))
    scored = truth_in(path).annotations
    assert len(scored.image_ids) == 8
    assert scored.negative_ids is not None
    assert truth_in(path, metric="coco").annotations.negative_ids is None
