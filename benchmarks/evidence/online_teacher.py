"""The teacher inside of the training step, as the reference has it: run on the student's own batch, nothing cached."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from richsem_prep.teacher.region_encoder import TRUNK_STRIDE, trunk, whole_pixels
from richsem_prep.teacher.teacher import Teacher
from richsem_train.models.inputs import Normalise, autocast
from richsem_train.numerics import cxcywh_to_xyxy
from richsem_train.targets import Batch, SoftLabels, Target


class OnlineTeacher(nn.Module):
    """Labels a batch with embeddings of its own pixels; all of it stays on the device.

    A CLIP ResNet sees the whole padded batch and pools its map (RoIAlign, then CLIP's attention pool). Any other model
    sees each region's pixels, squashed to its own resolution.

    Args:
        teacher: frozen, on the batch's device.
        student: makes what the student's backbone takes; the pixels are taken from that, as in the reference, so that
            padding has the student's mean colour.
        precision: `fp32` or `bf16`.
    """

    def __init__(self, teacher: Teacher, student: Normalise, *, precision: str) -> None:
        super().__init__()
        self.teacher = teacher
        self._student = student
        self._precision = precision
        mean, std = (torch.tensor(getattr(teacher.identity, name), device=teacher.device) for name in ("mean", "std"))
        # One multiplication and addition from the student's statistics to CLIP's.
        self._scale = student.std / std.view(1, 3, 1, 1)
        self._shift = (student.mean - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)

    @torch.no_grad()
    def labelled(self, batch: Batch) -> Batch:
        """The batch with soft labels in the form of embeddings.

        Args:
            batch: on the teacher's device.
        """
        pixels_B3HW = self._student(batch) * self._scale + self._shift
        boxes = [_boxes_xyxy_px(target) for target in batch.targets]
        with autocast(pixels_B3HW.device, self._precision):
            features_RD = self.embed(pixels_B3HW, boxes)
        unit_RD = functional.normalize(features_RD.float(), dim=-1)
        embeddings = unit_RD.split([len(box) for box in boxes])
        targets = [
            replace(target, soft_labels=SoftLabels(embeddings=embedding), is_hard=False)
            for target, embedding in zip(batch.targets, embeddings, strict=True)
        ]
        return replace(batch, targets=tuple(targets))

    def embed(self, pixels_B3HW: Tensor, boxes_xyxy_px: Sequence[Tensor]) -> Tensor:
        """Raw embeddings of all regions, [R, D].

        Args:
            pixels_B3HW: normalised for the teacher.
            boxes_xyxy_px: [G, 4] a picture.
        """
        visual = self.teacher.clip_resnet
        if visual is None:
            return self.teacher.encode_image(self._squashed(pixels_B3HW, boxes_xyxy_px))
        side = visual.image_size // TRUNK_STRIDE
        # fp32: RoIAlign has no half-precision kernel on the CPU, and sampling points need the digits.
        map_BCHW = trunk(visual, pixels_B3HW).float()
        pooled = roi_align(
            map_BCHW, list(boxes_xyxy_px), (side, side), 1 / TRUNK_STRIDE, sampling_ratio=0, aligned=True
        )
        pooled_embeddings: Tensor = visual.attnpool(pooled)
        return pooled_embeddings

    def _squashed(self, pixels_B3HW: Tensor, boxes_xyxy_px: Sequence[Tensor]) -> Tensor:
        height, width = pixels_B3HW.shape[-2:]
        identity = self.teacher.identity
        regions = []
        for pixels_3HW, boxes in zip(pixels_B3HW, boxes_xyxy_px, strict=True):
            for box in boxes.cpu().numpy():
                left, top, right, bottom = whole_pixels(box, (width, height))
                tile = pixels_3HW[None, :, top:bottom, left:right]
                regions.append(
                    functional.interpolate(tile, identity.input_hw, mode=identity.interpolation, antialias=True)
                )
        return torch.cat(regions)


def _boxes_xyxy_px(target: Target) -> Tensor:
    height, width = target.image_hw
    boxes_xyxy_norm = cxcywh_to_xyxy(target.boxes_cxcywh_norm)
    return boxes_xyxy_norm * boxes_xyxy_norm.new_tensor([width, height, width, height])
