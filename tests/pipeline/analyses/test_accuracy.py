import numpy as np
import pytest

from richsem_prep.analyses.accuracy import Accuracy, GroupSize, Hits
from richsem_prep.analyses.judged_classes import judged_classes
from richsem_schemas.errors import RichSemError
from richsem_schemas.vocabularies.known import known_vocabulary
from richsem_schemas.vocabularies.lvis import lvis_categories
from richsem_schemas.vocabularies.vocabulary import Vocabulary

VOCABULARY = Vocabulary(name="v", class_names=("none", "ant", "bee", "cat", "dog"))
TEXT = ("none", "dog", "cat", "ant")
"""Another order, and without the bee."""

FREQUENCIES = {"ant": "r", "bee": "c", "cat": "f", "dog": "f"}


@pytest.fixture
def classes():
    return judged_classes(VOCABULARY, TEXT, FREQUENCIES)


def test_classes_are_found_in_the_text_by_name_and_none_is_no_class(classes):
    assert classes.text_rows.tolist() == [-1, 3, -1, 2, 1]
    assert classes.rows_of_text.tolist() == [-1, 4, 3, 1]
    assert classes.in_group("frequent").tolist() == [False, False, False, True, True]


def test_accuracies_are_those_counted_by_hand(classes):
    # Boxes: three ants (ranks 1, 2, 3), a cat (rank 1), a dog (rank 3), a bee and one without a class.
    categories = np.array([1, 1, 1, 3, 4, 2, 0])
    ids = np.array([[3, 0, 1], [1, 3, 0], [0, 1, 3], [2, 3, 0], [0, 2, 1], [0, 1, 2], [0, 1, 2]])
    hits = Hits.of(ids, categories, classes, (1, 2, 3))
    assert hits.boxes.tolist() == [0, 3, 0, 1, 1]
    assert hits.sizes(classes) == {
        "all": GroupSize(5, 3), "rare": GroupSize(3, 1), "common": GroupSize(0, 0), "frequent": GroupSize(2, 2),
    }  # fmt: skip
    third = pytest.approx(1 / 3)
    assert hits.accuracies(classes) == (
        Accuracy(
            1,
            {"all": pytest.approx((1 / 3 + 1 + 0) / 3), "rare": third, "common": None, "frequent": 0.5},
            {"all": 0.4, "rare": third, "common": None, "frequent": 0.5},
        ),
        Accuracy(
            2,
            {"all": pytest.approx((2 / 3 + 1 + 0) / 3), "rare": pytest.approx(2 / 3), "common": None, "frequent": 0.5},
            {"all": 0.6, "rare": pytest.approx(2 / 3), "common": None, "frequent": 0.5},
        ),
        Accuracy(3, {"all": 1.0, "rare": 1.0, "common": None, "frequent": 1.0},
                 {"all": 1.0, "rare": 1.0, "common": None, "frequent": 1.0}),
    )  # fmt: skip


def test_counts_of_parts_add_up_to_those_of_the_whole(classes):
    rng = np.random.default_rng(0)
    categories = rng.integers(0, 5, 60)
    ids = np.argsort(rng.random((60, 4)), axis=1)
    whole = Hits.of(ids, categories, classes, (1, 3))
    parts = Hits.none((1, 3), 5)
    for part in np.split(np.arange(60), [0, 7, 40]):
        parts += Hits.of(ids[part], categories[part], classes, (1, 3))
    np.testing.assert_array_equal(parts.boxes, whole.boxes)
    np.testing.assert_array_equal(parts.hits, whole.hits)


def test_frequencies_of_lvis_are_known_and_of_others_not():
    lvis = known_vocabulary("lvis")
    known = judged_classes(lvis, lvis.class_names, None)
    assert known.have_frequencies
    for category in lvis_categories():
        assert known.letters[category.id] == category.frequency
    unknown = judged_classes(VOCABULARY, TEXT, None)
    assert not unknown.have_frequencies
    ids, categories = np.array([[3]]), np.array([1])
    [accuracy] = Hits.of(ids, categories, unknown, (1,)).accuracies(unknown)
    assert accuracy.over_categories == {"all": 1.0, "rare": None, "common": None, "frequent": None}


def test_a_text_without_any_of_the_classes_is_refused():
    with pytest.raises(RichSemError, match=r"speak of 2 classes, and not one is among the v classes.*rescore"):
        judged_classes(VOCABULARY, ("none", "zebra"), None)
