"""From a view to its pixels: the one function that teacher and student share."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.cache.view import PAD_VALUE, View
from richsem_schemas.pictures.resize import PackedPicture, resize_picture

Pictures = Mapping[int, Image.Image | PackedPicture]
"""RGB, by sample."""


def render_view(view: View, pictures: Pictures, onto_HW3: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Make the picture that a view describes.

    Args:
        view: the recipe.
        pictures: at least those that the tiles name.
        onto_HW3: where it goes, uint8 [H, W, 3] of `view.canvas_hw`.

    Returns:
        RGB, uint8 [H, W, 3] of `view.canvas_hw`; may be read-only. It is `onto_HW3` where that is given.

    Source:
        The reference resizes, crops and resizes again, tile by tile; here each tile is one resampling from the
        original picture to the canvas, so a tile is a little sharper and costs one resize instead of two or three.
    """
    height, width = view.canvas_hw
    whole = (0, 0, width, height)
    if len(view.tiles) == 1 and tuple(view.tiles[0]["paste_xyxy_px"]) == whole:
        return _render_tile(view.tiles[0], pictures, onto_HW3)
    canvas = np.empty((height, width, 3), np.uint8) if onto_HW3 is None else onto_HW3
    canvas[...] = PAD_VALUE
    for tile in view.tiles:
        left, top, right, bottom = tile["paste_xyxy_px"].tolist()
        _render_tile(tile, pictures, canvas[top:bottom, left:right])
    return canvas


def _render_tile(tile: np.void, pictures: Pictures, onto_HW3: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
    left, top, right, bottom = tile["paste_xyxy_px"].tolist()
    picture = pictures[int(tile["sample"])]
    box = _inside(tile["source_xyxy_px"].tolist(), picture.size)
    return resize_picture(picture, (bottom - top, right - left), box, flip=bool(tile["flip"]), onto_HW3=onto_HW3)


def _inside(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Clip what float32 rounding moved past the border, and keep a sliver of area for PIL."""
    width, height = size
    x1, y1 = min(max(box[0], 0.0), width - 1e-3), min(max(box[1], 0.0), height - 1e-3)
    return x1, y1, max(min(box[2], float(width)), x1 + 1e-3), max(min(box[3], float(height)), y1 + 1e-3)
