"""Detecting: pictures in, boxes with rows of the vocabulary out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from richsem_schemas.cache.geometry import resized_hw
from richsem_schemas.pictures.resize import resize_picture
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.choices import Precision
from richsem_train.data.collate import Sample, collate
from richsem_train.data.transforms import channels_first
from richsem_train.models.detector import BestPairs, DetectionModel
from richsem_train.models.inputs import Normalise, autocast, float32_products
from richsem_train.results.like_sizes import batches_of_like_size
from richsem_train.targets import Batch, Target


@dataclass(frozen=True, eq=False)
class BatchDetector:
    """A model with what its pictures go through before it and its outputs behind it.

    Attributes:
        model: in evaluation mode, on its device.
        normalise: on the same device.
        precision: of the network.
        class_names: by row; what is detected has rows as its category ids.
        short_side: at which pictures are shown, pixels.
    """

    model: DetectionModel
    normalise: Normalise
    precision: Precision
    class_names: tuple[str, ...]
    keep: int
    short_side: int
    longest_side: int

    @torch.inference_mode()
    def detect(self, batch: Batch, *, keep: int | None = None) -> list[PictureDetections]:
        """Detect the objects of each picture of a batch: best first, boxes in pixels of the picture as decoded.

        At most `keep` a picture; None is `self.keep`.
        """
        device = self.normalise.mean.device
        on_device = batch.to(device)
        with float32_products(self.precision), autocast(device, self.precision):
            found = self.model.detect(
                self.normalise(on_device),
                on_device.padding_mask,
                image_hw=[target.image_hw for target in batch.targets],
                original_hw=[target.original_hw for target in batch.targets],
                # Row 0 and rows without a name are no classes.
                vocabulary_C=torch.tensor([row > 0 and bool(name) for row, name in enumerate(self.class_names)]),
                keep=self.keep if keep is None else keep,
            )
        return _on_host(found)

    def detect_pictures(
        self, pictures: Sequence[Image.Image], *, batch_size: int, keep: int | None = None
    ) -> list[PictureDetections]:
        """Detect the objects of decoded RGB pictures.

        Only pictures that are padded to one size share a batch: more padding would let what is found in one depend on
        the sizes of the others.
        """
        samples = [self._sample(picture) for picture in pictures]
        sizes_hw = [sample.target.image_hw for sample in samples]
        found: dict[int, PictureDetections] = {}
        for together in batches_of_like_size(sizes_hw, batch_size=batch_size, size_divisor=self.model.size_divisor):
            batch = collate([samples[index] for index in together])
            found.update(zip(together, self.detect(batch, keep=keep), strict=True))
        return [found[index] for index in range(len(pictures))]

    def detect_picture(self, picture: Image.Image) -> PictureDetections:
        """Detect the objects of one decoded RGB picture."""
        return self.detect_pictures([picture], batch_size=1)[0]

    def _sample(self, picture: Image.Image) -> Sample:
        original_hw = (picture.height, picture.width)
        image_hw = resized_hw(original_hw, self.short_side, self.longest_side)
        target = Target(
            boxes_cxcywh_norm=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            image_id=-1,
            image_hw=image_hw,
            original_hw=original_hw,
        )
        return Sample(channels_first(resize_picture(picture, image_hw)), target, "")


def _on_host(found: Sequence[BestPairs]) -> list[PictureDetections]:
    """What was found in some pictures, brought over at once."""
    columns = [(each.labels[:, None], each.scores[:, None], each.boxes_xyxy_px) for each in found]
    # float32 holds rows below 2^24 as they are.
    found_N6 = torch.cat([torch.cat([each.float() for each in parts], 1) for parts in columns]).cpu()
    return [
        PictureDetections(
            category_ids=each_D6[:, 0].long().numpy(),
            boxes_xyxy_px=each_D6[:, 2:].contiguous().numpy(),
            scores=each_D6[:, 1].contiguous().numpy(),
        )
        for each_D6 in found_N6.split([len(each.labels) for each in found])
    ]


def detect_all(
    detector: BatchDetector, batches: Iterable[Batch], *, are_relative: bool = False
) -> Iterator[tuple[int, PictureDetections]]:
    """Image id and detections of each picture; where boxes are relative, as fractions of the picture's sides."""
    for batch in batches:
        for target, found in zip(batch.targets, detector.detect(batch), strict=True):
            if are_relative:
                height, width = target.original_hw
                sides = np.array([width, height] * 2, np.float32)
                found = replace(found, boxes_xyxy_px=found.boxes_xyxy_px / sides)  # noqa: PLW2901
            yield target.image_id, found
