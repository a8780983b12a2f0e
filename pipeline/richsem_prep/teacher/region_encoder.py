"""From the regions of rendered views to embeddings, in two ways: pooled from the trunk's map, or shown as pictures.

Each encoder has two halves: `prepare` makes arrays from pixels on the CPU, in any thread; `encode` runs the network
over a stream of them, in batches that the stream alone decides, so that a view's embedding depends on nothing but its
shard.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from richsem_prep.teacher.batches import Part, PreparedView, consecutive, encoded_in_order, of_like_size
from richsem_prep.teacher.clip_trunk import TRUNK_STRIDE, map_hw, trunk, trunk_of_corners
from richsem_prep.teacher.device_forward import DeviceForward, UnderWay
from richsem_prep.teacher.teacher import Teacher
from richsem_schemas.cache.field_types import Precision
from richsem_schemas.cache.manifest import RegionEncoderSpec
from richsem_schemas.cache.view import PAD_VALUE, View
from richsem_schemas.errors import TeacherError
from richsem_schemas.pictures.resize import resize_picture, resize_pixels

_CANVAS_GRID = {"cpu": 1, "cuda": 64}
"""Sides of canvases are multiples of this, by device: of a thousand crops six hundred have a size of their own, so on a
GPU those of like size go together, at 6 % more pixels. A CPU gains nothing from batches."""

_WAITING_BATCHES = 8
"""Full batches' worth of pixels that may wait for others of like size: 400 MB on a GPU, where crops go about five in a
batch by then, three with half as many."""

_REGIONS_AT_ONCE = 1024
"""Regions that go through the attention pool at a time: as many as the largest batch of mosaics has; only windows with
hundreds of jittered boxes have more."""

_Item = TypeVar("_Item")
"""What a caller knows a view by; handed through."""


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
        self._forward = DeviceForward(teacher, precision)
        visual = self._forward.teacher.clip_resnet
        assert visual is not None
        side = visual.image_size // TRUNK_STRIDE
        self._visual, self._pooled_hw = visual, (side, side)
        self.spec = RegionEncoderSpec(kind="roi-align", teacher_size=teacher_size, pooled_hw=self._pooled_hw)
        self._embed_dim = teacher.identity.embed_dim
        self._grid = _CANVAS_GRID[teacher.device.type]

    def prepare(self, pixels_HW3: NDArray[np.uint8], boxes_xyxy_px: NDArray[np.float32]) -> PreparedView:
        """The view at the teacher's size, and its boxes there."""
        seen_HW3 = scaled_to(pixels_HW3, self.spec.teacher_size)
        boxes = boxes_xyxy_px * size_ratio(seen_HW3, pixels_HW3)
        return PreparedView(at_least(seen_HW3, TRUNK_STRIDE)[None], boxes)

    def batches_of(self, view: View) -> float:
        """The part of a full batch that a view is."""
        seen_hw = (
            view.canvas_hw if self.spec.teacher_size is None else scaled_hw(view.canvas_hw, self.spec.teacher_size)
        )
        return 1 / self._forward.batch_size(seen_hw)

    def encode(self, views: Iterable[tuple[_Item, PreparedView]]) -> Iterator[tuple[_Item, NDArray[np.float32]]]:
        """Batches of views of equal size on CPUs, of like size on GPUs."""
        batches = partial(
            of_like_size,
            canvas_hw=self._canvas_hw,
            size=self._forward.batch_size,
            most_pixels=_WAITING_BATCHES * self._forward.batch_pixels,
        )
        return encoded_in_order(views, batches, self._launch, dim=self._embed_dim)

    def _canvas_hw(self, part: Part) -> tuple[int, int]:
        height, width = part.hw
        return -(-height // self._grid) * self._grid, -(-width // self._grid) * self._grid

    def _launch(self, batch: Sequence[Part]) -> UnderWay:
        canvas_hw = self._canvas_hw(batch[0])
        pixels_BHW3 = self._forward.staged([part.images for part in batch], canvas_hw, count=len(batch))
        hws, boxes = [part.hw for part in batch], [part.boxes_xyxy_px for part in batch]
        if all(hw == canvas_hw for hw in hws):
            return self._forward.launch(self._of_views, pixels_BHW3, _rows(boxes))
        of_corners = partial(self._of_corners, hws=hws, regions=[len(each) for each in boxes])
        return self._forward.launch(of_corners, pixels_BHW3, torch.from_numpy(np.concatenate(boxes)), torch.tensor(hws))

    def _of_views(self, images_B3HW: Tensor, rows_R5: Tensor) -> Tensor:
        """Embeddings of boxes, each row with the number of its image first."""
        return self._pooled([trunk(self._visual, images_B3HW)], [rows_R5])

    def _of_corners(
        self, images_B3HW: Tensor, boxes_R4: Tensor, hw_B2: Tensor, *, hws: list[tuple[int, int]], regions: list[int]
    ) -> Tensor:
        """Embeddings of boxes of images that lie in the corners of their canvases: of so many of each."""
        map_BCHW = trunk_of_corners(self._visual, images_B3HW, hw_B2)
        maps = [map_BCHW[n : n + 1, :, : map_hw(hw)[0], : map_hw(hw)[1]] for n, hw in enumerate(hws)]
        return self._pooled(maps, [functional.pad(boxes, (1, 0)) for boxes in boxes_R4.split(regions)])

    def _pooled(self, maps: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
        """Embeddings of the rows [R, 5] of each map, through the attention pool about a thousand at a time."""
        features: list[Tensor] = []
        waiting: list[Tensor] = []
        for map_BCHW, rows_R5 in zip(maps, rows, strict=True):
            for part_R5 in rows_R5.split(_REGIONS_AT_ONCE):
                # fp32: RoIAlign has no half-precision kernel on the CPU, and sampling points need the digits.
                waiting.append(
                    roi_align(
                        map_BCHW.float(),
                        part_R5,
                        self._pooled_hw,
                        spatial_scale=1 / TRUNK_STRIDE,
                        sampling_ratio=0,
                        aligned=True,
                    )
                )
                if sum(map(len, waiting)) >= _REGIONS_AT_ONCE:
                    features.append(self._visual.attnpool(torch.cat(waiting)))
                    waiting = []
        return torch.cat([*features, *([self._visual.attnpool(torch.cat(waiting))] if waiting else [])])


class CropEncoder:
    """Any open_clip model: each region's pixels, squashed (never centre-cropped) to the model's own resolution."""

    def __init__(self, teacher: Teacher, *, teacher_size: int | None, precision: Precision) -> None:
        self.spec = RegionEncoderSpec(kind="crop", teacher_size=teacher_size, pooled_hw=None)
        self._identity = teacher.identity
        self._forward = DeviceForward(teacher, precision)
        self._batch_size = self._forward.batch_size(teacher.identity.input_hw)

    def prepare(self, pixels_HW3: NDArray[np.uint8], boxes_xyxy_px: NDArray[np.float32]) -> PreparedView:
        """The regions' pixels at the model's resolution."""
        seen_HW3 = scaled_to(pixels_HW3, self.spec.teacher_size)
        height, width = seen_HW3.shape[:2]
        images = np.empty((len(boxes_xyxy_px), *self._identity.input_hw, 3), np.uint8)
        for index, box in enumerate(boxes_xyxy_px * size_ratio(seen_HW3, pixels_HW3)):
            left, top, right, bottom = whole_pixels(box, (width, height))
            region = seen_HW3[top:bottom, left:right]
            images[index] = resize_pixels(region, self._identity.input_hw, self._identity.interpolation)
        return PreparedView(images, boxes_xyxy_px)

    def batches_of(self, view: View) -> float:
        """The part of a full batch that a view is."""
        return len(view.regions) / self._batch_size

    def encode(self, views: Iterable[tuple[_Item, PreparedView]]) -> Iterator[tuple[_Item, NDArray[np.float32]]]:
        """Batches of consecutive regions, across views; the last one is padded, so that all are of one size."""
        batches = partial(consecutive, size=self._batch_size)
        return encoded_in_order(views, batches, self._launch, dim=self._identity.embed_dim)

    def _launch(self, batch: Sequence[Part]) -> UnderWay:
        images = [part.images for part in batch]
        pixels_BHW3 = self._forward.staged(images, self._identity.input_hw, count=self._batch_size)
        return self._forward.launch(self._forward.teacher.encode_image, pixels_BHW3)


RegionEncoder = RoiAlignEncoder | CropEncoder
"""`encode` gives each item with the [R, D] unit-norm embeddings of its view, in order, a few batches after it is taken;
`batches_of` says how much of a batch a view is."""


def _rows(boxes_xyxy_px: Sequence[NDArray[np.float32]]) -> Tensor:
    """Boxes [R, 5] of a batch, the number of its image before each."""
    numbers = np.repeat(np.arange(len(boxes_xyxy_px), dtype=np.float32), [len(each) for each in boxes_xyxy_px])
    return torch.from_numpy(np.concatenate([numbers[:, None], np.concatenate(boxes_xyxy_px)], axis=1))


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
