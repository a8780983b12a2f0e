"""The official evaluator of LVIS, behind `--scorer lvis`."""

import builtins

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring import evaluation
from richsem_schemas.scoring.detections import Detections
from richsem_train.results.official_lvis import official_cost, official_score, require_official
from tests.schemas.scoring.scoring_cases import (
    LVIS_METRICS,
    assert_equal_scores,
    lvis_oracle,
    no_detections,
    noisy_detections,
    small_lvis,
    truth_of,
)


@pytest.mark.parametrize(
    "kind",
    [{"levels": 1000, "strays": 20}, {"levels": 4, "strays": 400}, {"levels": 4, "strays": 320, "strangers": True}],
    ids=["distinct", "more-than-300", "unknown-categories"],
)
def test_it_gives_the_same_figures(kind):
    data = small_lvis()
    for number, annotation in enumerate(data["annotations"]):
        annotation |= {"iscrowd": number % 2, "area": annotation["area"] * (number % 5 > 0), "ignore": number % 7 == 0}
    truth, detections = truth_of(data), noisy_detections(data, **kind)
    official = official_score(truth, detections)
    assert list(official) == LVIS_METRICS
    assert official == lvis_oracle(data, detections)
    assert_equal_scores(evaluation.score(truth, detections), official)


def test_it_leaves_numpy_and_loggers_as_they_were_and_prints_nothing(capfd):
    official_score(truth_of(small_lvis()), noisy_detections(small_lvis()))
    assert "float" not in vars(np)
    assert capfd.readouterr() == ("", "")


def test_it_scores_what_was_read_and_not_the_file():
    data = small_lvis()
    detections = noisy_detections(data)
    expected = official_score(truth_of(data), detections)
    for image in data["images"]:
        image["id"] += 2**60
    for annotation in data["annotations"]:
        annotation["image_id"] += 2**60
        del annotation["id"]
    fields = vars(detections) | {"image_ids": detections.image_ids + 2**60}
    assert official_score(truth_of(data), Detections(**fields)) == expected


def test_it_is_for_lvis_and_for_some_detections():
    with pytest.raises(RichSemError, match=r"detection\.format.*leave --scorer out"):
        require_official(truth_of(small_lvis(), "coco"))
    require_official(truth_of(small_lvis()))
    with pytest.raises(RichSemError, match="nothing at all is detected"):
        official_score(truth_of(small_lvis()), no_detections())


def test_a_missing_library_of_opencv_is_named_with_its_packages(monkeypatch):
    def refusing(name, *args, **kwargs):
        if name == "lvis":
            raise ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
        return whole(name, *args, **kwargs)

    whole, truth = builtins.__import__, truth_of(small_lvis())
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(RichSemError, match=r"libGL\.so\.1.*apt install libgl1 libglib2\.0-0 libxcb1"):
        require_official(truth)


def test_its_cost_is_that_which_was_measured():
    """3,000 pictures of LVIS with 300 detections each: 3.45 GB and 63 seconds."""
    categories = [{"id": n, "name": str(n), "frequency": "f"} for n in range(1, 1204)]
    image = {"height": 9, "width": 9, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    images = [image | {"id": number} for number in range(3000)]
    cost = official_cost(truth_of({"images": images, "annotations": [], "categories": categories}), 3000 * 300)
    assert 3.3 < cost.gigabytes < 3.9
    assert 45 < cost.seconds < 80
    assert str(cost) == "about 3.5 GB of memory and 63 seconds"
