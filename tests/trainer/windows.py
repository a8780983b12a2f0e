"""A small cache of windows of detection pictures, made by the pipeline's own code."""

import os
from pathlib import Path
from unittest.mock import patch

import numpy as np

from richsem_prep.plan import freeze_listing, planned_entries
from richsem_prep.recipes import draw_crop
from richsem_prep.sources import PictureBoxes, Rejected, SourceEntry
from richsem_schemas.layout import CacheLayout
from richsem_schemas.manifest import Plan, ViewsSpec, Vocabulary
from richsem_schemas.originals import WHOLE_FILE
from richsem_schemas.view import REGION_DTYPE, TILE_DTYPE, View
from tests.pipeline.synthetic_cache import GEOMETRY, LABELS, SAMPLES_PER_SHARD, SyntheticCache


def listed(data, *, without=()):
    """The pictures of annotations as a source lists them; those of `without` (names) are rejected."""
    for index, name in enumerate(data.files):
        if name in without:
            yield Rejected(name, "no such file")
            continue
        boxes_xywh, category_ids = data.objects(index)
        boxes_xyxy = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
        boxes = PictureBoxes(boxes_xyxy, category_ids.astype(np.int32), tuple(data.hws_px[index].tolist()))
        size = data.path(index).stat().st_size
        yield SourceEntry(name, os.fsencode(name), WHOLE_FILE, size, 0, boxes)


class WindowsCache(SyntheticCache):
    """Windows of the pictures of `data`, whose category ids are rows of `names`."""

    def __init__(self, data, out: Path, *, names=None, windows=2, pictures="reference", without=(), limit=None, **rest):
        super().__init__(data.root, out, pictures=pictures, crops=0, mosaics=0, **rest)
        self.layout = CacheLayout(out, "lvis")
        self.data = data
        self.names = names or ("none", *(category.name for category in data.categories))
        self._views = ViewsSpec(crops=0, mosaics=0, windows=windows, geometry=GEOMETRY)
        self._without, self._limit = without, limit

    def _freeze_plan(self):
        found = listed(self.data, without=self._without)
        listing = freeze_listing(self.layout, found, on_progress=lambda _: None, has_boxes=True)
        Plan(
            dataset="lvis",
            seed=0,
            listed=listing.listed,
            samples=self._limit or listing.listed,
            samples_per_shard=SAMPLES_PER_SHARD,
            limit=self._limit,
            pictures=self._pictures,
            max_side=None,
            root=str(self.root) if self._pictures == "reference" else None,
            vocabulary=Vocabulary(name="lvis", class_names=self.names),
            absent_classes=(),
            listing=listing.file,
            rejected=listing.rejected,
            listing_quarantine=listing.quarantine,
        ).write(self.layout.plan)

    def make_missing_shards(self):
        with patch("richsem_prep.shard_task.block_views", self._block_views):
            return super().make_missing_shards()

    def _block_views(self, block, views, *, seed, shard, first_sample):
        entries = planned_entries(self.layout, Plan.read(self.layout.plan), shard)
        for pass_index in range(views.windows):
            for sample in block:
                rng = np.random.default_rng([seed, 2, pass_index, shard, sample.sample])
                yield window_view(sample, entries[sample.sample].boxes, pass_index, views.geometry, rng)


def window_view(sample, boxes, pass_index, geometry, rng):
    """A picture as the detection augmentation shows it, with its visible boxes."""
    crop = draw_crop(sample.hw, geometry, rng)
    height, width = crop.out_hw
    x1, y1, x2, y2 = crop.source_xyxy_px
    scale = np.array([width / (x2 - x1), height / (y2 - y1)] * 2)
    on_canvas = (boxes.boxes_xyxy - [x1, y1, x1, y1]) * scale
    if crop.flip:
        on_canvas = np.stack([width - on_canvas[:, 2], on_canvas[:, 1], width - on_canvas[:, 0], on_canvas[:, 3]], 1)
    on_canvas = np.clip(on_canvas, 0, [width, height, width, height]).astype(np.float32)
    visible = (on_canvas[:, 2:] > on_canvas[:, :2]).all(axis=1)
    regions = np.zeros(int(visible.sum()), REGION_DTYPE)
    regions["box_xyxy_px"], regions["category_id"] = on_canvas[visible], boxes.rows[visible]
    tiles = np.array([(sample.sample, crop.source_xyxy_px, (0, 0, width, height), crop.flip)], TILE_DTYPE)
    return View("window", pass_index, crop.out_hw, tiles, regions)


__all__ = ["LABELS", "WindowsCache", "listed", "window_view"]
