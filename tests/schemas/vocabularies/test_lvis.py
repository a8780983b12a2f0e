from collections import Counter

import pytest

from richsem_schemas.vocabularies.lvis import class_ids_by_wnid, inet_lvis_categories, lvis_categories


def test_lvis_has_1203_categories_with_ids_in_order():
    categories = lvis_categories()
    assert [category.id for category in categories] == list(range(1, 1204))
    assert Counter(category.frequency for category in categories) == {"r": 337, "c": 461, "f": 405}


def test_only_stop_sign_has_no_wnid():
    assert [category.name for category in lvis_categories() if category.wnid is None] == ["stop_sign"]


def test_inet_lvis_has_the_published_frequencies():
    categories = inet_lvis_categories()
    assert Counter(category.frequency for category in categories) == {"r": 277, "c": 390, "f": 330}
    assert all(category.in_imagenet21k for category in categories)


def test_a_category_reads_as_lvis_writes_it():
    category = lvis_categories()[0]
    assert (category.name, category.synset, category.wnid) == ("aerosol_can", "aerosol.n.02", "n02682922")
    assert (category.frequency, category.image_count, category.instance_count) == ("c", 64, 109)


def test_wnids_and_names_are_unique():
    assert len(class_ids_by_wnid(lvis_categories())) == 1202
    assert len({category.name for category in lvis_categories()}) == 1203


def test_two_categories_of_one_wnid_are_refused():
    first = lvis_categories()[0]
    with pytest.raises(ValueError, match=r"n02682922 .* 1 and 1"):
        class_ids_by_wnid([first, first])


def test_the_table_is_read_once():
    assert lvis_categories() is lvis_categories()
