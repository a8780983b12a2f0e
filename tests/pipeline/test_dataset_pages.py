"""Every dataset that `richsem-prep shard` knows has a page, and pages lead somewhere."""

import re
from pathlib import Path

import pytest

from richsem_prep.sources.datasets import DATASETS

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not part of the source distribution")


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_has_a_page_with_its_command_and_its_root(dataset):
    page = (DOCS / "datasets" / f"{dataset}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# `{dataset}`")
    assert f"richsem-prep shard --dataset {dataset} " in page
    assert f"$RICHSEM_DATA/{DATASETS[dataset].folder or dataset}`" in page


def test_every_page_is_of_a_dataset():
    assert {path.stem for path in (DOCS / "datasets").glob("*.md")} == set(DATASETS)


@pytest.mark.parametrize("dataset", DATASETS)
def test_links_of_pages_lead_to_files_and_headings(dataset):
    path = DOCS / "datasets" / f"{dataset}.md"
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert not heading or heading in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
