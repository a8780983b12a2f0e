import pytest

from richsem_schemas.vocabularies.imagenet21k import imagenet21k_names
from richsem_schemas.vocabularies.lvis import class_ids_by_wnid, inet_lvis_categories


def test_every_class_has_a_name_of_its_own():
    names = imagenet21k_names()
    assert len(names) == len(set(names.values())) == 21_841
    assert list(names) == sorted(names)
    assert set(class_ids_by_wnid(inet_lvis_categories())) <= set(names)
    assert names["n01440764"] == "tench"
    assert names["n02206856"] == "bee"


def test_words_that_several_classes_share_are_told_apart():
    names = imagenet21k_names()
    cranes = {wnid: name for wnid, name in names.items() if name.startswith("crane (")}
    assert set(cranes) == {"n02012849", "n03126707"}
    assert "wading bird" in cranes["n02012849"]
    assert "lifts and moves heavy objects" in cranes["n03126707"]


@pytest.mark.slow
def test_classes_and_words_are_those_of_timm():
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-22k")
    names = imagenet21k_names()
    assert list(names) == sorted(info.label_names())
    for wnid, name in names.items():
        words, _, definition = info.label_name_to_description(wnid, detailed=True).partition(": ")
        assert name in {words.partition(",")[0], words, f"{words} ({definition})"}
