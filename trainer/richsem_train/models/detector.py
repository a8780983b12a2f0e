"""What every kind of detector is to those who train, score and export it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn


class BestPairs(NamedTuple):
    """Detections of one picture, best first.

    Attributes:
        scores: float32 [K] in [0, 1].
        labels: int64 [K], rows of the vocabulary.
        boxes_xyxy_px: float32 [K, 4], inside of the picture.
    """

    scores: Tensor
    labels: Tensor
    boxes_xyxy_px: Tensor


class DetectionModel(nn.Module, ABC):
    """A detector over a vocabulary.

    Attributes:
        num_classes: rows C of the vocabulary.
        size_divisor: what heights and widths are padded to multiples of, the backbone's own included.
        backbone: its parameters are all those whose names begin with `backbone.`; they have a learning rate of their
            own.
    """

    num_classes: int
    size_divisor: int
    backbone: nn.Module

    @abstractmethod
    def detect(
        self,
        images_B3HW: Tensor,
        padding_mask_BHW: Tensor,
        *,
        image_hw: Sequence[tuple[int, int]],
        original_hw: Sequence[tuple[int, int]],
        vocabulary_C: Tensor,
        keep: int,
    ) -> list[BestPairs]:
        """The objects of each picture.

        Args:
            images_B3HW: normalised pixels, 0 where padded.
            padding_mask_BHW: bool, True where padded.
            image_hw: height and width of each picture without padding, pixels.
            original_hw: of each picture as decoded; boxes are given in pixels of it.
            vocabulary_C: bool, the rows that are classes.
            keep: detections a picture at most.
        """

    @abstractmethod
    def inference_state_dict(self) -> dict[str, Tensor]:
        """The state without what only training uses: that of the same detector built without a semantic branch."""
