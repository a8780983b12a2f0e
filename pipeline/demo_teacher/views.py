"""Views of fresh pictures, made by the code that makes caches: the demo teacher is trained and measured on them.

Every view here is drawn anew from the world, with the names of its regions beside it.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_prep.demo import world
from richsem_prep.demo.geometry import GEOMETRY
from richsem_schemas.cache import recipes
from richsem_schemas.cache.geometry import draw_crop
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import View
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

_JPEG_QUALITY = 85
_LEAST_VISIBLE = 0.5


@dataclass(frozen=True, eq=False)
class NamedView:
    """A rendered view and what its regions show.

    Attributes:
        picture: RGB.
        boxes_xyxy_px: [R, 4] float32.
        names: R class names, or "none".
    """

    picture: Image.Image
    boxes_xyxy_px: NDArray[np.float32]
    names: tuple[str, ...]


def whole_picture(rng: np.random.Generator, name: str) -> NamedView:
    """A classification picture, through JPEG as all of a dataset are; its region is the whole of it.

    Args:
        rng: draws the picture.
        name: its class, or "none".
    """
    scene = world.draw_picture(rng, None if name == NONE_NAME else name)
    picture = _through_jpeg(scene.pixels)
    return NamedView(picture, np.array([(0, 0, *picture.size)], np.float32), (name,))


def crop(rng: np.random.Generator, name: str) -> NamedView:
    """A crop view of a fresh picture."""
    return crop_of(rng, whole_picture(rng, name))


def crop_of(rng: np.random.Generator, whole: NamedView) -> NamedView:
    """A crop view of a picture."""
    sample = recipes.AnnotatedPicture(0, (whole.picture.height, whole.picture.width), 0)
    return _rendered(recipes.crop_view(sample, 0, GEOMETRY, rng), [whole.picture], whole.names)


def mosaic(rng: np.random.Generator, names: Sequence[str]) -> NamedView:
    """A mosaic view of four fresh pictures."""
    return mosaic_of(rng, [whole_picture(rng, name) for name in names])


def mosaic_of(rng: np.random.Generator, wholes: Sequence[NamedView]) -> NamedView:
    """A mosaic view of four pictures."""
    pictures = [whole.picture for whole in wholes]
    samples = [
        recipes.AnnotatedPicture(index, (picture.height, picture.width), 0) for index, picture in enumerate(pictures)
    ]
    return _rendered(recipes.mosaic_view(samples, 0, GEOMETRY, rng), pictures, [whole.names[0] for whole in wholes])


def scene(rng: np.random.Generator, names: Sequence[str]) -> NamedView:
    """A whole detection scene with its boxes."""
    drawn = world.draw_scene(rng, names)
    boxes = np.array([each.box_xyxy_px for each in drawn.objects], np.float32)
    return NamedView(_through_jpeg(drawn.pixels), boxes, tuple(names))


def window(rng: np.random.Generator, names: Sequence[str]) -> NamedView:
    """A fresh detection scene as the detection augmentation shows it."""
    return window_of(rng, scene(rng, names))


def window_of(rng: np.random.Generator, whole: NamedView) -> NamedView:
    """A detection scene as the detection augmentation shows it, with the boxes that are mostly in view.

    May be left without regions.
    """
    cut = draw_crop((whole.picture.height, whole.picture.width), GEOMETRY, rng)
    height, width = cut.out_hw
    picture = whole.picture.resize((width, height), Image.Resampling.BILINEAR, box=cut.source_xyxy_px)
    left, top, right, bottom = cut.source_xyxy_px
    ratio = np.array([width / (right - left), height / (bottom - top)] * 2, np.float32)
    boxes = (whole.boxes_xyxy_px - np.array([left, top] * 2, np.float32)) * ratio
    if cut.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    visible = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
    kept = _areas(visible) >= _LEAST_VISIBLE * _areas(boxes)
    return NamedView(picture, visible[kept], tuple(name for name, keep in zip(whole.names, kept, strict=True) if keep))


def _rendered(view: View, pictures: Sequence[Image.Image], names: Sequence[str]) -> NamedView:
    picture = Image.fromarray(render_view(view, dict(enumerate(pictures))))
    return NamedView(
        picture, view.regions["box_xyxy_px"].copy(), tuple(names[tile] for tile in view.regions["tile"].tolist())
    )


def _areas(boxes_xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    return np.maximum(sides[:, 0], 0) * np.maximum(sides[:, 1], 0)


def _through_jpeg(pixels: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(pixels)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return Image.open(buffer).convert("RGB")
