"""A cache through the `webdataset` package: tars of labels and of pictures, joined by key, decoded to views."""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

from webdataset import DataPipeline, SimpleShardList, WebDataset, split_by_node, split_by_worker

from richsem_schemas.cache.codec import unpack_view
from richsem_schemas.cache.layout import BLOCK_SAMPLES
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.rendered_views import DecodedPictures, RenderedView
from richsem_schemas.errors import RichSemError

_Sample = dict[str, Any]


def webdataset_pipeline(cache: Cache, label_set: str | None = None) -> DataPipeline:
    """The views of a label set as a `webdataset` pipeline of `RenderedView`, in the order of the cache.

    Shards are dealt out to nodes and to a DataLoader's workers by `webdataset`'s own stages; further stages are added
    with `pipeline.compose(...)`, such as `webdataset.shuffle(1000)` or `webdataset.map(function)`. Nothing is checked
    but that a picture can be decoded and a view unpacked: run `richsem-prep verify` first on a cache of others.

    Args:
        cache: an opened one whose pictures are its own.
        label_set: its name; None is the only one.

    Raises:
        RichSemError: there is no such label set, or the cache refers to originals, which no tar holds.
    """
    manifest = cache.label_set(label_set)
    if cache.manifest.plan.pictures != "copy":
        raise RichSemError(
            f"{cache.layout.out} refers to its pictures, so no tar holds them for webdataset; read it with "
            "`Cache.views`, or make a cache with `--pictures copy`"
        )
    pairs = {}
    for shard in manifest.shards:
        pictures = cache.picture_shard(shard.shard)
        pairs[str(cache.label_shard(manifest.name, shard.shard).tar)] = str(pictures.tar)
    joined = partial(_joined_by_key, pictures_of=pairs)
    return DataPipeline(SimpleShardList(list(pairs)), split_by_node, split_by_worker, joined, _views_of_blocks)


def _joined_by_key(shards: Iterable[_Sample], *, pictures_of: dict[str, str]) -> Iterator[_Sample]:
    """A stage from tars of labels to samples with the members of both tars; keys ascend in both."""
    for shard in shards:
        labels = iter(_samples(shard["url"]))
        labelled = next(labels, None)
        for picture in _samples(pictures_of[shard["url"]]):
            views = {}
            # A sample that anchors no view has no member among the labels.
            if labelled is not None and labelled["__key__"] == picture["__key__"]:
                views, labelled = labelled, next(labels, None)
            yield {"__key__": picture["__key__"], "picture": _content(picture), "views": views}


def _samples(url: str) -> WebDataset:
    return WebDataset(url, shardshuffle=False, empty_check=False, nodesplitter=None, workersplitter=None)


def _content(sample: _Sample) -> bytes:
    return next(data for name, data in sample.items() if not name.startswith("__") and name != "json")


def _views_of_blocks(samples: Iterable[_Sample]) -> Iterator[RenderedView]:
    """A stage from samples to views, a block at a time: a mosaic shows pictures of its whole block."""
    for _, block in groupby(samples, key=_block_of):
        held = list(block)
        pictures = DecodedPictures({_number(sample): sample["picture"] for sample in held}.copy)
        for sample in held:
            for member in sorted(name for name in sample["views"] if not name.startswith("__")):
                view = unpack_view(sample["views"][member], member)
                yield RenderedView(f"{sample['__key__']}.{member}", view, pictures)


def _block_of(sample: _Sample) -> tuple[str, int]:
    return sample["__key__"].partition("-")[0], _number(sample) // BLOCK_SAMPLES


def _number(sample: _Sample) -> int:
    return int(sample["__key__"].partition("-")[2])
