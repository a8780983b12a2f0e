"""`richsem-prep suspects` as a user types it, and flipped labels of the demo that it finds."""

import json
import re

import numpy as np
import pytest

from richsem_prep.demo.dataset import VAL_ANNOTATIONS, write_demo
from tests.integration.programs import error_of
from tests.integration.shard_job import shard
from tests.pipeline.analyses.split import cache_of, write_split


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny split and a cache of its wholes; for reading only."""
    split = write_split(tmp_path_factory.mktemp("split"))
    return split, cache_of(split, split / "out").layout.out


@pytest.fixture(scope="module")
def flipped(tmp_path_factory):
    """A cache of some of the demo's scenes, 5% of whose labels are flipped; and the flipped boxes."""
    root = tmp_path_factory.mktemp("demo")
    write_demo(root / "data", pictures_per_class=1, val_instances_per_class=3)
    path = root / "data" / VAL_ANNOTATIONS
    content = json.loads(path.read_text())
    rng = np.random.default_rng(0)
    boxes, names = content["annotations"], {each["id"]: each["file_name"] for each in content["images"]}
    wrong = set()
    for number in rng.choice(len(boxes), round(0.05 * len(boxes)), replace=False).tolist():
        boxes[number]["category_id"] = (boxes[number]["category_id"] + int(rng.integers(95))) % 96 + 1
        wrong.add((names[boxes[number]["image_id"]], *boxes[number]["bbox"]))
    (root / "flipped_val.json").write_text(json.dumps(content))
    shard(
        root / "data", root / "out", "demo", dataset="demo-detection", label_set="demo", crops=None, mosaics=None,
        pictures=None, teacher_size=192, windows=0, whole=True, embeddings="none",
        annotations=root / "flipped_val.json",
    )  # fmt: skip
    return root, wrong


def test_flipped_labels_of_the_demo_are_found(prep, flipped):
    """docs/teachers.md has the figures of the whole demo."""
    root, wrong = flipped
    options = ("--annotations", root / "flipped_val.json", "--most", 2 * len(wrong))
    code, output = prep("suspects", root / "out", *options, "--json")
    assert code == 0, output
    found = json.loads(output)
    ranked = sorted(found["suspects"], key=lambda each: -each["score"])
    hits = [(each["picture"], *np.round(each["box_xywh"], 3)) in wrong for each in ranked]
    assert len(wrong) >= 10
    assert np.mean(hits[: len(wrong)]) >= 0.75
    assert sum(hits[: 2 * len(wrong)]) >= 0.95 * len(wrong)
    # The flipped ones, and what the teacher itself takes for another class.
    assert len(wrong) <= found["contradicted"] < 0.2 * found["boxes"]


def test_table_page_and_annotations_are_written(prep, small, tmp_path):
    split, out = small
    html, clean = tmp_path / "suspects.html", tmp_path / "clean.json"
    options = ("--annotations", split / "val.json", "--html", html, "--without", clean, "--most", 6)
    code, output = prep("suspects", out, "--root", split, *options)
    assert code == 0, output
    assert f"{clean}: 34 of 40 boxes stay" in output.replace("\n", "")
    assert len(json.loads(clean.read_text())["annotations"]) == 34
    page = html.read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert not re.search(r"<script|https?://|src=\"(?!data:)", page)
    assert "Rare classes" in page
    found = json.loads(prep("suspects", out, "--annotations", split / "val.json", "--most", 6, "--json")[1])
    assert len(found["suspects"]) == 6
    assert all(each["picture"] in page for each in found["suspects"])


def test_names_are_escaped_in_the_page(prep, tmp_path):
    split = write_split(tmp_path)
    text = (split / "val.json").read_text().replace('"ant"', '"<script>alert(1)</script>"')
    (split / "val.json").write_text(text)
    out = cache_of(split, split / "out").layout.out
    code, output = prep("suspects", out, "--html", tmp_path / "page.html", "--most", 50)
    assert code == 0, output
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page


def test_mistakes_are_refused_by_value_rule_and_remedy(prep, small, finished_cache, tmp_path):
    split, out = small
    assert "--annotations" in error_of(prep("suspects", out, "--without", tmp_path / "x.json"))
    assert "lies in the cache" in error_of(prep("suspects", out, "--html", out / "page.html"))
    assert "there is no folder" in error_of(prep("suspects", out, "--html", tmp_path / "no" / "page.html"))
    val = split / "val.json"
    assert "would be overwritten" in error_of(prep("suspects", out, "--annotations", val, "--without", val))
    both = ("--annotations", val, "--without", tmp_path / "x", "--html", tmp_path / "x")
    assert "name two files" in error_of(prep("suspects", out, *both))
    assert "holds no cache" in error_of(prep("suspects", tmp_path))
    assert "without annotated boxes" in error_of(prep("suspects", finished_cache.layout.out))
    assert "--most 0" in prep("suspects", out, "--most", 0)[1] or prep("suspects", out, "--most", 0)[0] == 2
    assert not list(tmp_path.iterdir())


def test_a_cache_that_is_not_finished_is_refused(prep, small, tmp_path):
    split, _ = small
    cache = cache_of(split, tmp_path / "out")
    cache.layout.manifest.unlink()
    assert "is not finished" in error_of(prep("suspects", cache.layout.out))


def test_an_interrupt_leaves_no_file(prep, small, tmp_path, monkeypatch):
    split, out = small

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("richsem_prep.analyses.partial_file._write", interrupted)
    options = ("--annotations", split / "val.json", "--without", tmp_path / "clean.json")
    assert prep("suspects", out, *options)[0] != 0
    assert not list(tmp_path.iterdir())
