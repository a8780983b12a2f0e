"""The teacher inside of the training step, as the reference has it: run on the student's own batch, nothing cached."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from richsem_prep.teacher.clip_trunk import TRUNK_STRIDE, trunk
from richsem_prep.teacher.region_encoder import scaled_hw, whole_pixels
from richsem_prep.teacher.teacher import Teacher
from richsem_schemas.cache.view import PAD_VALUE
from richsem_train.models.inputs import Normalise, autocast
from richsem_train.numerics import cxcywh_to_xyxy
from richsem_train.targets import Batch, SoftLabels, Target


class OnlineTeacher(nn.Module):
    """Labels a batch with embeddings of its own pixels; all of it stays on the device.

    A CLIP ResNet pools its map (RoIAlign, then CLIP's attention pool). Any other model sees each region's pixels,
    squashed to its own resolution.

    Args:
        teacher: frozen, on the batch's device.
        student: makes what the student's backbone takes; the pixels are taken from that, as in the reference, so that
            padding has the student's mean colour.
        precision: `fp32` or `bf16`.
        teacher_size: longer side of a picture as the teacher sees it, pixels. Each picture is then scaled by itself and
            seen without padding, as the cache has it. None is the reference's way, the whole padded batch as it is.
    """

    def __init__(
        self, teacher: Teacher, student: Normalise, *, precision: str, teacher_size: int | None = None
    ) -> None:
        super().__init__()
        self.teacher = teacher
        self.teacher_size = teacher_size
        self._student = student
        self._precision = precision
        mean, std = (
            torch.tensor(getattr(teacher.identity, name), device=teacher.device).view(1, 3, 1, 1)
            for name in ("mean", "std")
        )
        # One multiplication and addition from the student's statistics to CLIP's.
        self._scale = student.std / std
        self._shift = (student.mean - mean) / std
        self._pad_value = (PAD_VALUE / 255 - mean) / std

    @torch.no_grad()
    def labelled(self, batch: Batch) -> Batch:
        """The batch with soft labels in the form of embeddings.

        Args:
            batch: on the teacher's device.
        """
        pixels_B3HW = self._student(batch) * self._scale + self._shift
        boxes = [_boxes_xyxy_px(target) for target in batch.targets]
        with autocast(pixels_B3HW.device, self._precision):
            if self.teacher_size is None:
                embeddings = self._embed_each(pixels_B3HW, boxes)
            else:
                embeddings = self._embed_scaled(pixels_B3HW, boxes, [target.image_hw for target in batch.targets])
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
        if not sum(map(len, boxes_xyxy_px)):
            return pixels_B3HW.new_empty(0, self.teacher.identity.embed_dim)
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

    def _embed_each(self, pixels_B3HW: Tensor, boxes_xyxy_px: Sequence[Tensor]) -> list[Tensor]:
        """Unit-norm embeddings of each picture's regions, float32 [G, D] a picture."""
        unit_RD = functional.normalize(self.embed(pixels_B3HW, boxes_xyxy_px).float(), dim=-1)
        return list(unit_RD.split([len(boxes) for boxes in boxes_xyxy_px]))

    def _embed_scaled(
        self, pixels_B3HW: Tensor, boxes_xyxy_px: Sequence[Tensor], sizes_hw: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        """The same with each picture at the teacher's size; those of one size go together."""
        alike: dict[tuple[int, int], list[int]] = {}
        for place, hw in enumerate(sizes_hw):
            alike.setdefault(hw, []).append(place)
        embeddings: dict[int, Tensor] = {}
        for (height, width), places in alike.items():
            pictures = torch.stack([pixels_B3HW[place, :, :height, :width] for place in places])
            seen, ratio_4 = self._at_its_size(pictures)
            found = self._embed_each(seen, [boxes_xyxy_px[place] * ratio_4 for place in places])
            embeddings |= dict(zip(places, found, strict=True))
        return [embeddings[place] for place in range(len(sizes_hw))]

    def _at_its_size(self, pictures_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures of one size as the teacher sees them, and the factors of coordinates (x1, y1, x2, y2)."""
        assert self.teacher_size is not None
        height, width = pictures_N3HW.shape[-2:]
        out_h, out_w = scaled_hw((height, width), self.teacher_size)
        seen = functional.interpolate(pictures_N3HW, (out_h, out_w), mode="bilinear", antialias=True)
        lacking = (max(TRUNK_STRIDE - out_h, 0), max(TRUNK_STRIDE - out_w, 0))
        if any(lacking) and self.teacher.clip_resnet is not None:
            padded = self._pad_value.expand(len(seen), -1, out_h + lacking[0], out_w + lacking[1]).clone()
            padded[:, :, :out_h, :out_w] = seen
            seen = padded
        ratio_4 = seen.new_tensor([out_w / width, out_h / height] * 2)
        return seen.contiguous(memory_format=torch.channels_last), ratio_4

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
