"""Which classes APr, APc and APf are of, and by whose word."""

import pytest

from richsem_schemas.annotations import Category
from richsem_schemas.scoring.class_frequencies import ClassFrequencies, frequencies_of, scored_frequencies
from richsem_schemas.scoring.evaluation import GroundTruth, score
from tests.schemas.scoring.scoring_cases import assert_equal_scores, coco_oracle, noisy_detections, small_lvis, truth_of

COUNTS = [3, 11, 500]


def categories(counts=COUNTS, letters=(None, None, None)):
    return tuple(
        Category(id=10 * number, name=str(number), frequency=letter, image_count=count)
        for number, (count, letter) in enumerate(zip(counts, letters, strict=True), 1)
    )


def test_given_frequencies_are_taken_whatever_is_counted_or_known_of_training():
    trained = ClassFrequencies({10: "r", 20: "r", 30: "r"}, "elsewhere")
    found = scored_frequencies(categories(letters="fcr"), "val.json", trained)
    assert found.letters == {10: "f", 20: "c", 30: "r"}
    assert found.rule == "as val.json gives them"


def test_training_frequencies_come_before_the_files_own_and_a_class_that_was_never_seen_is_rare():
    trained = ClassFrequencies({10: "f", 30: "c", 99: "f"}, "by a rule")
    found = scored_frequencies(categories(), "val.json", trained)
    assert found.letters == {10: "f", 20: "r", 30: "c"}
    assert found.rule == "by a rule"


def test_without_either_the_pictures_of_the_file_tell_and_the_rule_says_so():
    found = scored_frequencies(categories(), "val.json", None)
    assert found.letters == {10: "r", 20: "c", 30: "f"}
    assert found.rule.startswith("by LVIS's rule: rare in 1 to 10 training pictures")
    assert found.rule.endswith("pictures as of val.json, the scored split, for want of the training split's")


def test_frequencies_of_some_classes_alone_are_not_taken():
    found = frequencies_of(categories(letters=("f", None, "r")), "train.json")
    assert found.letters == {10: "r", 20: "c", 30: "f"}
    assert found.rule.endswith("; pictures as of train.json")


@pytest.mark.parametrize("metric", ["coco", "boxes"])
def test_groups_of_training_frequencies_are_what_pycocotools_says_of_their_classes(metric):
    data = small_lvis(seed=2)
    letters = dict(zip([each["id"] for each in data["categories"]], "fcrrfcf", strict=True))
    detections = noisy_detections(data, levels=50)
    for each in data["categories"]:
        del each["frequency"]
    truth = truth_of(data, "coco")
    found = score(GroundTruth(truth.annotations, metric, ClassFrequencies(letters, "by hand")), detections)
    for each in data["categories"]:
        each["frequency"] = letters[each["id"]]
    expected = coco_oracle(data, detections)
    assert list(found) == [name for name in expected if metric == "coco" or name not in ("AP75", "APs", "APm", "APl")]
    assert_equal_scores(found, {name: expected[name] for name in found})
    assert len({found["APr"], found["APc"], found["APf"]}) == 3


def test_a_frequency_that_no_class_has_is_minus_one_in_cocos_protocol_as_in_lviss():
    data = small_lvis()
    for each in data["categories"]:
        each["frequency"] = "c"
    truth = truth_of(data, "coco")
    found = score(truth, noisy_detections(data))
    assert found["APr"] == found["APf"] == -1
    assert found["APc"] == found["AP"]
    assert truth.frequencies.rule == "as val.json gives them"
