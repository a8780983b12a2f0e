"""A small cache of windows of detection pictures, made by the pipeline's own code."""

import os
from pathlib import Path

import numpy as np

from richsem_prep.shard.plan import freeze_listing
from richsem_prep.sources.entry import PictureBoxes, Rejected, SourceEntry
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import Plan, ViewsSpec
from richsem_schemas.pictures.originals import WHOLE_FILE
from richsem_schemas.vocabularies.vocabulary import Vocabulary
from tests.pipeline.synthetic_cache import GEOMETRY, SAMPLES_PER_SHARD, SyntheticCache


def listed(data, *, without=()):
    """The pictures of annotations as a source lists them; those of `without` (names) are rejected."""
    for index, name in enumerate(data.files):
        if name in without:
            yield Rejected(name, "no such file")
            continue
        hw = None if data.are_relative else tuple(data.hws_px[index].tolist())
        boxes = PictureBoxes(data.boxes_xyxy(index), data.objects(index)[1].astype(np.int32), hw)
        size = data.path(index).stat().st_size
        yield SourceEntry(name, os.fsencode(name), WHOLE_FILE, size, 0, boxes)


class WindowsCache(SyntheticCache):
    """Windows of the pictures of `data`, whose category ids are rows of `names`."""

    def __init__(
        self,
        data,
        out: Path,
        *,
        names=None,
        windows=2,
        geometry=GEOMETRY,
        pictures="reference",
        without=(),
        limit=None,
        **rest,
    ):
        super().__init__(data.root, out, pictures=pictures, crops=0, mosaics=0, **rest)
        self.layout = CacheLayout(out, "lvis")
        self.data = data
        self.names = names or ("none", *(category.name for category in data.categories))
        self._views = ViewsSpec(crops=0, mosaics=0, windows=windows, geometry=geometry)
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
