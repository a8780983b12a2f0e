"""A world small enough to train on in a test: detection pictures, a cache of the same vocabulary, and a config."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image

from richsem_train.config import TrainConfig, parse_config
from richsem_train.run import training
from richsem_train.run.log import LOG_NAME, read_log
from richsem_train.run.outcome import TrainedRun
from tests.caches import CLASSES, LABELS, SyntheticCache

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (200, 40, 200), (40, 200, 200))
TRAIN, VAL, EXTRA = 12, 4, 24
EPOCH_STEPS = 2 * TRAIN // 4

LINEAR = {
    "extra": None,
    "model__classifier": "linear",
    "model__encoder_classifier": "linear",
    "model__semantic_branch": False,
    "loss__federated": None,
}
"""Changes to a config that leave it without names: a plain detector on detection data alone."""


WHOLE_IMAGES = {
    "extra__supervision": "image",
    "extra__views": "crops",
    "extra__labels": "hard",
    "model__semantic_branch": False,
    "schedule__extra_batch_size": 8,
    "schedule__lr_schedule": "cosine",
    "schedule__warmup_steps": 2,
    "schedule__clip_norm": None,
    "schedule__clip_value": 1.0,
}
"""Changes to a config whose extra pictures are labelled as a whole, on the schedule of who invented that."""


class Quiet:
    """A reporter that remembers what was said."""

    def __init__(self):
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        pass

    def move(self, done: int, note: str = "") -> None:
        pass

    def end(self) -> None:
        pass


@dataclass(frozen=True)
class World:
    """Folders of a tiny world; for reading only."""

    data: Path
    cache: Path

    def values(self, **changes: Any) -> dict[str, Any]:
        """The values of a config; `changes` have `__` for dots, such as `schedule__epochs=1`."""
        values = deepcopy(VALUES)
        values["data"] = str(self.data)
        values["extra"]["cache"] = str(self.cache)
        for key, value in changes.items():
            *parents, last = key.split("__")
            section = values
            for parent in parents:
                section = section.setdefault(parent, {})
            section[last] = deepcopy(value)
        return values

    def config(self, **changes: Any) -> TrainConfig:
        """A validated config."""
        return parse_config(self.values(**changes), source="tiny")

    def run(self, out: Path, *, resume: bool = False, reporter: Quiet | None = None, **changes: Any) -> TrainedRun:
        """Train in this process, on one thread as in others; curves aren't drawn, which would take as long again."""
        config = self.config(**changes)
        with patch("richsem_train.results.plots.plot_run"), one_thread():
            return training.train(config, out, resume=resume, device="cpu", reporter=reporter or Quiet())

    def write_config(self, path: Path, **changes: Any) -> Path:
        """A config file, which is YAML as all JSON is."""
        path.write_text(json.dumps(self.values(**changes)))
        return path


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


VALUES: dict[str, Any] = {
    "name": "tiny",
    "workers": 0,
    "detection": {
        "train": {"annotations": "train.json", "images": "train"},
        "val": {"annotations": "val.json", "images": "val"},
        # So that an epoch shows each picture once.
        "repeat_threshold": None,
        "augmentation": {
            "short_sides": [48, 56, 64],
            "longest_side": 96,
            "first_short_sides": [40, 48],
            "crop_sides": [24, 40],
        },
    },
    "extra": {"label_set": LABELS, "lanes": 4},
    "model": {
        "backbone": {
            "name": "clip-resnet",
            "weights": None,
            "out_strides": [8, 16],
            "frozen_stages": 0,
            "clip_layers": [1, 1, 1, 1],
            "clip_width": 8,
        },
        "hidden_dim": 32,
        "feature_levels": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "heads": 4,
        "points": 2,
        "ffn_dim": 48,
        "queries": 8,
        "denoising": {"queries": 6},
    },
    "loss": {"federated": 3},
    "schedule": {"epochs": 2, "global_batch_size": 4, "lr": 1e-3, "backbone_lr": 1e-3, "lr_drops": [1]},
    "evaluation": {"batch_size": 2, "short_side": 64, "longest_side": 96},
    "log": {"every_steps": 1, "checkpoint_every_steps": 4, "tensorboard": False},
}


TWO_STAGE: dict[str, Any] = {
    "model": {
        "detector": "centernet-cascade",
        "backbone": VALUES["model"]["backbone"] | {"out_strides": [8, 16, 32]},
        "hidden_dim": 16,
        "roi_dim": 24,
        "rois": 16,
    },
    "loss__bbox_weight": 1.0,
    "loss__giou_weight": 1.0,
}
"""Changes to a config that make its detector the two-stage one."""


def make_world(folder: Path) -> World:
    """Draw the pictures and make the cache."""
    data = folder / "data"
    write_split(data, "train", TRAIN, seed=1)
    write_split(data, "val", VAL, seed=2)
    return World(data, make_cache(folder).layout.out)


def make_cache(folder: Path, *, pictures: int = EXTRA, **options: Any) -> SyntheticCache:
    """A cache of pictures of one object each, all of them labelled."""
    root = folder / "extra"
    for number in range(pictures):
        rng = np.random.default_rng([3, number])
        row = number % 5
        path = root / CLASSES[row] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(24, 48, 2).tolist()
        image = rng.integers(60, 120, (height, width, 3), np.uint8)
        image[4:-4, 4:-4] = COLOURS[row]
        Image.fromarray(image).save(path)
    return SyntheticCache(root, folder / "cache", **options).make()


def write_split(data: Path, split: str, pictures: int, *, seed: int) -> Path:
    """LVIS-style annotations and their pictures: one to three coloured boxes in each."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    (data / split).mkdir(parents=True)
    for number in range(pictures):
        height, width = rng.integers(56, 72, 2).tolist()
        pixels = rng.integers(60, 120, (height, width, 3), np.uint8)
        for row in rng.permutation(6)[: rng.integers(1, 4)].tolist():
            w, h = rng.integers(16, 32, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = COLOURS[row]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": row + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                }
            )
        name = f"{number + 1:012d}.png"
        Image.fromarray(pixels).save(data / split / name)
        images.append(
            {
                "id": number + 1,
                "file_name": name,
                "height": height,
                "width": width,
                "neg_category_ids": [1, 2, 3, 4, 5, 6],
                "not_exhaustive_category_ids": [],
            }
        )
    path = data / f"{split}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories()}))
    return path


def categories() -> list[dict[str, Any]]:
    """The classes of the cache, as LVIS lists them."""
    return [
        {
            "id": row,
            "name": name,
            "synset": f"{name}.n.01",
            "synonyms": [name],
            "def": name,
            "frequency": "rcf"[row % 3],
            "image_count": 5 + row,
            "instance_count": 5 + row,
        }
        for row, name in enumerate(CLASSES, start=1)
    ]


def losses_of(out: Path) -> list[dict[str, Any]]:
    """What the log says of each step, the clock aside."""
    return [
        {key: record[key] for key in ("step", "epoch", "data", "loss", "losses", "grad_norm", "lr")}
        for record in read_log(out / LOG_NAME).steps
    ]
