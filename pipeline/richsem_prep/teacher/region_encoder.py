"""From the regions of rendered views to embeddings, in two ways: pooled from the trunk's map, or shown as pictures.

Each encoder has two halves: `prepare` makes arrays from pixels on the CPU, in any thread; `encode` runs the network
over a stream of them, in batches that the stream alone decides, so that a view's embedding depends on nothing but its
shard.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from richsem_prep.teacher.teacher import DTYPES, Teacher
from richsem_schemas.cache.field_types import Precision
from richsem_schemas.cache.manifest import RegionEncoderSpec
from richsem_schemas.cache.view import PAD_VALUE
from richsem_schemas.errors import TeacherError
from richsem_schemas.pictures.resize import resize_picture

TRUNK_STRIDE = 32
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**24}
"""Most pixels in one batch, by device: enough to keep it busy, little enough for its memory."""

_REGIONS_AT_ONCE = 1024
"""Regions that go through the attention pool at a time: as many as the largest batch of mosaics has; only windows with
hundreds of jittered boxes have more."""

_Item = TypeVar("_Item")
"""What a caller knows a view by; handed through."""


@dataclass(frozen=True, eq=False)
class PreparedView:
    """One view, ready for the device.

    Attributes:
        images: uint8 [1, H, W, 3] for `roi-align`, [R, H, W, 3] for `crop`.
        boxes_xyxy_px: [R, 4] float32 on the image, for `roi-align`.
    """

    images: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]


def make_region_encoder(
    teacher: Teacher, *, kind: str | None, teacher_size: int | None, precision: Precision
) -> "RegionEncoder":
    """The encoder that `--region-encoder` names; None is `roi-align` where the teacher can, else `crop`.

    Raises:
        TeacherError: `roi-align` is asked of a teacher that is no CLIP ResNet.
    """
    can_pool = teacher.clip_resnet is not None
    if kind == "crop" or (kind is None and not can_pool):
        return CropEncoder(teacher, teacher_size=teacher_size, precision=precision)
    if not can_pool:
        raise TeacherError(
            f"--region-encoder roi-align needs a CLIP ResNet (RN50, RN101, RN50x4, …), "
            f"{teacher.identity.name} is none; use --region-encoder crop"
        )
    return RoiAlignEncoder(teacher, teacher_size=teacher_size, precision=precision)


class RoiAlignEncoder:
    """The reference's way: one pass of the trunk a view, RoIAlign on its last map, CLIP's own attention pool.

    A box over a whole picture at the model's own resolution gives exactly `encode_image`.
    """

    def __init__(self, teacher: Teacher, *, teacher_size: int | None, precision: Precision) -> None:
        visual = teacher.clip_resnet
        assert visual is not None
        side = visual.image_size // TRUNK_STRIDE
        self.spec = RegionEncoderSpec(kind="roi-align", teacher_size=teacher_size, pooled_hw=(side, side))
        self._visual = visual
        self._embed_dim = teacher.identity.embed_dim
        self._forward = _Forward(teacher, precision)

    def prepare(self, pixels_HW3: NDArray[np.uint8], boxes_xyxy_px: NDArray[np.float32]) -> PreparedView:
        """The view at the teacher's size, and its boxes there."""
        seen_HW3 = scaled_to(pixels_HW3, self.spec.teacher_size)
        boxes = boxes_xyxy_px * size_ratio(seen_HW3, pixels_HW3)
        return PreparedView(at_least(seen_HW3, TRUNK_STRIDE)[None], boxes)

    def encode(self, views: Iterable[tuple[_Item, PreparedView]]) -> Iterator[tuple[_Item, NDArray[np.float32]]]:
        """Batches of consecutive views of equal size: mosaics go together, crops mostly alone."""
        items: list[_Item] = []
        batch: list[PreparedView] = []
        for item, view in views:
            if batch and (view.images.shape != batch[0].images.shape or len(batch) == self._batch_size(batch[0])):
                yield from zip(items, self._encode_batch(batch), strict=True)
                items, batch = [], []
            items.append(item)
            batch.append(view)
        if batch:
            yield from zip(items, self._encode_batch(batch), strict=True)

    def _batch_size(self, view: PreparedView) -> int:
        _, height, width, _ = view.images.shape
        return self._forward.batch_size(height, width)

    def _encode_batch(self, batch: Sequence[PreparedView]) -> list[NDArray[np.float32]]:
        images = np.concatenate([view.images for view in batch])
        boxes = [torch.from_numpy(view.boxes_xyxy_px) for view in batch]
        if not sum(map(len, boxes)):
            return [np.empty((0, self._embed_dim), np.float32)] * len(batch)
        features = self._forward(lambda pixels: self._pool(pixels, boxes), images)
        return np.split(features, np.cumsum([len(box) for box in boxes])[:-1])

    def _pool(self, images_B3HW: Tensor, boxes: list[Tensor]) -> Tensor:
        feature_map = trunk(self._visual, images_B3HW)
        rows = torch.cat([functional.pad(box, (1, 0), value=index) for index, box in enumerate(boxes)])
        parts = rows.to(feature_map.device, torch.float32).split(_REGIONS_AT_ONCE)
        return torch.cat([self._pool_part(feature_map, part) for part in parts])

    def _pool_part(self, feature_map: Tensor, rows_R5: Tensor) -> Tensor:
        assert self.spec.pooled_hw is not None
        # fp32: RoIAlign has no half-precision kernel on the CPU, and sampling points need the digits.
        pooled = roi_align(
            feature_map.float(),
            rows_R5,
            self.spec.pooled_hw,
            spatial_scale=1 / TRUNK_STRIDE,
            sampling_ratio=0,
            aligned=True,
        )
        return self._visual.attnpool(pooled)


class CropEncoder:
    """Any open_clip model: each region's pixels, squashed (never centre-cropped) to the model's own resolution."""

    def __init__(self, teacher: Teacher, *, teacher_size: int | None, precision: Precision) -> None:
        self.spec = RegionEncoderSpec(kind="crop", teacher_size=teacher_size, pooled_hw=None)
        self._teacher = teacher
        self._forward = _Forward(teacher, precision)

    def prepare(self, pixels_HW3: NDArray[np.uint8], boxes_xyxy_px: NDArray[np.float32]) -> PreparedView:
        """The regions' pixels at the model's resolution."""
        seen_HW3 = scaled_to(pixels_HW3, self.spec.teacher_size)
        seen = Image.fromarray(seen_HW3)
        height, width = self._teacher.identity.input_hw
        filter_ = _RESAMPLING[self._teacher.identity.interpolation]
        images = np.empty((len(boxes_xyxy_px), height, width, 3), np.uint8)
        for index, box in enumerate(boxes_xyxy_px * size_ratio(seen_HW3, pixels_HW3)):
            images[index] = np.asarray(seen.crop(whole_pixels(box, seen.size)).resize((width, height), filter_))
        return PreparedView(images, boxes_xyxy_px)

    def encode(self, views: Iterable[tuple[_Item, PreparedView]]) -> Iterator[tuple[_Item, NDArray[np.float32]]]:
        """Batches of consecutive regions, across views; the last one is padded, so that all are of one size."""
        batch_size = self._forward.batch_size(*self._teacher.identity.input_hw)
        waiting: list[NDArray[np.uint8]] = []
        under_way: deque[tuple[_Item, int]] = deque()
        done = np.empty((0, self._teacher.identity.embed_dim), np.float32)
        for item, view in views:
            under_way.append((item, len(view.images)))
            waiting.append(view.images)
            while sum(map(len, waiting)) >= batch_size:
                pixels = np.concatenate(waiting)
                waiting = [pixels[batch_size:]]
                done = np.concatenate([done, self._forward(self._teacher.encode_image, pixels[:batch_size])])
            while under_way and len(done) >= under_way[0][1]:
                first, count = under_way.popleft()
                yield first, done[:count]
                done = done[count:]
        if under_way:
            rest = np.concatenate(waiting)
            if len(rest):
                last = self._forward(self._teacher.encode_image, padded(rest, batch_size))[: len(rest)]
                done = np.concatenate([done, last])
            parts = np.split(done, np.cumsum([count for _, count in under_way])[:-1])
            yield from zip((item for item, _ in under_way), parts, strict=True)


RegionEncoder = RoiAlignEncoder | CropEncoder
"""`encode` gives each item with the [R, D] unit-norm embeddings of its view, in order, a little after it is taken."""


class _Forward:
    """Pixels in, unit-norm embeddings out: the one place that touches the device."""

    def __init__(self, teacher: Teacher, precision: Precision) -> None:
        self._device = teacher.device
        self._dtype = DTYPES[precision]
        self._mean = torch.tensor(teacher.identity.mean, device=self._device).view(1, 3, 1, 1)
        self._std = torch.tensor(teacher.identity.std, device=self._device).view(1, 3, 1, 1)

    def batch_size(self, height: int, width: int) -> int:
        return max(1, min(256, _BATCH_PIXELS[self._device.type] // (height * width)))

    @torch.inference_mode()
    def __call__(self, network: Callable[[Tensor], Tensor], images_BHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        pixels = torch.from_numpy(np.ascontiguousarray(images_BHW3)).to(self._device, non_blocking=True)
        # An NHWC array permuted is channels-last already, which convolutions like.
        normalised = (pixels.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = network(normalised)
        return functional.normalize(features.float(), dim=-1).cpu().numpy()


def trunk(visual: "torch.nn.Module", images_B3HW: Tensor) -> Tensor:
    """A CLIP ResNet up to its attention pool: [B, C, H/32, W/32]."""
    hidden = visual.stem(images_B3HW)  # type: ignore[operator]
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        hidden = stage(hidden)  # type: ignore[operator]
    return hidden


def scaled_to(pixels_HW3: NDArray[np.uint8], longer_side: int | None) -> NDArray[np.uint8]:
    """The picture with its longer side at so many pixels, antialiased; None leaves it as it is."""
    height, width, _ = pixels_HW3.shape
    if longer_side is None or max(height, width) == longer_side:
        return pixels_HW3
    return resize_picture(Image.fromarray(pixels_HW3), scaled_hw((height, width), longer_side))


def scaled_hw(hw: tuple[int, int], longer_side: int) -> tuple[int, int]:
    """Height and width of a picture whose longer side is brought to so many pixels."""
    ratio = longer_side / max(hw)
    return max(round(hw[0] * ratio), 1), max(round(hw[1] * ratio), 1)


def size_ratio(new_HW3: NDArray[np.uint8], old_HW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Factors of coordinates (x1, y1, x2, y2) when a picture changes its size: float32 [4]."""
    return np.array([new_HW3.shape[1] / old_HW3.shape[1], new_HW3.shape[0] / old_HW3.shape[0]] * 2, np.float32)


def at_least(pixels_HW3: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The picture, padded at the right and the bottom where a side is shorter, so that the trunk has a map at all."""
    height, width, _ = pixels_HW3.shape
    lacking = ((0, max(side - height, 0)), (0, max(side - width, 0)), (0, 0))
    return np.pad(pixels_HW3, lacking, constant_values=PAD_VALUE) if min(height, width) < side else pixels_HW3


def whole_pixels(box_xyxy: NDArray[np.float32], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The pixels that a box touches, at least one, inside a picture of `size` (width, height)."""
    width, height = size
    left = min(max(int(np.floor(box_xyxy[0] + 1e-3)), 0), width - 1)
    top = min(max(int(np.floor(box_xyxy[1] + 1e-3)), 0), height - 1)
    right = min(max(int(np.ceil(box_xyxy[2] - 1e-3)), left + 1), width)
    bottom = min(max(int(np.ceil(box_xyxy[3] - 1e-3)), top + 1), height)
    return left, top, right, bottom


def padded(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """The batch filled up with black images to `count`."""
    if len(images) == count:
        return images
    filler = np.zeros((count - len(images), *images.shape[1:]), np.uint8)
    return np.concatenate([images, filler])
