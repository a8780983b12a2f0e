"""Detection pictures as the teacher saw them: stored windows of a cache in the place of augmentation.

The n-th time that a picture is shown, it is its window n mod K.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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
from richsem_train.data.transforms import Rendering, render
from richsem_train.targets import Target


class CachedPictures(TrainingPictures):
    """Training pictures whose boxes have soft labels of a cache."""

    def __init__(self, data: DetectionData, windows: WindowCache, *, on_damage: OnDamage) -> None:
        super().__init__(data, on_damage=on_damage)
        self.windows = windows
        self.reader = WindowReader(windows.cache.source)

    def _read(self, index: int, passes: Sequence[int]) -> list[ReadView]:
        """Some windows of a picture, with the regions that are boxes of the annotations.

        Raises:
            DamagedViewError: it was left out, one can't be read, or is not of its boxes.
        """
        position = int(self.windows.positions[index])
        if position == ABSENT:
            raise DamagedViewError(f"{self.data.files[index]} was left out of {self.windows.cache.source.layout.out}")
        stored = self.reader.read(position, passes)
        try:
            return [self._of_annotations(read, index) for read in stored]
        except CorruptCacheError as error:
            raise self.reader.damaged(position, error) from error

    def _of_annotations(self, read: ReadView, index: int) -> ReadView:
        """A window without the regions of boxes that the annotations lack.

        Raises:
            CorruptCacheError: a region is no box that the cache lists of the picture, or has another category.
        """
        regions = read.labelled.view.regions
        annotations, count = regions["annotation"], int(self.windows.listed_boxes[index])
        if not ((annotations >= 0) & (annotations < count)).all() or len(set(annotations.tolist())) < len(regions):
            raise CorruptCacheError(f"{read.name}: its annotations are not boxes of its picture, which has {count}")
        labels = np.full(count, ABSENT, np.int64)
        labels[self._annotations(index)] = self.data.objects(index)[1]
        labels_R = labels[annotations]
        is_own_R = labels_R != ABSENT
        if (labels_R != self.windows.cache.rows[regions["category_id"]])[is_own_R].any():
            raise CorruptCacheError(f"{read.name}: a region has another category than the box that it is said to be")
        return read if is_own_R.all() else replace(read, labelled=read.labelled.only(is_own_R))

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

    def _show(self, key: DetectionKey, index: int) -> tuple[Rendering, Target]:
        (read,) = self._read(index, [self.showings.before(*key) % self.reader.source.passes])
        picture = read.only_picture
        target = cached_target(
            read.labelled,
            self.windows.cache,
            image_id=int(self.data.image_ids[index]),
            original_hw=(picture.height, picture.width),
        )
        return render(read.labelled.view, read.pictures), target
