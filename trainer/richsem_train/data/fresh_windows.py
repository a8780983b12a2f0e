"""Detection pictures augmented anew each time, with the labels of the stored windows that show about the same.

A picture is drawn as `DetectionDataset` draws it, and rendered as windows are, by one resize. Each box of it borrows
what the teacher said of that box in the nearest of K stored windows (`nearest`); all of them are read, by one read. A
box of which none shows about the same part has no soft label in that showing.
"""

from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations import DetectionData
from richsem_schemas.cache.view import View
from richsem_train.choices import OnDamage
from richsem_train.data.cache.alignment import WindowCache
from richsem_train.data.cache.nearest import borrowed_labels, joined_sights, nearest, sights_of
from richsem_train.data.cache.views import ReadView
from richsem_train.data.detection import DetectionKey, draw_window
from richsem_train.data.soft_labels import soft_labels, target_of
from richsem_train.data.transforms import Augmentation, Rendering, render
from richsem_train.data.windows import CachedPictures
from richsem_train.targets import SoftLabels, Target

MIN_OVERLAP = 0.5
"""IoU of the parts from which on a window shows the same of a box. What the teacher says of the rim of a thing is not
what it says of the whole; no label is better than that one."""


class FreshWindowDataset(CachedPictures):
    """Augmented training pictures with soft labels."""

    def __init__(
        self,
        data: DetectionData,
        windows: WindowCache,
        augmentation: Augmentation,
        *,
        seed: int,
        on_damage: OnDamage = "stop",
    ) -> None:
        super().__init__(data, windows, on_damage=on_damage)
        self.augmentation = augmentation
        self.seed = seed

    def _show(self, key: DetectionKey, index: int) -> tuple[Rendering, Target]:
        stored = self._read(index, range(self.reader.source.passes))
        picture = stored[0].only_picture
        hw = (picture.height, picture.width)
        _, window = draw_window(self.data, index, hw, self.augmentation, key=key, seed=self.seed)
        target = target_of(window, image_id=int(self.data.image_ids[index]), original_hw=hw)
        annotations = self._annotations(index)[window.regions["annotation"]]
        return render(window, {0: picture}), replace(target, soft_labels=self._borrow(window, annotations, stored))

    def _borrow(self, window: View, annotations_S: NDArray[np.int32], stored: list[ReadView]) -> SoftLabels:
        cache = self.windows.cache
        sights = partial(sights_of, teacher_size=cache.source.spec.region_encoder.teacher_size)
        views = [read.labelled.view for read in stored]
        rows_S = nearest(
            sights(window),
            annotations_S,
            joined_sights([sights(each) for each in views]),
            np.concatenate([each.regions["annotation"] for each in views]),
            np.repeat(np.arange(len(views)), [len(each.regions) for each in views]),
            min_overlap=MIN_OVERLAP,
        )
        labels, embeddings, is_known = borrowed_labels([read.labelled for read in stored], rows_S)
        form = cache.expected.labels
        assert form != "hard", "a cache of detection pictures is opened for its soft labels"
        return soft_labels(labels, embeddings, form, is_known_R=is_known)
