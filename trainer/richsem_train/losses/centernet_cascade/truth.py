"""What the pictures of a batch teach the two-stage detector, and how."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from richsem_train.devices import sent
from richsem_train.losses.soft_labels import teaches
from richsem_train.numerics import at_least_float32, cxcywh_to_xyxy
from richsem_train.outputs.centernet_cascade import Objects
from richsem_train.targets import Target

Teaching = Literal["boxes", "regions", "image"]
"""By boxes that are complete and exact: proposals and cascade learn where objects are, and where none is. By regions:
the cascade learns what is in them, and nothing of what is elsewhere. Or by labels of the whole picture."""


def teaching_of(target: Target, *, extra_boxes: bool) -> Teaching:
    """How a picture teaches; `extra_boxes` trusts the boxes of extra data as those of detection data."""
    if target.supervision == "image":
        return "image"
    return "regions" if target.is_extra and not extra_boxes else "boxes"


@dataclass(frozen=True, eq=False)
class Truth:
    """The truth about B pictures.

    Attributes:
        targets: B of them.
        objects: padded.
        teaching: of each picture, on the host.
        image_hw: float32 [B, 2], height and width without padding, pixels.
        by_boxes: bool [B], and the other two ways.
        by_regions: bool [B].
        by_image: bool [B].
        has_class_loss: bool [B], whether regions of the picture learn classes.
        is_soft: bool [B], whether its objects teach softly.
        first_soft: int64 [B], objects that teach softly in the pictures before.
        image: int64 [G], the place in the batch of each object of all pictures, one after the other.
        number: int64 [G], its number in the picture.
    """

    targets: Sequence[Target]
    objects: Objects
    teaching: tuple[Teaching, ...]
    image_hw: Tensor
    by_boxes: Tensor
    by_regions: Tensor
    by_image: Tensor
    has_class_loss: Tensor
    is_soft: Tensor
    first_soft: Tensor
    image: Tensor
    number: Tensor

    @classmethod
    def of(cls, targets: Sequence[Target], *, extra_boxes: bool) -> "Truth":
        """The truth of B targets on their device; what the host knows is brought over without waiting."""
        teaching = tuple(teaching_of(target, extra_boxes=extra_boxes) for target in targets)
        counts = [len(target.labels) for target in targets]
        soft_counts = [count if teaches(target) else 0 for count, target in zip(counts, targets, strict=True)]
        flags = [
            [each == "boxes" for each in teaching],
            [each == "regions" for each in teaching],
            [each == "image" for each in teaching],
            [target.supervision == "labelled" for target in targets],
            [count > 0 for count in soft_counts],
        ]
        firsts = [sum(soft_counts[:place]) for place in range(len(targets))]
        of_objects = [(image, number) for image, count in enumerate(counts) for number in range(count)]
        device = targets[0].labels.device
        flags_5B, first_B, of_objects_G2, hw_B2 = (
            sent(torch.tensor(values), device)
            for values in (flags, firsts, of_objects, [target.image_hw for target in targets])
        )
        image_G, number_G = of_objects_G2.long().view(-1, 2).unbind(1)
        objects = _padded(targets, counts, hw_B2)
        by_boxes_B, by_regions_B, by_image_B, has_class_loss_B, is_soft_B = flags_5B
        return cls(
            targets=targets,
            objects=objects,
            teaching=teaching,
            image_hw=hw_B2.to(objects.boxes_xyxy_px),
            by_boxes=by_boxes_B,
            by_regions=by_regions_B,
            by_image=by_image_B,
            has_class_loss=has_class_loss_B,
            is_soft=is_soft_B,
            first_soft=first_B,
            image=image_G,
            number=number_G,
        )


def _padded(targets: Sequence[Target], counts: Sequence[int], image_hw_B2: Tensor) -> Objects:
    boxes_BM4 = pad_sequence([target.boxes_cxcywh_norm for target in targets], batch_first=True)
    labels_BM = pad_sequence([target.labels for target in targets], batch_first=True)
    if not any(counts):
        boxes_BM4, labels_BM = boxes_BM4.new_zeros(len(counts), 1, 4), labels_BM.new_zeros(len(counts), 1)
    sides_B14 = image_hw_B2.flip(-1).repeat(1, 2)[:, None]
    counts_B1 = sent(torch.tensor(counts), labels_BM.device)[:, None]
    return Objects(
        boxes_xyxy_px=cxcywh_to_xyxy(at_least_float32(boxes_BM4)) * sides_B14,
        labels=labels_BM,
        is_real=torch.arange(labels_BM.shape[1], device=labels_BM.device) < counts_B1,
    )
