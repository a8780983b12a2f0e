"""Mosaics composed while training, of pictures with stored crops: unbounded variety from a few passes of labels."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.recipes import AnnotatedPicture, mosaic_view
from richsem_schemas.cache.view import View
from richsem_train.data.cache.nearest import borrowed_labels, joined_sights, nearest, sights_of
from richsem_train.data.cache.views import ReadView
from richsem_train.data.damage import DamagedViewError

MOSAIC_STREAM = 114
"""Sets free mosaics apart from other random numbers of the same seed."""


def free_mosaic(
    pictures: Sequence[ReadView], *, geometry: ViewGeometry, rng: np.random.Generator
) -> tuple[View, dict[int, Image.Image]]:
    """Four crop views of any blocks, each augmented anew and fitted into a tile, around a random centre.

    The sizes are those of the cache's views; the canvas, which cuts the tiles, has twice the side of one.

    Returns:
        The mosaic, and its pictures by the sample that its tiles name: 0..3, since those of several shards may meet.
    """
    shown = {number: read.only_picture for number, read in enumerate(pictures)}
    annotated = [
        AnnotatedPicture(
            number, (shown[number].height, shown[number].width), int(read.labelled.view.regions[0]["category_id"])
        )
        for number, read in enumerate(pictures)
    ]
    return mosaic_view(annotated, 0, geometry, rng), shown


def with_nearest_labels(mosaic: View, pictures: Sequence[ReadView], *, teacher_size: int | None) -> LabelledView:
    """A free mosaic whose tiles have the labels of the nearest stored crops of their pictures."""
    crops = [crop for picture in pictures for crop in picture.all_passes]
    passes = [len(picture.all_passes) for picture in pictures]
    rows = nearest(
        sights_of(mosaic, teacher_size=teacher_size),
        mosaic.regions["tile"],
        joined_sights([sights_of(crop.view, teacher_size=teacher_size) for crop in crops]),
        np.repeat(np.arange(len(pictures)), passes),
        np.concatenate([np.arange(count) for count in passes]),
    )
    labels, embeddings, _ = borrowed_labels(crops, rows)
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
