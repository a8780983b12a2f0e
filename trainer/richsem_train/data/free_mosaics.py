"""Mosaics composed while training, of pictures with stored crops: unbounded variety from a few passes of labels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from richsem_schemas.codec import LabelledView
from richsem_schemas.manifest import ViewGeometry
from richsem_schemas.view import NO_ANNOTATION, REGION_DTYPE, TILE_DTYPE, View
from richsem_train.data.cache_views import DamagedViewError, ReadView
from richsem_train.data.nearest import joined, nearest, sights_of
from richsem_train.data.soft_labels import borrowed
from richsem_train.data.transforms import Augmentation, Drawn, draw

MOSAIC_STREAM = 114
"""Sets free mosaics apart from other random numbers of the same seed."""

CROPS_PER_MOSAIC = 4
_QUADRANTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column of each picture, in turn."""


def free_mosaic(
    pictures: Sequence[ReadView], *, geometry: ViewGeometry, rng: np.random.Generator
) -> tuple[View, dict[int, Image.Image]]:
    """Four pictures, each augmented anew and fitted into a tile, around a random centre and cut by the canvas.

    Args:
        pictures: four crop views, of any blocks.
        geometry: the sizes of the cache's views; the canvas has twice the side of a tile.
        rng: source of all randomness.

    Returns:
        The mosaic, and its pictures by the sample that its tiles name: 0..3, since those of several shards may meet.

    Source:
        The reference: the centre is drawn in 0.5..1.5 of a tile.
    """
    side = geometry.mosaic_tile
    center_y, center_x = (int(value) for value in rng.uniform(0.5 * side, 1.5 * side, 2))
    augmentation = Augmentation(
        geometry.short_sides, geometry.longest_side, geometry.first_short_sides, geometry.crop_sides
    )
    shown = [_only_picture(picture) for picture in pictures]
    tiles: np.ndarray = np.zeros(len(_QUADRANTS), TILE_DTYPE)
    regions: np.ndarray = np.zeros(len(_QUADRANTS), REGION_DTYPE)
    for index, (picture, (row, column)) in enumerate(zip(pictures, _QUADRANTS, strict=True)):
        drawn = draw((shown[index].height, shown[index].width), augmentation, rng)
        height, width = fitted_hw(drawn.out_hw, side)
        left = center_x if column else center_x - width
        top = center_y if row else center_y - height
        paste = (max(left, 0), max(top, 0), min(left + width, 2 * side), min(top + height, 2 * side))
        part = (
            (paste[0] - left) / width,
            (paste[1] - top) / height,
            (paste[2] - left) / width,
            (paste[3] - top) / height,
        )
        tiles[index] = (index, source_of_part(drawn, part), paste, drawn.is_mirrored)
        regions[index] = (paste, index, picture.labelled.view.regions[0]["category_id"], NO_ANNOTATION, 0)
    view = View("mosaic", 0, (2 * side, 2 * side), tiles, regions)
    return view, dict(enumerate(shown))


def with_nearest_labels(mosaic: View, pictures: Sequence[ReadView], *, teacher_size: int | None) -> LabelledView:
    """A free mosaic whose tiles have the labels of the nearest stored crops of their pictures.

    Args:
        mosaic: of four pictures.
        pictures: with their crops of all passes.
        teacher_size: as `sights_of` takes it.
    """
    crops = [crop for picture in pictures for crop in picture.all_passes]
    passes = [len(picture.all_passes) for picture in pictures]
    rows = nearest(
        sights_of(mosaic, teacher_size=teacher_size),
        mosaic.regions["tile"],
        joined([sights_of(crop.view, teacher_size=teacher_size) for crop in crops]),
        np.repeat(np.arange(len(pictures)), passes),
        np.concatenate([np.arange(count) for count in passes]),
    )
    labels, embeddings, _ = borrowed(crops, rows)
    return LabelledView(mosaic, labels, embeddings)


def require_whole_crops(picture: ReadView) -> None:
    """Refuse crop views with anything but one region, the whole canvas.

    Raises:
        DamagedViewError: a label wouldn't be of what its tile shows.
    """
    for crop in picture.all_passes:
        view = crop.view
        whole = [0, 0, view.canvas_hw[1], view.canvas_hw[0]]
        boxes = view.regions["box_xyxy_px"].tolist() + view.tiles["paste_xyxy_px"].tolist()
        if boxes != [whole, whole]:
            raise DamagedViewError(f"{picture.name}: not one region, the whole of its canvas; no label of a picture")


def fitted_hw(hw: tuple[int, int], side: int) -> tuple[int, int]:
    """The largest size of the same shape that fits into a square; at least 1 px each."""
    scale = min(side / hw[0], side / hw[1])
    return max(min(int(hw[0] * scale), side), 1), max(min(int(hw[1] * scale), side), 1)


def source_of_part(drawn: Drawn, part: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Which rectangle of a picture fills a part of what was drawn of it.

    Args:
        drawn: what is done to the picture.
        part: xyxy, fractions of the sides of what it shows, mirrored.
    """
    x1, y1, x2, y2 = drawn.source_xyxy_px
    left, top, right, bottom = part
    if drawn.is_mirrored:
        left, right = 1 - right, 1 - left
    return x1 + left * (x2 - x1), y1 + top * (y2 - y1), x1 + right * (x2 - x1), y1 + bottom * (y2 - y1)


def _only_picture(crop: ReadView) -> Image.Image:
    return crop.pictures[int(crop.labelled.view.tiles[0]["sample"])]
