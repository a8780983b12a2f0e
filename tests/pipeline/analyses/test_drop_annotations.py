"""Partial annotations against a plain computation on the whole file, and against what lvis makes of them."""

import itertools
import json
import math
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from richsem_prep.analyses import partial_file as room
from richsem_prep.analyses.drop_annotations import drop_annotations
from richsem_schemas.annotations import json_stream
from richsem_schemas.errors import RichSemError, SourceError
from richsem_schemas.scoring.detections import Detections
from tests import detection_trees as trees
from tests.schemas.annotations.coco_content import annotation, category, content, image, written
from tests.schemas.scoring.scoring_cases import LVIS_METRICS, lvis_oracle, small_lvis

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"
RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0)


def drop(path, ratio=0.5, seed=0, out=None):
    out = out or path.with_name(f"partial-{ratio}-{seed}.json")
    done = drop_annotations(path, out, ratio=ratio, seed=seed, on_progress=lambda *_: None)
    return json.loads(out.read_text()), done


def ids(dataset):
    return {each["id"] for each in dataset["annotations"]}


@pytest.fixture
def lvis(tmp_path):
    data = small_lvis(seed=3)
    for each in data["categories"]:
        boxes = [box for box in data["annotations"] if box["category_id"] == each["id"]]
        each |= {"image_count": len({box["image_id"] for box in boxes}), "instance_count": len(boxes)}
    return written(tmp_path, data), data


def test_ratios_of_one_seed_are_nested_and_every_category_keeps_a_box(lvis):
    path, data = lvis
    kept = [ids(drop(path, ratio)[0]) for ratio in RATIOS]
    assert all(more >= fewer for more, fewer in itertools.pairwise(kept))
    present = {each["category_id"] for each in data["annotations"]}
    count = len(data["annotations"])
    assert [len(each) for each in kept] == [max(count - round(ratio * count), len(present)) for ratio in RATIOS]
    for each in kept:
        assert {box["category_id"] for box in data["annotations"] if box["id"] in each} == present
    assert ids(drop(path, 0.5, seed=1)[0]) != kept[2]


def test_what_stays_is_as_it_was_and_what_was_lost_is_said(lvis):
    path, data = lvis
    partial, done = drop(path, 0.5)
    kept = ids(partial)
    assert partial["annotations"] == [each for each in data["annotations"] if each["id"] in kept]
    assert (partial["info"], partial["licenses"]) == (data["info"], data["licenses"])
    lost = {(each["image_id"], each["category_id"]) for each in data["annotations"] if each["id"] not in kept}
    marked = 0
    for before, after in zip(data["images"], partial["images"], strict=True):
        listed = before["not_exhaustive_category_ids"]
        added = sorted(each for owner, each in lost if owner == before["id"] and each not in listed)
        assert after == before | {"not_exhaustive_category_ids": listed + added}
        marked += len(added)
    for before, after in zip(data["categories"], partial["categories"], strict=True):
        boxes = [each for each in partial["annotations"] if each["category_id"] == before["id"]]
        counts = {"image_count": len({each["image_id"] for each in boxes}), "instance_count": len(boxes)}
        assert after == before | counts
    owners = Counter(each["image_id"] for each in data["annotations"])
    still = {each["image_id"] for each in partial["annotations"]}
    assert (done.pictures, done.categories, done.boxes, done.kept) == (8, 7, len(data["annotations"]), len(kept))
    assert (done.not_exhaustive, done.emptied_pictures, done.crowd_regions) == (marked, len(owners.keys() - still), 0)
    assert marked > 5


def perfect(data):
    """Detections that are the boxes of a file."""
    boxes = data["annotations"]
    return Detections(
        np.array([each["image_id"] for each in boxes]),
        np.array([each["category_id"] for each in boxes]),
        np.array([each["bbox"] for each in boxes]),
        # Those that are missing in the partial file come first: they would be false positives before true ones.
        np.array([1 / (1 + each["id"]) for each in boxes]),
    )


def crowded():
    """Six pictures with four things of one category each."""
    data = small_lvis()
    data["images"] = data["images"][:6]
    data["annotations"] = [
        annotation(4 * n + k + 1, image_id=each["id"], category_id=n % 3 + 1, bbox=[45 * k, 10 * k, 40, 30], area=1200)
        for n, each in enumerate(data["images"])
        for k in range(4)
    ]
    return data


def test_lvis_counts_no_box_that_was_dropped_as_a_false_positive(tmp_path):
    data = crowded()
    partial, _ = drop(written(tmp_path, data), 0.6)
    found = lvis_oracle(partial, perfect(data))
    assert [found[name] for name in ("AP", "AP50", "APr", "APc")] == pytest.approx([1.0] * 4)
    unsaid = partial | {
        "images": [now | {"not_exhaustive_category_ids": []} for now in partial["images"]],
    }
    assert lvis_oracle(unsaid, perfect(data))["AP"] < 0.9
    assert list(found) == LVIS_METRICS


def test_the_same_seed_gives_the_same_bytes_however_the_file_is_read(lvis, tmp_path):
    path, data = lvis
    pretty = tmp_path / "pretty.json"
    pretty.write_text("\ufeff" + json.dumps(data, indent=2))
    first, _ = drop(path)
    assert (tmp_path / "partial-0.5-0.json").read_bytes() == drop_bytes(path, tmp_path)
    assert drop(pretty)[0] == first
    # Records in pieces of a few hundred letters, decoded as their own bytes, and without that.
    with mock.patch.multiple(json_stream, _PIECE=300, _CHUNK=200, BATCH=3):
        assert drop(path, out=tmp_path / "pieces.json")[0] == first
    with mock.patch.object(json_stream._JsonText, "records", return_value=[]):
        assert drop(path, out=tmp_path / "parsed.json")[0] == first


def drop_bytes(path, folder):
    drop(path, out=folder / "again.json")
    return (folder / "again.json").read_bytes()


@pytest.mark.parametrize("name", ["coco128/annotations/instances_train2017.json", "lvis/lvis_val_100.json"])
def test_without_a_share_all_stays_and_real_files_can_be_read_again(tmp_path, name):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    data = json.loads(path.read_text())
    whole, done = drop(path, 0.0, out=tmp_path / "whole.json")
    assert done.dropped == 0
    # LVIS's val split has the counts of its training split; all else is the file's.
    counts = {"image_count", "instance_count"}
    for dataset in (data, whole):
        dataset["categories"] = [{k: each[k] for k in each.keys() - counts} for each in dataset["categories"]]
    assert whole == data
    half, done = drop(path, 0.5, out=tmp_path / "half.json")
    assert len(half["annotations"]) == done.kept + done.crowd_regions
    assert done.dropped == round(0.5 * done.boxes)


def test_a_category_keeps_a_box_that_can_be_learned_from(tmp_path):
    odd = [
        annotation(1, bbox=[10, 10, 0, 5]),
        annotation(2, bbox=[500, 10, 5, 5]),
        annotation(3, bbox=[10, 10, math.nan, 5]),
        annotation(4),
        annotation(5, iscrowd=1),
        annotation(6, category_id=2, bbox=[1, 1, 0, 0]),
    ]
    path = written(tmp_path, content(annotations=odd, categories=[category(1), category(2, "dog"), category(3, "ant")]))
    for seed in range(8):
        partial, done = drop(path, 1.0, seed)
        assert ids(partial) == {4, 5, 6}
        assert (done.boxes, done.dropped, done.crowd_regions) == (5, 3, 1)


def test_files_as_people_have_them_keep_what_they_hold(tmp_path):
    """No ids, repeats, values that no number can be, keys of their own, lists in another order."""
    text = """{"annotations": [
      {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1.10, 1, 5, 5], "note": "caf\\u00e9 \\ud800"},
      {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1.10, 1, 5, 5], "note": "again"},
      {"image_id": 1, "category_id": 2, "bbox": [2, 2, 5, 5], "area": NaN, "rle": {"counts": [1, {"a": "]}, {"}]}}],
      "licenses!": [], "more": {"x": [1e400, 12345678901234567890]}, "categories": [{"name": "é", "id": 1},
      {"id": 2, "name": "b", "image_count": "many", "instance_count": 9}], "images": [
      {"id": 1, "file_name": "1.png", "height": 40, "width": 60, "not_exhaustive_category_ids": null}], "version": 1.0}
    """
    path = written(tmp_path, text)
    partial, done = drop(path, 0.0)
    data = json.loads(text)
    del data["annotations"][1]
    data["categories"][1] |= {"image_count": 1, "instance_count": 1}
    assert json.dumps(partial) == json.dumps(data)
    assert done.boxes == 2


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_share_is_refused(tmp_path, ratio):
    with pytest.raises(RichSemError, match=r"--ratio .*: the share of boxes to drop is from 0 to 1"):
        drop(written(tmp_path, content()), ratio)


def test_other_formats_are_refused_with_the_remedy(tmp_path):
    root = trees.openimages_tree(tmp_path / "openimages")
    for path in (root / "oidv6-train-annotations-bbox.csv", trees.visual_genome_tree(tmp_path / "vg") / "objects.json"):
        with pytest.raises(RichSemError, match=r"JSON of COCO, LVIS and Objects365.*; write these as such JSON first"):
            drop(path)


@pytest.mark.parametrize("linked", [False, True])
def test_the_file_itself_is_never_written_over(tmp_path, linked):
    path = written(tmp_path, content())
    before = path.read_bytes()
    out = path
    if linked:
        out = tmp_path / "linked.json"
        out.symlink_to(path)
    with pytest.raises(RichSemError, match=r"would be overwritten, and this command reads it.*name another --out"):
        drop(path, out=out)
    assert path.read_bytes() == before


def test_what_breaks_leaves_the_file_that_was_there(tmp_path):
    path, out = written(tmp_path, content()), tmp_path / "out.json"
    out.write_text("before")
    with mock.patch.object(room, "json", mock.Mock(dumps=mock.Mock(side_effect=KeyboardInterrupt))):  # noqa: SIM117
        with pytest.raises(KeyboardInterrupt):
            drop(path, out=out)
    cut = tmp_path / "cut.json"
    cut.write_text(path.read_text()[:-5])
    with pytest.raises(SourceError, match="cut short"):
        drop(cut, out=out)
    assert out.read_text() == "before"
    assert not list(tmp_path.glob(".*"))


def test_pictures_without_boxes_stay(tmp_path):
    path = written(tmp_path, content(images=[image(1), image(2)]))
    partial, done = drop(path, 1.0)
    assert [each["id"] for each in partial["images"]] == [1, 2]
    assert (done.pictures, done.emptied_pictures) == (2, 0)


def test_progress_ends_at_all_records(lvis, tmp_path):
    path, data = lvis
    moves = []
    drop_annotations(path, tmp_path / "x.json", ratio=0.5, seed=0, on_progress=lambda *move: moves.append(move))
    total = len(data["images"]) + len(data["annotations"])
    assert moves[-1] == (total, total)
