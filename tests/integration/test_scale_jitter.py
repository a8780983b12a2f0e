"""Scale jitter from the pictures on disk to the steps of a training: windows, fresh and stored, and crops."""

import pytest

from richsem_prep.verify.cache import verify_cache
from richsem_schemas.cache.reader import open_cache
from richsem_train.data.cache.source import ExpectedCache, open_training_cache
from richsem_train.data.extra import ExtraDataset
from tests.integration.shard_job import shard, shard_windows, use_small_views
from tests.pictures import write_pictures
from tests.trainer.tiny import Quiet, losses_of, make_world

JITTER = {"kind": "scale-jitter", "side": 64, "factors": [0.1, 2.0]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module", params=[None, 96], ids=["own-size", "resized"])
def windows(request, resnet, tmp_path_factory):
    """OUT of windows by scale jitter, which the teacher sees as they are or larger."""
    folder = tmp_path_factory.mktemp("windows")
    out, data = shard_windows(folder, resnet, teacher_size=request.param, windows=3, scale_jitter="64,0.1,2")
    assert verify_cache(out).problems == ()
    split = {"annotations": str(folder / "coco/annotations/instances_train2017.json"), "images": str(data.root)}
    return {
        "detection__format": "coco",
        "detection__train": split,
        "detection__val": split,
        "detection__labels": "cache",
        "detection__cache": str(out),
        "detection__augmentation": JITTER,
        "extra": None,
    }


@pytest.mark.parametrize("views", ["fresh", "stored"])
def test_windows_teach_fresh_and_stored(world, windows, tmp_path, views):
    reporter = Quiet()
    world.run(tmp_path / "run", reporter=reporter, detection__views=views, **windows)
    lines = losses_of(tmp_path / "run")
    assert len(lines) == 4
    assert all(0 < line["losses"]["loss_soft"] < 1e3 and line["loss"] < 1e4 for line in lines)
    # They were drawn as the config says, so there is nothing to say.
    assert "detection.augmentation" not in " ".join(reporter.said)


@pytest.mark.parametrize(
    ("augmentation", "said"),
    [
        (JITTER | {"side": 48}, "they were drawn by scale jitter, 0.1 to 2 of what fits into 64 px"),
        ({"kind": "detr"}, "they were drawn by scale jitter, 0.1 to 2 of what fits into 64 px"),
    ],
)
def test_augmentation_that_draws_otherwise_is_said(world, windows, tmp_path, augmentation, said):
    reporter = Quiet()
    changes = windows | {"detection__augmentation": augmentation, "schedule__epochs": 1}
    world.run(tmp_path / "run", reporter=reporter, **changes)
    assert said in " ".join(reporter.said)


def test_jitter_over_windows_without_it_is_said(world, resnet, tmp_path):
    out, data = shard_windows(tmp_path / "windows", resnet, teacher_size=96)
    split = {
        "annotations": str(tmp_path / "windows/coco/annotations/instances_train2017.json"),
        "images": str(data.root),
    }
    changes = {"format": "coco", "train": split, "val": split, "labels": "cache", "cache": str(out)}
    changes |= {"augmentation": JITTER, "views": "stored"}
    reporter = Quiet()
    world.run(tmp_path / "run", reporter=reporter, detection=changes, extra=None, schedule__epochs=1)
    assert "augmentation is not used; the windows were drawn without scale jitter" in " ".join(reporter.said)


def test_crops_of_extra_data_are_drawn_small(resnet, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "folder")
        pictures = write_pictures(tmp_path / "pictures", 12)
        options = {"teacher_size": 96, "crops": 3, "mosaics": 1}
        shard(pictures, tmp_path / "out", resnet, scale_jitter="32,0.5,1.5", **options)
    assert verify_cache(tmp_path / "out").problems == ()
    spec = open_cache(tmp_path / "out").label_set("resnet").spec
    assert spec.views.of_crops.scale_jitter.side == 32
    dataset = ExtraDataset(open_training_cache(tmp_path / "out", expected=ExpectedCache(views="crops")), seed=0)
    shapes = [tuple(dataset[counter].pixels.shape[1:]) for counter in range(36)]
    assert max(map(max, shapes)) == 32
    assert min(map(max, shapes)) < 24
    for counter in range(36):
        target = dataset[counter].target
        assert target.boxes_cxcywh_norm.tolist() == [[0.5, 0.5, 1, 1]]
        assert target.image_hw == shapes[counter]
