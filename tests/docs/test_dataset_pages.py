"""Every dataset that `richsem-prep shard` knows has a page."""

import pytest

from richsem_prep.sources.datasets import DATASETS
from tests.docs.blocks import DOCS

INDEX = "index"


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_has_a_page_with_its_command_and_its_root(dataset):
    page = (DOCS / "datasets" / f"{dataset}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# `{dataset}`")
    assert f"richsem-prep shard --dataset {dataset} " in page
    assert f"$RICHSEM_DATA/{DATASETS[dataset].folder or dataset}`" in page


def test_every_page_is_of_a_dataset():
    assert {path.stem for path in (DOCS / "datasets").glob("*.md")} == {*DATASETS, INDEX}


def test_the_list_of_datasets_leads_to_every_page():
    listed = (DOCS / "datasets" / f"{INDEX}.md").read_text(encoding="utf-8")
    assert [dataset for dataset in DATASETS if f"[`{dataset}`]({dataset}.md)" not in listed] == []
