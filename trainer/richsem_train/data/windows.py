"""Detection pictures as the teacher saw them: stored windows of a cache in the place of augmentation.

The n-th time that a picture is shown, it is its window n mod K.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import CorruptCacheError
from richsem_train.choices import OnDamage
from richsem_train.data.cache.alignment import WindowCache
from richsem_train.data.cache.nearest import ABSENT
from richsem_train.data.cache.views import ReadView
from richsem_train.data.cache.windows import WindowReader
from richsem_train.data.damage import DamagedViewError
from richsem_train.data.detection import DetectionKey, TrainingPictures
from richsem_train.data.showings import Showings
from richsem_train.data.soft_labels import cached_target
from richsem_train.data.transforms import render
from richsem_train.targets import Target


class CachedPictures(TrainingPictures):
    """Training pictures whose boxes have soft labels of a cache."""

    def __init__(self, data: DetectionData, windows: WindowCache, *, on_damage: OnDamage) -> None:
        super().__init__(data, on_damage=on_damage)
        self.windows = windows
        self.reader = WindowReader(windows.cache.source)

    def _read(self, index: int, passes: Sequence[int]) -> list[ReadView]:
        """Some windows of a picture.

        Raises:
            DamagedViewError: it was left out, one can't be read, or is not of its boxes.
        """
        position = int(self.windows.positions[index])
        if position == ABSENT:
            raise DamagedViewError(f"{self.data.files[index]} was left out of {self.windows.cache.source.layout.out}")
        stored = self.reader.read(position, passes)
        try:
            for read in stored:
                self._require_own_boxes(read, index)
        except CorruptCacheError as error:
            raise self.reader.damaged(position, error) from error
        return stored

    def _require_own_boxes(self, read: ReadView, index: int) -> None:
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
        """Where each box of a picture stands among those that the cache lists of it."""
        return self.windows.annotations[self.data.offsets[index] : self.data.offsets[index + 1]]


class WindowDataset(CachedPictures):
    """Stored windows of training pictures, in turn."""

    def __init__(
        self, data: DetectionData, windows: WindowCache, showings: Showings, *, on_damage: OnDamage = "stop"
    ) -> None:
        super().__init__(data, windows, on_damage=on_damage)
        self.showings = showings

    def _show(self, key: DetectionKey, index: int) -> tuple[Tensor, Target]:
        (read,) = self._read(index, [self.showings.before(*key) % self.reader.source.passes])
        picture = read.only_picture
        target = cached_target(
            read.labelled,
            self.windows.cache,
            image_id=int(self.data.image_ids[index]),
            original_hw=(picture.height, picture.width),
        )
        return render(read.labelled.view, read.pictures), target
