"""Detection pictures augmented anew each time, with the labels of the stored windows that show about the same.

A picture is drawn as `DetectionDataset` draws it, and rendered as windows are, by one resize. Each box of it borrows
what the teacher said of that box in the nearest of K stored windows (`nearest`); all of them are read, by one read. A
box of which none shows about the same part has no soft label in that showing.
"""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.geometry import Crop, draw_crop, visible_boxes
from richsem_schemas.cache.view import REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.errors import CorruptCacheError
from richsem_train.data.cache.nearest import joined, nearest, sights_of
from richsem_train.data.cache.views import ReadView
from richsem_train.data.collate import Sample
from richsem_train.data.damage import OnDamage, whole_picture
from richsem_train.data.detection import AUGMENTATION_STREAM, objects_xyxy
from richsem_train.data.soft_labels import borrowed, soft_labels
from richsem_train.data.transforms import Augmentation, Boxes, rendered, xyxy_px_to_cxcywh_norm
from richsem_train.data.windows import INDEX_BYTES, WindowCache, WindowReader, position_of
from richsem_train.targets import SoftLabels, Target

MIN_OVERLAP = 0.5
"""IoU of the parts from which on a window shows the same of a box. What the teacher says of the rim of a thing is not
what it says of the whole; no label is better than that one."""


class FreshWindowDataset(Dataset[Sample]):
    """Augmented training pictures with soft labels, by (epoch, position in the epoch, picture).

    What a sample shows is a function of the seed and these three, whoever asks for it and whenever.

    Args:
        data: the annotations.
        windows: the cache that was aligned with them.
        augmentation: what is done to the pictures.
        seed: of the run.
        on_damage: what to do about pictures that were left out of the cache, or can't be read.
        index_bytes: most bytes of indexes that a worker keeps.
    """

    def __init__(
        self,
        data: DetectionData,
        windows: WindowCache,
        augmentation: Augmentation,
        *,
        seed: int,
        on_damage: OnDamage = "stop",
        index_bytes: int = INDEX_BYTES,
    ) -> None:
        self.data = data
        self.windows = windows
        self.augmentation = augmentation
        self.seed = seed
        self.on_damage = on_damage
        self.reader = WindowReader(windows.cache.source, index_bytes=index_bytes)

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self.data)

    def __getitem__(self, key: tuple[int, int, int]) -> Sample:
        """Augment one picture.

        Raises:
            DamagedViewError: it can't be read, and nor can those that may take its place.
        """
        epoch, position, picture = key
        index, stored, damage = whole_picture(picture, self._read, len(self.data), on_damage=self.on_damage)
        ((sample, original),) = stored[0].pictures.items()
        hw = (original.height, original.width)
        rng = np.random.default_rng([self.seed, AUGMENTATION_STREAM, epoch, position])
        boxes_xyxy_px, labels = objects_xyxy(self.data, index, hw)
        crop = draw_crop(hw, self.augmentation, rng, may_flip=self.augmentation.flip)
        view = drawn_view(crop, boxes_xyxy_px, sample=sample)
        boxes = view.regions["annotation"]
        target = Target(
            boxes_cxcywh_norm=torch.from_numpy(xyxy_px_to_cxcywh_norm(view.regions["box_xyxy_px"], view.canvas_hw)),
            labels=torch.from_numpy(labels[boxes]),
            image_id=int(self.data.image_ids[index]),
            image_hw=view.canvas_hw,
            original_hw=hw,
            soft_labels=self._soft_labels(view, self._annotations(index)[boxes], stored),
        )
        return Sample(rendered(view, stored[0].pictures), target, self.data.files[index], damage)

    def _soft_labels(self, view: View, annotations_S: NDArray[np.int32], stored: list[ReadView]) -> SoftLabels:
        cache = self.windows.cache
        sights = partial(sights_of, teacher_size=cache.source.spec.region_encoder.teacher_size)
        views = [read.labelled.view for read in stored]
        rows_S = nearest(
            sights(view),
            annotations_S,
            joined([sights(each) for each in views]),
            np.concatenate([each.regions["annotation"] for each in views]),
            np.repeat(np.arange(len(views)), [len(each.regions) for each in views]),
            min_overlap=MIN_OVERLAP,
        )
        labels, embeddings, is_known = borrowed([read.labelled for read in stored], rows_S)
        form = cache.expected.labels
        assert form != "hard", "a cache of detection pictures is opened for its soft labels"
        return soft_labels(labels, embeddings, form, is_known_R=is_known)

    def _read(self, index: int) -> list[ReadView]:
        """All windows of a picture, whose regions are its boxes."""
        position = position_of(self.data, self.windows, index)
        stored = self.reader.read(position, range(self.reader.source.passes))
        try:
            for read in stored:
                self._require_boxes(read, index)
        except CorruptCacheError as error:
            raise self.reader.damaged(position, error) from error
        return stored

    def _require_boxes(self, read: ReadView, index: int) -> None:
        regions = read.labelled.view.regions
        annotations, rows = regions["annotation"], regions["category_id"]
        here = self._annotations(index)
        labels = np.empty(len(here), np.int64)
        labels[here] = self.data.objects(index)[1]
        if not ((annotations >= 0) & (annotations < len(here))).all() or len(set(annotations.tolist())) < len(regions):
            raise CorruptCacheError(f"{read.name}: its annotations are not boxes of its picture, which has {len(here)}")
        if (labels[annotations] != self.windows.cache.rows[rows]).any():
            raise CorruptCacheError(f"{read.name}: a region has another category than the box that it is said to be")

    def _annotations(self, index: int) -> NDArray[np.int32]:
        return self.windows.annotations[self.data.offsets[index] : self.data.offsets[index + 1]]


def drawn_view(crop: Crop, boxes_xyxy_px: Boxes, *, sample: int = 0) -> View:
    """What was drawn for a picture, as a window of its boxes: `annotation` says which of the G each region is.

    Args:
        crop: what is done to the picture.
        boxes_xyxy_px: float32 [G, 4], in pixels of the picture.
        sample: that the tile shows.
    """
    height, width = crop.out_hw
    tiles = np.array([(sample, crop.source_xyxy_px, (0, 0, width, height), crop.flip)], TILE_DTYPE)
    visible, kept = visible_boxes(boxes_xyxy_px, crop)
    regions: NDArray[np.void] = np.zeros(len(kept), REGION_DTYPE)
    regions["box_xyxy_px"] = visible
    regions["annotation"] = kept
    return View("window", 0, crop.out_hw, tiles, regions)
