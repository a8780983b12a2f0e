"""The views of a cache as a program uses them: pixels beside boxes, soft labels and embeddings."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.layout import BLOCK_SAMPLES
from richsem_schemas.cache.manifest import LabelSpec, Plan
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.errors import PictureError
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import os_error_text
from richsem_schemas.pictures.decode import decode_picture

_DECODED_PICTURES = 8
"""Kept of a block: views of one picture follow each other, and a mosaic has four."""


class RenderedView:
    """A view with its R regions, and the picture that teacher and student see, rendered when it is asked for.

    Attributes:
        name: key and member, such as `000000-00012.mosaic-0.npy`.
        labelled: recipe, soft labels and embeddings, as stored.
    """

    def __init__(self, name: str, labelled: LabelledView, pictures: Mapping[int, Image.Image]) -> None:
        self.name = name
        self.labelled = labelled
        self._pictures = pictures

    @functools.cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """RGB, uint8 [H, W, 3]."""
        return render_view(self.labelled.view, self._pictures)

    @property
    def boxes_xyxy_px(self) -> NDArray[np.float32]:
        """float32 [R, 4], on `pixels`."""
        return self.labelled.view.regions["box_xyxy_px"]

    @property
    def category_id(self) -> NDArray[np.int32]:
        """int32 [R], rows of the plan's vocabulary; 0 is unlabelled."""
        return self.labelled.view.regions["category_id"]

    @property
    def soft_labels(self) -> TopKSoftLabels:
        """Of the R regions: K class ids, rows of the label set's text bank, with log-probabilities; log of the rest."""
        return self.labelled.labels

    @property
    def embeddings(self) -> NDArray[np.float32] | None:
        """float32 [R, D], unit norm; None where the label set stores none."""
        return self.labelled.embeddings

    def __getstate__(self) -> dict[str, Any]:
        """For another process: the picture as rendered, not the block that it is rendered from."""
        return {"name": self.name, "labelled": self.labelled, "pixels": self.pixels, "_pictures": {}}


class DecodedPictures(Mapping[int, Image.Image]):
    """Pictures by sample, read when the first is asked for, decoded one by one; the last few are kept."""

    def __init__(self, read: Callable[[], dict[int, bytes]]) -> None:
        self._read = read
        self._decode = functools.lru_cache(_DECODED_PICTURES)(lambda sample: decode_picture(self._data[sample]))

    @functools.cached_property
    def _data(self) -> dict[int, bytes]:
        return self._read()

    def __getitem__(self, sample: int) -> Image.Image:
        return self._decode(sample)

    def __iter__(self) -> Iterator[int]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def rendered_views(
    pictures: PictureShard, labels: LabelShard, plan: Plan, spec: LabelSpec, *, root: Place | None
) -> Iterator[RenderedView]:
    """The views of one shard, in the order of its index.

    Raises:
        CorruptCacheError: a file is damaged, or a view breaks a rule.
    """
    picture_rows, view_rows = pictures.rows(), labels.rows()
    known = ShardPictures.of_rows(picture_rows, plan)
    for picture_block, view_block in _blocks(picture_rows, view_rows):
        views = labels.sound_views(view_block, known, spec, span=labels.span(view_block))
        decoded = DecodedPictures(functools.partial(_picture_bytes, pictures, picture_block, root))
        for name, view in zip(view_names(view_block), views, strict=True):
            yield RenderedView(name, view, decoded)


def _picture_bytes(shard: PictureShard, rows: Rows, root: Place | None) -> dict[int, bytes]:
    span = shard.span(rows)
    try:
        stored = shard.pictures(rows, root=root, span=span)
        return {int(picture.row["sample"]): picture.data for picture in stored}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise PictureError(
            f"{os_error_text(error)}; the cache refers to its pictures, say by `root` where they lie now"
        ) from None


def _blocks(pictures: Rows, views: Rows) -> Iterator[tuple[Rows, Rows]]:
    """Pictures and views of each block; keys ascend, and a view shows pictures of its own block alone."""
    blocks_P, blocks_V = pictures["sample"] // BLOCK_SAMPLES, views["sample"] // BLOCK_SAMPLES
    for block in np.unique(blocks_V).tolist():
        yield pictures[blocks_P == block], views[blocks_V == block]
