"""From a view to its pixels: the one function that teacher and student share."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.cache.view import PAD_VALUE, View
from richsem_schemas.pictures.resize import PackedPicture, copy_by_channel, resize_picture

Pictures = Mapping[int, Image.Image | PackedPicture]
"""RGB, by sample."""


class RenderedTile(NamedTuple):
    """What a view shows of one picture.

    Attributes:
        paste_xyxy_px: where on the canvas it lies.
        pixels: RGB, uint8 [H, W, 3]; may be read-only. Not yet mirrored.
        flip: whether it is to be mirrored left to right.
    """

    paste_xyxy_px: tuple[int, int, int, int]
    pixels: NDArray[np.uint8]
    flip: bool


def rendered_tiles(view: View, pictures: Pictures) -> Iterator[RenderedTile]:
    """The parts of the picture that a view describes; what they leave free of its canvas is `PAD_VALUE`.

    Source:
        The reference resizes, crops and resizes again, tile by tile; here each tile is one resampling from the
        original picture to the canvas, so a tile is a little sharper and costs one resize instead of two or three.
    """
    for tile in view.tiles:
        left, top, right, bottom = tile["paste_xyxy_px"].tolist()
        picture = pictures[int(tile["sample"])]
        box = _inside(tile["source_xyxy_px"].tolist(), picture.size)
        pixels_HW3 = resize_picture(picture, (bottom - top, right - left), box)
        yield RenderedTile((left, top, right, bottom), pixels_HW3, bool(tile["flip"]))


def is_one_whole_tile(view: View) -> bool:
    """Whether a single tile covers the canvas."""
    height, width = view.canvas_hw
    return len(view.tiles) == 1 and view.tiles[0]["paste_xyxy_px"].tolist() == [0, 0, width, height]


def render_view(view: View, pictures: Pictures) -> NDArray[np.uint8]:
    """Make the picture that a view describes; see `rendered_tiles`.

    Args:
        view: the recipe.
        pictures: at least those that the tiles name.

    Returns:
        RGB, uint8 [H, W, 3] of `view.canvas_hw`; may be read-only.
    """
    tiles = rendered_tiles(view, pictures)
    if is_one_whole_tile(view):
        (tile,) = tiles
        if not tile.flip:
            return tile.pixels
        canvas = np.empty((*view.canvas_hw, 3), np.uint8)
        _place(tile, canvas)
        return canvas
    canvas = np.full((*view.canvas_hw, 3), PAD_VALUE, np.uint8)
    for tile in tiles:
        left, top, right, bottom = tile.paste_xyxy_px
        _place(tile, canvas[top:bottom, left:right])
    return canvas


def _place(tile: RenderedTile, onto_HW3: NDArray[np.uint8]) -> None:
    if tile.flip:
        copy_by_channel(tile.pixels[:, ::-1], onto_HW3)
    else:
        onto_HW3[...] = tile.pixels


def _inside(box: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Clip what float32 rounding moved past the border, and keep a sliver of area for PIL."""
    width, height = size
    x1, y1 = min(max(box[0], 0.0), width - 1e-3), min(max(box[1], 0.0), height - 1e-3)
    return x1, y1, max(min(box[2], float(width)), x1 + 1e-3), max(min(box[3], float(height)), y1 + 1e-3)
