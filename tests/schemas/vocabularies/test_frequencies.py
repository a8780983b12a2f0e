"""Rare, common and frequent classes of any data."""

import pytest

from richsem_schemas.vocabularies.frequencies import LVIS_RULE, derived_frequencies
from richsem_schemas.vocabularies.lvis import lvis_categories


def test_lvis_categories_have_the_letters_that_lvis_gives_them():
    categories = lvis_categories()
    letters, rule = derived_frequencies([each.image_count for each in categories])
    assert letters == [each.frequency for each in categories]
    assert rule == LVIS_RULE


@pytest.mark.parametrize(
    ("counts", "letters"),
    [
        ([3, 5, 9], "rcf"),
        ([500, 200, 300, 200], "frfr"),
        ([1, 10], "rf"),
        ([12, 12, 12, 90], "cccf"),
        ([2, 2, 2, 2, 3], "ccccf"),
        ([7, 7, 7], "ccc"),
        ([4], "c"),
        ([], ""),
    ],
)
def test_thirds_where_the_rule_tells_none_apart(counts, letters):
    assert "".join(derived_frequencies(counts)[0]) == letters


def test_rule_in_words():
    rule = derived_frequencies([3, 5, 9])[1]
    assert "at most 3" in rule
    assert "in 9 or more" in rule
