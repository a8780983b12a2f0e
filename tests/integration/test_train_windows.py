"""Detection and extra caches together: soft labels on both, the same steps however often the run was stopped."""

import re

import pytest
import torch

from richsem_prep.analyses.drop_annotations import drop_annotations
from richsem_schemas.annotations import read_annotations
from richsem_train.data.loaders import TrainingLoaders
from richsem_train.run.assemble import assemble
from richsem_train.run.distributed import Ranks
from richsem_train.run.log import LOG_NAME, read_log
from richsem_train.run.open_data import open_data
from tests.caches import WindowsCache
from tests.trainer.tiny import TRAIN, Quiet, losses_of, make_cache, make_world

STEPS = 2 * TRAIN // 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def caches(world, tmp_path_factory):
    """A config's changes: windows of the detection pictures, and two caches of extra data."""
    folder = tmp_path_factory.mktemp("caches")
    data = read_annotations(world.data / "train.json", world.data / "train")
    windows = WindowsCache(data, folder / "windows").make()
    more = make_cache(folder, pictures=16)
    return {
        "detection__labels": "cache",
        "detection__cache": str(windows.layout.out),
        "extra": [
            {"cache": str(world.cache), "lanes": 4},
            {"cache": str(more.layout.out), "lanes": 2, "weight": 0.5, "labels": "topk", "views": "crops"},
        ],
    }


@pytest.fixture(scope="module", params=["fresh", "stored"])
def trained(request, world, caches, tmp_path_factory):
    changes = caches | {"detection__views": request.param}
    out, reporter = tmp_path_factory.mktemp("runs") / "run", Quiet()
    world.run(out, reporter=reporter, **changes)
    return out, reporter, changes


def test_both_kinds_of_data_teach_the_semantic_branch(trained):
    out, reporter, changes = trained
    lines = losses_of(out)
    assert [line["data"] for line in lines] == ["detection", "extra"] * STEPS
    assert all(line["losses"]["loss_soft"] > 0 and line["losses"]["loss_soft_dn"] > 0 for line in lines)
    said = " ".join(reporter.said)
    assert "extra views a pass: 6 of" in said
    if changes["detection__views"] == "stored":
        assert "windows of 2 passes with soft labels (hashed, embedding)" in said
        assert "detection.augmentation is not used; the windows were drawn with other sizes: short_sides (" in said
        assert "had no soft label" not in said
    else:
        assert "pictures are augmented anew; their boxes have soft labels of the nearest of 2 windows in" in said
        assert "detection.augmentation draws what the windows don't show; they were drawn with other sizes: s" in said
        share = float(re.search(r"([\d.]+)% of the boxes of detection pictures had no soft label since", said)[1])
        assert 0 < share < 50


def test_a_run_in_two_parts_takes_the_same_steps(world, trained, tmp_path):
    out, _, changes = trained
    world.run(tmp_path / "run", **changes | {"schedule__epochs": 1})
    world.run(tmp_path / "run", resume=True, **changes)
    assert losses_of(tmp_path / "run") == losses_of(out)


def test_the_share_without_a_soft_label_is_of_the_boxes_of_detection_pictures(world, trained, tmp_path):
    out, _, changes = trained
    config = world.config(**changes)
    run = assemble(config, open_data(config), Ranks(0, 1, torch.device("cpu")))
    known = []
    for loaded in TrainingLoaders(run.feed, None, share=run.shares["detection"], workers=0).batches(
        0, run.total_steps // 2
    ):
        for target in loaded.batch.targets:
            is_known = target.soft_labels.is_known
            known.append(torch.ones(len(target.labels), dtype=torch.bool) if is_known is None else is_known)
    expected = float((~torch.cat(known)).double().mean())
    assert (expected > 0) == (config.detection.views == "fresh")
    assert read_log(out / LOG_NAME).steps[-1]["without_soft_label"] == pytest.approx(expected)


@pytest.mark.parametrize("views", ["fresh", "stored"])
def test_windows_of_all_boxes_teach_partial_annotations(world, caches, tmp_path, views):
    partial = tmp_path / "partial.json"
    dropped = drop_annotations(world.data / "train.json", partial, ratio=0.5, seed=0, on_progress=lambda *_: None)
    changes = caches | {
        "detection__views": views,
        "detection__train__annotations": str(partial),
        "extra": None,
        "text": {"cache": str(world.cache)},
    }
    reporter = Quiet()
    world.run(tmp_path / "run", reporter=reporter, **changes)
    said = " ".join(reporter.said)
    assert f"{TRAIN} detection pictures, {dropped.kept} boxes" in said
    assert f"the annotations lack {dropped.dropped} of {dropped.boxes} boxes that" in said
    assert all(line["losses"]["loss_soft"] > 0 for line in losses_of(tmp_path / "run"))
