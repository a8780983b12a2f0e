"""The shard job in this process, on a folder of few pictures, and what it has made."""

from dataclasses import replace
from pathlib import Path

import pytest

from richsem_prep.demo.geometry import GEOMETRY
from richsem_prep.executors.make_executor import make_executor
from richsem_prep.shard import run as driver
from richsem_prep.shard.config import ShardConfig
from richsem_prep.sources import datasets
from richsem_schemas.annotations import read_annotations
from richsem_schemas.options import from_options
from tests.trainer.tiny import write_split

DEFAULTS = {
    "dataset": "folder",
    "teacher_size": 128,
    "mosaics": 2,
    "samples_per_shard": 40,
    "seed": 3,
    "executor": "inline",
    "device": "cpu",
}


class Quiet:
    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)

    def stage(self, *_):
        return lambda _: None

    def shard_done(self, outcome):
        pass


def shard(root, out, teacher, **options):
    reporter = Quiet()
    config = from_options(ShardConfig, {"root": root, "out": out, "teacher": teacher, **DEFAULTS, **options})
    summary = driver.shard(config, reporter, make_executor)
    return summary, reporter.said


def use_small_views(patch, *names):
    """Views of these datasets at a fifth of their size, for tests of what doesn't depend on it."""
    for name in names:
        patch.setitem(datasets.DATASETS, name, replace(datasets.DATASETS[name], geometry=GEOMETRY))


def shard_windows(folder: Path, teacher, *, teacher_size: int | None, **more):
    """OUT of a cache with two windows of each of eight pictures of different sizes, and their annotations."""
    root, out = folder / "coco", folder / "out"
    write_split(root, "train2017", 8, seed=4)
    (root / "annotations").mkdir()
    annotations = root / "annotations" / "instances_train2017.json"
    (root / "train2017.json").rename(annotations)
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "coco")
        options = {"crops": None, "mosaics": None, "pictures": None, "windows": 2, "teacher_size": teacher_size, **more}
        shard(root, out, teacher, dataset="coco", **options)
    return out, read_annotations(annotations, root / "train2017", file_format="coco")


def tar_hashes(out: Path):
    """Content of all shards and indexes by name."""
    files = [*out.glob("pictures/*.tar"), *out.glob("labels/*/*.tar"), *out.glob("index/**/*.parquet")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}
