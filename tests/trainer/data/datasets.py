"""Datasets of small caches, and what tests compare their samples with."""

import json

import numpy as np
import torch

from richsem_schemas.annotations import read_annotations
from richsem_schemas.cache.index import view_names
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.pictures.decode import decode_picture
from richsem_train.config import AugmentationConfig
from richsem_train.data.cache.alignment import align_windows
from richsem_train.data.cache.source import DETECTION, ExpectedCache, open_training_cache
from richsem_train.data.category_rows import rows_of_categories, with_rows
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.fresh_windows import FreshWindowDataset
from richsem_train.data.showings import Showings
from richsem_train.data.windows import WindowDataset

PICTURES = 40
WINDOWS = 4
AUGMENTATION = AugmentationConfig(
    short_sides=(24, 40, 56), longest_side=96, first_short_sides=(32, 48), crop_sides=(20, 40), flip=True
)


def opened(cache, root=None, **expected):
    return open_training_cache(cache.layout.out, expected=ExpectedCache(**expected), root=root)


def extra_of(cache, *, seed=0, lanes=4, on_damage="stop", root=None, block_bytes=2**24, **expected):
    return ExtraDataset(
        opened(cache, root, **expected), seed=seed, lanes=lanes, on_damage=on_damage, block_bytes=block_bytes
    )


def aligned(cache, data, *, on_damage="stop", root=None, **expected):
    """The annotations in rows of the cache's text, and the cache aligned with them."""
    windows = opened(cache, root, section=DETECTION, views="windows", **expected)
    data = with_rows(data, rows_of_categories(data, windows.text.class_names))
    return data, align_windows(windows, data, on_damage=on_damage)


def fresh_of(cache, data, *, augmentation=AUGMENTATION, seed=5, on_damage="stop", **expected):
    return FreshWindowDataset(
        *aligned(cache, data, on_damage=on_damage, **expected), augmentation, seed=seed, on_damage=on_damage
    )


def stored_of(cache, data, *, epoch_list=None, epoch_length=None, on_damage="stop", **expected):
    """Stored windows; by default epochs show every picture once."""
    data, windows = aligned(cache, data, on_damage=on_damage, **expected)
    epoch_list = epoch_list or (lambda _: np.arange(len(data)))
    showings = Showings(epoch_list, epoch_length=epoch_length or len(epoch_list(0)), pictures=len(data))
    return WindowDataset(data, windows, showings, on_damage=on_damage)


OF_WINDOWS = {"fresh": fresh_of, "stored": stored_of}


def rewritten(folder, tmp_path, change, **options):
    """The split's annotations after a change."""
    content = json.loads((folder / "train.json").read_text())
    change(content)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(content))
    return read_annotations(path, folder / "train", **options)


def one_round(dataset, round_=0):
    first = round_ * dataset.order.samples_per_round
    return [dataset[n] for n in range(first, first + dataset.order.samples_per_round)]


def stored_views(cache, kind, pass_index):
    """Views of a pass by name, with their pictures, read by the schemas' own functions."""
    views, opened_cache = {}, open_cache(cache.layout.out)
    for shard in range(opened_cache.manifest.plan.shards):
        pictures, labels = opened_cache.picture_shard(shard), opened_cache.label_shard(cache.labels, shard)
        stored = pictures.pictures(pictures.rows(), root=cache.root)
        decoded = {int(picture.row["sample"]): decode_picture(picture.data) for picture in stored}
        rows = labels.rows()
        rows = rows[(rows["kind"] == kind) & (rows["pass"] == pass_index)]
        for name, labelled in zip(view_names(rows), labels.views(rows), strict=True):
            views[name] = labelled, decoded
    return views


def pixels_of(sample):
    return sample.pixels.permute(1, 2, 0).numpy()


def seen_pixels(batch):
    """What models see of a batch: where it is padded, they see nothing."""
    return batch.pixels.masked_fill(batch.padding_mask[:, None], 0)


def corners_px(target):
    """Boxes of a target by their corners, in pixels of what is shown."""
    height, width = target.image_hw
    centre_xy, sides = target.boxes_cxcywh_norm.double().split(2, dim=1)
    return (torch.cat([centre_xy - sides / 2, centre_xy + sides / 2], 1) * torch.tensor([width, height] * 2)).numpy()


def assert_same_sample(one, other):
    assert one.name == other.name
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.target.boxes_cxcywh_norm, other.target.boxes_cxcywh_norm)


def assert_same_samples(ones, others):
    for one, other in zip(ones, others, strict=True):
        assert_same_sample(one, other)
