"""A cache through the `webdataset` package: tars of labels and of pictures, joined by key, decoded to views."""

import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from webdataset import DataPipeline, SimpleShardList, split_by_node, split_by_worker
from webdataset.tariterators import group_by_keys, tar_file_expander

from richsem_schemas.cache.codec import LabelledView, unpack_view
from richsem_schemas.cache.layout import BLOCK_SAMPLES
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.rendered_views import DecodedPictures, RenderedView
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import open_regular
from richsem_schemas.io.places import Place, RemotePath

_Sample = dict[str, Any]


def webdataset_pipeline(cache: Cache, label_set: str | None = None) -> DataPipeline:
    """The views of a label set as a `webdataset` pipeline of `RenderedView`, in the order of the cache.

    Shards are dealt out to nodes and to a DataLoader's workers by `webdataset`'s own stages; further stages are added
    with `pipeline.compose(...)`, such as `webdataset.shuffle(1000)` or `webdataset.map(function)`. Nothing is checked
    but that all views are there, each with its picture, and can be unpacked: run `richsem-prep verify` first on a cache
    of others.

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
        labels, pictures = cache.label_shard(manifest.name, shard.shard), cache.picture_shard(shard.shard)
        pairs[str(labels.tar)] = _Pair(labels.tar, pictures.tar, shard.views)
    joined = partial(_joined_by_key, pairs=pairs)
    return DataPipeline(SimpleShardList(list(pairs)), split_by_node, split_by_worker, joined, _views_of_blocks)


@dataclass(frozen=True)
class _Pair:
    labels: Place
    pictures: Place
    views: int


def _joined_by_key(shards: Iterable[_Sample], *, pairs: dict[str, _Pair]) -> Iterator[_Sample]:
    """A stage from tars of labels to samples with the members of both tars; keys ascend in both."""
    for shard in shards:
        pair = pairs[shard["url"]]
        joined = 0
        for sample in _joined(_samples(pair.labels), _samples(pair.pictures)):
            joined += len(sample["views"])
            yield sample
        if joined != pair.views:
            raise CorruptCacheError(
                f"{pair.labels}: {joined} of its {pair.views} views are there and have their pictures in "
                f"{pair.pictures}; `richsem-prep verify` says what to do"
            )


def _joined(labels: Iterator[_Sample], pictures: Iterator[_Sample]) -> Iterator[_Sample]:
    labelled = next(labels, None)
    for picture in pictures:
        views = {}
        # A sample that anchors no view has no member among the labels.
        if labelled is not None and labelled["__key__"] == picture["__key__"]:
            views, labelled = _members(labelled), next(labels, None)
        yield {"__key__": picture["__key__"], "picture": _content(picture), "views": views, "tar": picture["__url__"]}


def _samples(tar: Place) -> Iterator[_Sample]:
    """The samples of a tar, opened here: for webdataset a name is a URL, and some run a shell."""
    with tar.open() if isinstance(tar, RemotePath) else open_regular(tar) as stream:
        try:
            yield from group_by_keys(tar_file_expander([{"url": str(tar), "stream": stream}]))
        except (tarfile.TarError, ValueError) as error:
            # webdataset adds the stream to the message.
            told = str(error.args[0]).partition(" @ ")[0]
            raise CorruptCacheError(f"{tar}: {told}; `richsem-prep verify` says what to do") from None


def _members(sample: _Sample) -> dict[str, bytes]:
    return {name: data for name, data in sample.items() if not name.startswith("__")}


def _content(sample: _Sample) -> bytes:
    for name, data in _members(sample).items():
        if name != "json":
            return data
    raise CorruptCacheError(f"{sample['__url__']}: {sample['__key__']} has no picture; `richsem-prep verify` says more")


def _views_of_blocks(samples: Iterable[_Sample]) -> Iterator[RenderedView]:
    """A stage from samples to views, a block at a time: a mosaic shows pictures of its whole block."""
    for _, block in groupby(samples, key=_block_of):
        held = list(block)
        pictures = DecodedPictures({_number(sample): sample["picture"] for sample in held}.copy)
        for sample in held:
            for member, data in sorted(sample["views"].items()):
                yield RenderedView(f"{sample['__key__']}.{member}", _unpacked(data, member, sample), pictures)


def _unpacked(data: bytes, member: str, sample: _Sample) -> LabelledView:
    try:
        return unpack_view(data, member)
    except CorruptCacheError as error:
        raise CorruptCacheError(f"{sample['__key__']}.{error}; `richsem-prep verify` says what to do") from None


def _block_of(sample: _Sample) -> tuple[str, int]:
    return sample["__key__"].partition("-")[0], _number(sample) // BLOCK_SAMPLES


def _number(sample: _Sample) -> int:
    digits = sample["__key__"].partition("-")[2]
    if not digits.isdecimal() or len(digits) > 9:
        raise CorruptCacheError(f"{sample['tar']}: {sample['__key__']!r} is no key; `richsem-prep verify` says more")
    return int(digits)
