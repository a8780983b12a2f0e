"""Frequencies of categories against hand-computed ones and the readers of pycocotools and lvis."""

import json
from collections import Counter
from pathlib import Path

import pytest

from richsem_prep.analyses.frequency import CategoryCount, FrequencyShare, count_frequency
from richsem_prep.analyses.frequency_figure import draw_frequencies
from richsem_schemas.errors import SourceError
from tests import detection_trees as trees
from tests.schemas.annotations.coco_content import annotation, category, content, image, written

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


def shared(name):
    if not (SHARED / name).is_file():
        pytest.skip(f"no {SHARED / name}")
    return SHARED / name


def boxes(counts):
    """So many annotations of each category."""
    ids = [category_id for category_id, count in counts.items() for _ in range(count)]
    return [annotation(number, category_id=category_id) for number, category_id in enumerate(ids, 1)]


def of(folder, counts, **options):
    """Frequencies of a file whose categories 1 to 12 have so many boxes, the others none."""
    categories = [category(number, f"c{number}") for number in range(1, 13)]
    return count_frequency(written(folder, content([image(1), image(2)], boxes(counts), categories)), **options)


def test_the_figures_of_a_file_are_those_by_hand(tmp_path):
    found = of(tmp_path, {1: 1, 2: 40, 3: 10, 5: 9, 6: 2})
    assert (found.label, found.pictures, found.categories, found.instances) == ("annotations", 2, 12, 62)
    assert (found.without_instances, found.below_ten) == (7, 10)
    assert [(count.name, count.instances) for count in found.counts[:6]] == [
        ("c2", 40), ("c3", 10), ("c5", 9), ("c6", 2), ("c1", 1), ("c4", 0),
    ]  # fmt: skip
    assert found.head_over_tail == 40
    assert (found.frequencies, found.notes) == (None, ())


@pytest.mark.parametrize(("categories", "ratio"), [(1, 1.0), (10, 10.0), (11, (11 + 10) / (1 + 2))])
def test_tenths_are_rounded_up(tmp_path, categories, ratio):
    """Category n has n boxes, so that of eleven two are in a tenth."""
    found = of(tmp_path, {number: number for number in range(1, categories + 1)})
    assert found.head_tenth_over_tail_tenth == pytest.approx(ratio)


def test_lvis_letters_have_their_shares(tmp_path):
    categories = [category(1, "a", frequency="r"), category(2, "b", frequency="f"), category(3, "d", frequency="f")]
    found = count_frequency(written(tmp_path, content(annotations=boxes({1: 1, 2: 6, 3: 1}), categories=categories)))
    assert found.frequencies == {
        "r": FrequencyShare(1, 1, 1 / 3, 1 / 8),
        "c": FrequencyShare(0, 0, 0.0, 0.0),
        "f": FrequencyShare(2, 7, 2 / 3, 7 / 8),
    }


def test_letters_of_some_categories_alone_are_none(tmp_path):
    categories = [category(1, "a", frequency="r"), category(2, "b")]
    assert count_frequency(written(tmp_path, content(categories=categories))).frequencies is None


def test_crowds_and_repeats_are_no_instances_and_odd_boxes_are(tmp_path):
    annotations = [
        annotation(1),
        annotation(1),
        annotation(2, iscrowd=1),
        annotation(3, bbox=[0.0, 0.0, 0.0, 5.0]),
        annotation(4, bbox=[100.0, 100.0, 5.0, 5.0]),
    ]
    found = count_frequency(written(tmp_path, content(annotations=annotations)))
    assert found.instances == 3
    assert found.notes == (
        "1 crowd regions, which are no instances",
        "1 annotations given twice under one id left out",
    )


def test_a_file_without_boxes_is_refused(tmp_path):
    with pytest.raises(SourceError, match="has no boxes, so that no category has a frequency"):
        of(tmp_path, {})


def test_openimages_are_counted_by_the_names_beside_them(tmp_path):
    root = trees.openimages_tree(tmp_path)
    expected = Counter((number + box) % 3 for number in range(8) for box in range(number % 3))
    found = count_frequency(root / "oidv6-train-annotations-bbox.csv")
    assert {count.name: count.instances for count in found.counts} == {
        name: expected[place] for place, (_, name) in enumerate(trees.OPENIMAGES_LABELS)
    }


def test_visual_genome_is_told_by_its_content(tmp_path):
    pictures = [{"image_id": 1, "width": 9, "height": 9, "url": "https://x/VG_100K/1.jpg"}]
    objects = [{"names": [name], "x": 1, "y": 1, "w": 2, "h": 2} for name in ["dog"] * 60 + ["cat"] * 50 + ["ant"] * 3]
    (tmp_path / "image_data.json").write_text(json.dumps(pictures))
    (tmp_path / "objects.json").write_text("\ufeff \n" + json.dumps([{"image_id": 1, "objects": objects}]))
    found = count_frequency(tmp_path / "objects.json", "VG")
    assert (found.label, found.counts) == ("VG", (CategoryCount(2, "dog", 60), CategoryCount(1, "cat", 50)))
    assert found.notes == ("3 boxes of names on fewer than 50 boxes left out",)


@pytest.mark.parametrize("name", ["a.json.gz", "a.txt", "a.json"])
def test_what_is_neither_json_nor_csv_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b\x08 [")
    with pytest.raises(SourceError, match=r"neither JSON, .* nor a \.csv of OpenImages"):
        count_frequency(tmp_path / name)


def test_counts_are_those_of_pycocotools(capsys):
    from pycocotools.coco import COCO

    path = shared("coco128/annotations/instances_train2017.json")
    coco = COCO(str(path))
    expected = {number: len(coco.getAnnIds(catIds=[number], iscrowd=False)) for number in coco.getCatIds()}
    found = count_frequency(path)
    assert {count.id: count.instances for count in found.counts} == expected
    assert found.pictures == len(coco.getImgIds())


def test_counts_are_those_of_lvis():
    from lvis import LVIS

    path = shared("lvis/lvis_val_100.json")
    lvis = LVIS(str(path))
    expected = {number: len(lvis.get_ann_ids(cat_ids=[number])) for number in lvis.get_cat_ids()}
    assert {count.id: count.instances for count in count_frequency(path).counts} == expected


def test_a_line_a_file_falls_from_head_to_tail(tmp_path):
    found = [of(tmp_path, {1: 1, 2: 1000, 3: 10}, label=label) for label in ("红色的狗", "two")]
    out = tmp_path / "figure.svg"
    draw_frequencies(found, out)
    first = out.read_bytes()
    draw_frequencies(found, out)
    assert out.read_bytes() == first
    # Names are drawn as shapes, and told beside them.
    text = first.decode()
    assert all(f"<!-- {said} -->" in text for said in ("红色的狗: 3 categories", "two: 3 categories", "1,000", "10"))
