"""Real pictures and boxes through both programs: windows of them and views of others teach one detector."""

from pathlib import Path

import numpy as np
import pytest

from richsem_prep.teacher.make_text import make_text
from richsem_prep.verify.cache import verify_cache
from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache.reader import open_cache
from tests.integration.shard_job import shard, use_small_views
from tests.trainer.tiny import Quiet, World, losses_of

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco128"
PASSES = 2


@pytest.mark.usefixtures("small_views")
@pytest.mark.parametrize(
    ("dataset", "file"),
    # The text of LVIS takes minutes.
    [("coco", "instances_train2017.json"), pytest.param("lvis", "lvis_style_train.json", marks=pytest.mark.slow)],
)
def test_a_detector_learns_of_detection_and_extra_caches_together(
    dataset, file, resnet, sample_pictures, tmp_path, monkeypatch
):
    if not COCO.is_dir():
        pytest.skip(f"no real pictures at {COCO}")
    use_small_views(monkeypatch, dataset)
    windows, extra = tmp_path / "windows", tmp_path / "extra"
    options = {"crops": None, "mosaics": None, "pictures": None, "teacher_size": 96}
    names = {"annotations": Path(file), "images": Path("train2017")}
    shard(COCO, windows, resnet, dataset=dataset, windows=PASSES, **names, **options)
    shard(sample_pictures, extra, resnet, crops=0, mosaics=1, limit=24, teacher_size=96)

    assert verify_cache(windows).problems == ()
    data = read_annotations(COCO / "annotations" / file, COCO / "train2017", file_format=dataset)
    cache = open_cache(windows)
    assert cache.manifest.samples == len(data) == 128
    (labels,) = cache.label_sets.values()
    assert labels.views == PASSES * 128
    # Random crops lose some boxes, and no more than some.
    assert 0.6 * PASSES < labels.regions / np.diff(data.offsets).sum() < PASSES

    # The other pictures' names are none of these: their embeddings are scored by the names of the boxes.
    text = {"names": str(windows / "plan" / "plan.json"), "templates": "openai", "policy": "raw"}
    make_text(resnet, **text, out=tmp_path / "text", device="cpu", on_progress=lambda *_: None)
    split = {"annotations": f"annotations/{file}", "images": "train2017"}
    reporter = Quiet()
    ended = World(COCO, extra).run(
        tmp_path / "run",
        reporter=reporter,
        detection__format=dataset,
        detection__train=split,
        detection__val=split,
        detection__labels="cache",
        detection__cache=str(windows),
        detection__repeat_threshold=None,
        extra={"cache": str(extra), "lanes": 4, "supervision": "unlabelled"},
        text={"folder": str(tmp_path / "text")},
        loss__federated=None,
        schedule__epochs=1,
        schedule__global_batch_size=8,
        schedule__lr_drops=[],
    )
    assert ended.stopped_by is None
    lines = losses_of(tmp_path / "run")
    assert [line["data"] for line in lines] == ["detection", "extra"] * (128 // 8)
    assert all(line["losses"]["loss_soft"] > 0 for line in lines)
    assert lines[-2]["loss"] < lines[0]["loss"]
    assert "soft labels of the nearest of 2 windows" in " ".join(reporter.said)
