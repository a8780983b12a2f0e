"""The views of a cache by `webdataset` and `litdata` with torchvision's transforms, for comparison with the loader.

Both read samples that were made for them: a view's recipe and labels beside the bytes of its pictures, one after the
other, so that they need not look for anything. They decode, crop, resize, mirror and paste the same tiles; source
rectangles are rounded to whole pixels, which is what torchvision takes. litdata is imported where it is asked
for: a machine that times the loader alone may lack it.
"""

import functools
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import view_names
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.view import PAD_VALUE, ViewKind

Batches = Iterator[Any]


def stored_samples(cache: Path, label_set: str | None, kind: ViewKind) -> Iterator[dict[str, bytes]]:
    """Recipe, labels and pictures of each view of a kind, as bytes."""
    opened = open_cache(cache)
    name = opened.label_set(label_set).name
    for number in range(opened.manifest.plan.shards):
        pictures, labels = opened.picture_shard(number), opened.label_shard(name, number)
        data = {int(each.row["sample"]): each.data for each in pictures.pictures(root=None)}
        rows = labels.rows()
        rows = rows[rows["kind"] == kind]
        for key, labelled in zip(view_names(rows), labels.views(rows), strict=True):
            shown = [data[sample] for sample in labelled.view.tiles["sample"].tolist()]
            yield {
                "__key__": key.replace(".", "_"),
                "recipe.pkl": _recipe(labelled),
                **{f"{tile}.picture": picture for tile, picture in enumerate(shown)},
            }


def _recipe(labelled: LabelledView) -> bytes:
    view, labels = labelled.view, labelled.labels
    boxes, rows = view.regions["box_xyxy_px"], view.regions["category_id"].astype(np.int64)
    tiles = [
        (each["source_xyxy_px"].tolist(), each["paste_xyxy_px"].tolist(), bool(each["flip"])) for each in view.tiles
    ]
    soft = labels.class_ids.astype(np.int64), labels.log_probs.astype(np.float32), labels.log_rest
    return pickle.dumps((view.canvas_hw, tiles, tuple(map(np.ascontiguousarray, (boxes, rows, *soft)))))


def made(sample: dict[str, bytes]) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """A view's pixels, uint8 [3, H, W], and its boxes and labels."""
    (height, width), tiles, labels = pickle.loads(sample["recipe.pkl"])
    canvas = torch.full((3, height, width), PAD_VALUE, dtype=torch.uint8)
    for number, (source, paste, flip) in enumerate(tiles):
        data = torch.frombuffer(bytearray(sample[f"{number}.picture"]), dtype=torch.uint8)
        picture = decode_image(data, ImageReadMode.RGB, apply_exif_orientation=True)
        left, top, right, bottom = (round(side) for side in source)
        x1, y1, x2, y2 = paste
        cut = (top, left, max(bottom - top, 1), max(right - left, 1))
        tile = v2.functional.resized_crop(picture, *cut, [y2 - y1, x2 - x1], antialias=True)
        canvas[:, y1:y2, x1:x2] = v2.functional.horizontal_flip(tile) if flip else tile
    return canvas, tuple(torch.from_numpy(each) for each in labels)


def batched(samples: list[Any]) -> tuple[torch.Tensor, list[tuple[torch.Tensor, ...]]]:
    """Views padded to the largest; made in the worker."""
    pixels = [each for each, _ in samples]
    height, width = (max(each.shape[axis] for each in pixels) for axis in (1, 2))
    batch = torch.zeros(len(pixels), 3, height, width, dtype=torch.uint8)
    for place, each in zip(batch, pixels, strict=True):
        place[:, : each.shape[1], : each.shape[2]] = each
    return batch, [labels for _, labels in samples]


def made_batch(samples: list[dict[str, bytes]]) -> Any:
    return batched([made(sample) for sample in samples])


def write_tar(samples: Iterator[dict[str, bytes]], path: Path) -> None:
    with webdataset.TarWriter(str(path)) as tar:
        for sample in samples:
            tar.write(sample)


def by_webdataset(path: Path, batch: int, batches: int) -> Batches:
    """Batches of a tar, by one worker."""
    dataset = webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False).repeat()
    dataset = dataset.map(made).batched(batch, collation_fn=batched).with_epoch(batches)
    return iter(DataLoader(dataset, batch_size=None, num_workers=1))


def write_chunks(cache: Path, label_set: str | None, kind: ViewKind, folder: Path) -> None:
    """The same samples in litdata's format."""
    import litdata

    litdata.optimize(
        functools.partial(_all_samples, label_set=label_set, kind=kind),
        [str(cache)], str(folder), num_workers=1, chunk_bytes="16MB", verbose=False,
    )  # fmt: skip


def _all_samples(cache: str, *, label_set: str | None, kind: ViewKind) -> Iterator[dict[str, bytes]]:
    yield from stored_samples(Path(cache), label_set, kind)


def by_litdata(folder: Path, batch: int, batches: int) -> Batches:
    """Batches of litdata's chunks, by one worker that stays."""
    import litdata

    loader = litdata.StreamingDataLoader(
        litdata.StreamingDataset(str(folder), shuffle=False),
        batch_size=batch, num_workers=1, collate_fn=made_batch, drop_last=True, persistent_workers=True,
    )  # fmt: skip
    left = batches
    while left:
        for each in loader:
            yield each
            left -= 1
            if not left:
                return
