"""A batch and its parts, from the data to the losses."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from richsem_train.choices import Supervision
from richsem_train.devices import on_device, sent


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """The teacher's belief about G boxes, in one of three forms.

    Attributes:
        embeddings: float32 [G, D], unit-norm region embeddings; with the text bank they give the whole distribution.
        class_ids: int64 [G, K], rows of the vocabulary, most probable first.
        log_probs: float32 [G, K].
        log_rest: float32 [G], log of the mass outside the K classes; -inf where there is none.
        is_known: bool [G], False where the belief isn't known, and the rest means nothing; None where all are.
    """

    embeddings: Tensor | None = None
    class_ids: Tensor | None = None
    log_probs: Tensor | None = None
    log_rest: Tensor | None = None
    is_known: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Target:
    """The truth about one picture of a batch.

    Attributes:
        boxes_cxcywh_norm: float32 [G, 4], relative to the picture without padding.
        labels: int64 [G], rows of the vocabulary; 0 where there is no label.
        image_id: of the annotations; negative for views of a cache.
        image_hw: height and width in the batch without padding, pixels.
        original_hw: of the picture as decoded (of the canvas for views), pixels; boxes are predicted in these.
        supervision: how the classes of its boxes are taught.
        soft_labels: of the G boxes; None where there are none.
        is_hard: the semantic branch learns `labels` as if they were soft; for comparisons.
        image_labels: int64 [M], distinct rows of the vocabulary above 0 that the picture shows, nobody knows where; of
            an "image" target, which has no boxes, None of any other.
        is_extra: of extra data, whose boxes may be rough, or some of many.
    """

    boxes_cxcywh_norm: Tensor
    labels: Tensor
    image_id: int
    image_hw: tuple[int, int]
    original_hw: tuple[int, int]
    supervision: Supervision = "labelled"
    soft_labels: SoftLabels | None = None
    is_hard: bool = False
    image_labels: Tensor | None = None
    is_extra: bool = False


def whole_image(target: Target, image_labels: Tensor) -> Target:
    """The same picture with labels of the whole, int64 [M], distinct rows above 0, in the place of its boxes."""
    return replace(
        target,
        boxes_cxcywh_norm=target.boxes_cxcywh_norm[:0],
        labels=target.labels[:0],
        soft_labels=None,
        supervision="image",
        image_labels=image_labels,
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures side by side, padded at the right and the bottom.

    Attributes:
        pixels: uint8 [B, 3, H, W] RGB; anything where padded, since models mask it.
        targets: one a picture.
        names: of the pictures, for messages.
    """

    pixels: Tensor
    targets: tuple[Target, ...]
    names: tuple[str, ...]

    @cached_property
    def padding_mask(self) -> Tensor:
        """Bool [B, H, W], True where padded; made where the pixels are, since it is a third of their size."""
        height, width = self.pixels.shape[2:]
        return padding_mask([target.image_hw for target in self.targets], (height, width), self.pixels.device)

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        move = partial(sent, device=device)
        return replace(
            self,
            pixels=move(self.pixels),
            targets=tuple(converted(target, move) for target in self.targets),
        )

    def pin_memory(self) -> "Batch":
        """Page-locked, for copies that don't block; called by the DataLoader."""
        return replace(self, pixels=self.pixels.pin_memory())


def padding_mask(hws: Sequence[tuple[int, int]], padded_hw: tuple[int, int], device: torch.device) -> Tensor:
    """True beyond the height and width of each picture.

    Args:
        hws: of B pictures.
        padded_hw: of all of them, H and W.
        device: that makes it, from the sides alone.

    Returns:
        Bool [B, H, W].
    """
    height, width = padded_hw
    if all(hw == padded_hw for hw in hws):
        return torch.zeros(len(hws), height, width, dtype=torch.bool, device=device)
    beyond = [
        torch.arange(side) >= torch.tensor(ends)[:, None]
        for side, ends in zip(padded_hw, zip(*hws, strict=True), strict=True)
    ]
    rows_BH, columns_BW = on_device(torch.cat(beyond, dim=1), device).split(padded_hw, dim=1)
    return rows_BH[:, :, None] | columns_BW[:, None, :]


_Record = TypeVar("_Record", SoftLabels, Target)


def converted(record: _Record, convert: Callable[[Any], Any]) -> _Record:
    """A record whose tensors (or arrays), those of its soft labels too, have gone through a function."""
    changed: dict[str, Any] = {}
    for name, value in vars(record).items():
        if isinstance(value, Tensor | np.ndarray):
            changed[name] = convert(value)
        elif isinstance(value, SoftLabels):
            changed[name] = converted(value, convert)
    return replace(record, **changed)
