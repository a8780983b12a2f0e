"""Category ids as people's tools write them."""

import json

import pytest

from richsem_prep.sources.datasets import open_source
from richsem_schemas.errors import SourceError
from tests import detection_trees as trees


def with_ids(root, ids, names=None):
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["name"] = (names or {}).get(category["id"], category["name"])
        category["id"] = ids[category["id"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
    path.write_text(json.dumps(content))
    return root


def opened(root):
    return open_source("coco", root)


@pytest.mark.parametrize("ids", [{1: 0, 13: 1, 90: 2}, {1: 0, 13: 7, 90: 900_000}])
def test_rows_are_categories_in_the_order_of_ids_that_begin_at_0(tmp_path, ids):
    expected = opened(trees.coco_tree(tmp_path / "plain"))
    found = opened(with_ids(trees.coco_tree(tmp_path / "other"), ids))
    assert found.vocabulary.class_names == expected.vocabulary.class_names == ("none", "person", "car", "toothbrush")
    rows = [[entry.boxes.rows.tolist() for entry in source.entries()] for source in (found, expected)]
    assert rows[0] == rows[1]
    assert {row for picture in rows[0] for row in picture} == {1, 2, 3}


def test_a_category_0_of_the_name_of_row_0_is_refused(tmp_path):
    root = with_ids(trees.coco_tree(tmp_path), {1: 0, 13: 1, 90: 2}, names={1: "none"})
    with pytest.raises(SourceError, match="a class is called 'none', as row 0 of every vocabulary is; rename it"):
        opened(root)
