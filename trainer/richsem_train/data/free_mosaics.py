"""Mosaics composed while training, of stored crops: unbounded variety from one pass of labels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from richsem_schemas.codec import LabelledView
from richsem_schemas.soft_labels import TopKSoftLabels
from richsem_schemas.view import NO_ANNOTATION, REGION_DTYPE, TILE_DTYPE, View
from richsem_train.data.cache_views import DamagedViewError, ReadView

MOSAIC_STREAM = 114
"""Sets the centres of free mosaics apart from other random numbers of the same seed."""

CROPS_PER_MOSAIC = 4
_QUADRANTS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Row and column of each crop, in turn."""


def free_mosaic(crops: Sequence[ReadView], *, tile_side: int, rng: np.random.Generator) -> ReadView:
    """Four crop views around a random centre, each shown whole, at most as large as it fits its quadrant.

    A crop's label holds for exactly its pixels, so no tile is cut, unlike the tiles of stored mosaics, which the
    teacher saw as they are cut.

    Args:
        crops: four crop views, of any blocks.
        tile_side: of the cache's geometry, pixels; the canvas has twice the side, and no tile is larger than this.
        rng: source of the centre.

    Returns:
        Tiles count the pictures as 0..3 and not by their samples, since those of several shards may meet.

    Source:
        Ours. The centre is drawn as in the reference, in 0.5..1.5 of a tile.
    """
    center_y, center_x = (int(value) for value in rng.uniform(0.5 * tile_side, 1.5 * tile_side, 2))
    tiles = np.zeros(len(_QUADRANTS), TILE_DTYPE)
    regions = np.zeros(len(_QUADRANTS), REGION_DTYPE)
    for index, (crop, (row, column)) in enumerate(zip(crops, _QUADRANTS, strict=True)):
        stored = crop.labelled.view
        room_h = 2 * tile_side - center_y if row else center_y
        room_w = 2 * tile_side - center_x if column else center_x
        height, width = fitted_hw(stored.canvas_hw, (min(room_h, tile_side), min(room_w, tile_side)))
        left = center_x if column else center_x - width
        top = center_y if row else center_y - height
        paste = (left, top, left + width, top + height)
        tiles[index] = (index, stored.tiles[0]["source_xyxy_px"], paste, stored.tiles[0]["flip"])
        regions[index] = (paste, index, stored.regions[0]["category_id"], NO_ANNOTATION, 0)
    view = View("mosaic", 0, (2 * tile_side, 2 * tile_side), tiles, regions)
    return ReadView(
        "+".join(crop.name for crop in crops),
        LabelledView(view, _stacked_labels(crops), _stacked_embeddings(crops)),
        {index: _only_picture(crop) for index, crop in enumerate(crops)},
    )


def require_whole_crop(crop: ReadView) -> None:
    """Refuse a crop view with anything but one region, the whole canvas.

    Raises:
        DamagedViewError: a tile wouldn't show what the label was made of.
    """
    view = crop.labelled.view
    whole = [0, 0, view.canvas_hw[1], view.canvas_hw[0]]
    boxes = view.regions["box_xyxy_px"].tolist() + view.tiles["paste_xyxy_px"].tolist()
    if boxes != [whole, whole]:
        raise DamagedViewError(f"{crop.name}: not one region, the whole of its canvas; free mosaics can't show it")


def fitted_hw(hw: tuple[int, int], room_hw: tuple[int, int]) -> tuple[int, int]:
    """The largest size of the same shape that fits into a room; at least 1 px each."""
    scale = min(room_hw[0] / hw[0], room_hw[1] / hw[1])
    return max(min(int(hw[0] * scale), room_hw[0]), 1), max(min(int(hw[1] * scale), room_hw[1]), 1)


def _only_picture(crop: ReadView) -> Image.Image:
    return crop.pictures[int(crop.labelled.view.tiles[0]["sample"])]


def _stacked_labels(crops: Sequence[ReadView]) -> TopKSoftLabels:
    labels = [crop.labelled.labels for crop in crops]
    return TopKSoftLabels(
        np.concatenate([kept.class_ids for kept in labels]),
        np.concatenate([kept.log_probs for kept in labels]),
        np.concatenate([kept.log_rest for kept in labels]),
    )


def _stacked_embeddings(crops: Sequence[ReadView]) -> np.ndarray | None:
    embeddings = [crop.labelled.embeddings for crop in crops if crop.labelled.embeddings is not None]
    return np.concatenate(embeddings) if len(embeddings) == len(crops) else None
