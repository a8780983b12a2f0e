"""What is held while pictures are detected is what Fixed AP looks at."""

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections, join_pictures
from richsem_schemas.scoring.evaluation import best_of_each_category, score
from richsem_train.results import best_of_categories as module
from richsem_train.results.best_of_categories import best_of_categories
from tests.schemas.scoring.scoring_cases import small_lvis, truth_of


def pictures(count=40, *, seed=0, levels=7):
    """Pictures of up to 60 detections of few scores, so that most are equal, and of five categories."""
    rng = np.random.default_rng(seed)
    found = []
    for image_id in rng.permutation(count).tolist():
        size = int(rng.integers(0, 60))
        scores = -np.sort(-rng.integers(1, levels + 1, size) / np.float32(levels)).astype(np.float32)
        boxes = rng.random((size, 4)).astype(np.float32).cumsum(axis=1)
        found.append((image_id, PictureDetections(rng.choice([0, 3, 4, 9, 700], size), boxes, scores)))
    return found


def columns(found):
    joined = join_pictures(found)
    return [joined.image_ids, joined.category_ids, joined.boxes_xywh_px, joined.scores]


@pytest.mark.parametrize("limit", [1, 20, 10_000])
@pytest.mark.parametrize("new", [1, 100, 10**6], ids=["each-time", "now-and-then", "at-the-end"])
def test_what_is_kept_is_the_best_of_all_at_once(monkeypatch, limit, new):
    monkeypatch.setattr(module, "_MOST_NEW", new)
    found = pictures()
    ids = sorted(image_id for image_id, _ in found)
    kept = list(best_of_categories(iter(found), ids, limit))
    assert [image_id for image_id, _ in kept] == ids
    joined = join_pictures(sorted(found, key=lambda each: each[0]))
    best = best_of_each_category(joined.image_ids, joined.category_ids, joined.scores, limit)
    for ours, theirs in zip(columns(kept), columns(sorted(found, key=lambda each: each[0])), strict=True):
        np.testing.assert_array_equal(ours, theirs[best])


def test_shares_of_several_ranks_have_the_best_of_all_among_them():
    found = pictures(levels=3)
    together = list(best_of_categories(found, range(40), 15))
    shares = [list(best_of_categories(found[rank::3], [each for each, _ in found[rank::3]], 15)) for rank in range(3)]
    joined = sorted((each for share in shares for each in share), key=lambda each: each[0])
    again = list(best_of_categories(joined, range(40), 15))
    for ours, theirs in zip(columns(again), columns(together), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_is_no_number_stays_and_is_refused_when_scored(monkeypatch):
    monkeypatch.setattr(module, "_MOST_NEW", 1)
    data = small_lvis()
    ids = [each["id"] for each in data["images"]]
    boxes = np.array([[1, 1, 5, 5]] * 3, np.float32)
    found = [(image_id, PictureDetections(np.ones(3, int), boxes, np.array([0.9, 0.8, 0.7], "f4"))) for image_id in ids]
    found[-1][1].scores[2] = np.nan
    kept = join_pictures(list(best_of_categories(found, ids, 2)))
    with pytest.raises(RichSemError, match="not finite"):
        score(truth_of(data), kept)


def test_no_pictures_and_no_detections_are_fine():
    assert list(best_of_categories([], [], 5)) == []
    nothing = PictureDetections(np.zeros(0, int), np.zeros((0, 4), "f4"), np.zeros(0, "f4"))
    ((image_id, kept),) = best_of_categories([(7, nothing)], [7], 5)
    assert (image_id, len(kept)) == (7, 0)
