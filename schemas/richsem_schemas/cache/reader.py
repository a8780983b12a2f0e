"""Reading a cache: its manifests once, its shards lazily, one ranged read a block."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from richsem_schemas.cache.codec import LabelledView, unpack_view
from richsem_schemas.cache.index import PictureRow, ViewRow, read_picture_index, read_view_index
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, Plan, require_same
from richsem_schemas.cache.text_bank import TextBank, read_text_bank
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.canonical_json import parse_json
from richsem_schemas.io.files import hash_bytes, open_regular, read_at, size_of
from richsem_schemas.io.originals import Original, read_original
from richsem_schemas.io.places import Place, RemotePath, open_place
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES

MAX_SIDECAR_BYTES = 2**20

_REMEDY = "`richsem-prep verify` says how to mend it"

MAX_VIEWS_SPAN_BYTES = 2**30
"""Most bytes that the views of one block may take; a forged index must not fill the memory."""


def find_layout(out: Place) -> CacheLayout:
    """The layout of the cache in a folder, finished or not.

    Raises:
        RichSemError: there is none.
    """
    plan_path = out / "plan" / "plan.json"
    try:
        return CacheLayout(out, Plan.read(plan_path).dataset)
    except (FileNotFoundError, NotADirectoryError):
        raise RichSemError(
            f"{out} holds no cache ({plan_path} is missing); make one with `richsem-prep shard`"
        ) from None


def read_plan(layout: CacheLayout) -> Plan:
    """The plan of a cache.

    Raises:
        FileNotFoundError: there is none.
        CorruptCacheError: it is damaged, or its listing isn't there in full.
    """
    plan = Plan.read(layout.plan)
    size = layout.listing.stat().st_size if layout.listing.is_file() else 0
    if size != plan.listing.bytes:
        raise CorruptCacheError(
            f"{layout.listing}: has {size} bytes, {layout.plan} says {plan.listing.bytes}; restore it, or begin anew "
            "with --overwrite"
        )
    return plan


def pictures_layout(layout: CacheLayout) -> CacheLayout:
    """Where the pictures of a cache lie: in itself, or, for a folder of labels alone, in the cache that it names."""
    if not layout.pictures_elsewhere.is_file():
        return layout
    return _elsewhere(CacheManifest.read(layout.pictures_elsewhere), layout)


def _elsewhere(manifest: CacheManifest, layout: CacheLayout) -> CacheLayout:
    return layout if manifest.pictures_in is None else CacheLayout(open_place(manifest.pictures_in), layout.name)


@dataclass(frozen=True)
class Cache:
    """A finished cache of pictures and its finished label sets.

    Attributes:
        layout: the cache that holds the pictures.
        manifest: of it.
        label_sets: by name.
        labels_elsewhere: the folder that holds the label sets, where that is another.
    """

    layout: CacheLayout
    manifest: CacheManifest
    label_sets: dict[str, LabelManifest]
    labels_elsewhere: CacheLayout | None = None

    @property
    def labels_layout(self) -> CacheLayout:
        """Where the label sets lie; their views, indexes and text are read from there."""
        return self.labels_elsewhere or self.layout

    def label_set(self, name: str | None) -> LabelManifest:
        """A label set by name; None is the only one.

        Raises:
            RichSemError: there is none of that name, or several to choose from.
        """
        if name is None and len(self.label_sets) == 1:
            return next(iter(self.label_sets.values()))
        if name in self.label_sets:
            return self.label_sets[name]
        known = ", ".join(self.label_sets) or "none"
        what = "no label set was named" if name is None else f"there is no finished label set {name!r}"
        raise RichSemError(
            f"{self.labels_layout.out}: {what}; finished ones: {known}; choose one with --label-set, or as label_set "
            "in a config"
        )

    def text_bank(self, labels: str) -> TextBank:
        """The text bank of a label set."""
        return read_text_bank(self.labels_layout.label_set(labels))


def open_cache(out: Place, *, only: str | None = None, labels_from: Place | None = None) -> Cache:
    """Open a finished cache.

    Args:
        out: its folder; one of labels alone leads to the cache that holds the pictures.
        only: leaves out the manifests of all label sets but this one; those of many shards take time and memory.
        labels_from: another folder that holds label sets for the same pictures; they are joined by key.

    Raises:
        RichSemError: there is none, or it isn't finished.
        ManifestMismatchError: the labels were made for another plan, or for other pictures of it; names the fields.
        CorruptCacheError: a manifest is damaged.
    """
    layout = find_layout(out)
    manifest = _finished(layout)
    if labels_from is not None:
        labels = _labels_elsewhere(layout, manifest, find_layout(labels_from))
        return Cache(layout, manifest, _label_sets(labels, only), labels)
    pictures = _elsewhere(manifest, layout)
    return Cache(pictures, manifest, _label_sets(layout, only), None if pictures == layout else layout)


def _finished(layout: CacheLayout) -> CacheManifest:
    if not layout.manifest.is_file():
        raise RichSemError(
            f"{layout.out} is not finished: {layout.manifest} is missing; run the same `richsem-prep shard` again, "
            "or `richsem-prep finish` after runs with --shard-range"
        )
    return CacheManifest.read(layout.manifest)


def _label_sets(layout: CacheLayout, only: str | None) -> dict[str, LabelManifest]:
    sets = {}
    for name in layout.label_sets() if only is None else {only}.intersection(layout.label_sets()):
        path = layout.label_set(name).manifest
        if path.is_file():
            sets[name] = LabelManifest.read(path)
            if sets[name].name != name:
                raise CorruptCacheError(f"{path}: is the manifest of {sets[name].name!r}; put it back where it belongs")
    return sets


def _labels_elsewhere(pictures: CacheLayout, manifest: CacheManifest, labels: CacheLayout) -> CacheLayout:
    """The layout of label sets that lie apart, once they are known to be of these pictures."""
    require_same_plan(labels.plan, Plan.read(labels.plan), manifest.plan)
    if labels.manifest.is_file():
        require_same_pictures(labels.manifest, CacheManifest.read(labels.manifest), manifest, pictures)
    return labels


def require_same_plan(path: Place, found: Plan, wanted: Plan) -> None:
    """Check that two plans name the same pictures by the same keys.

    Raises:
        ManifestMismatchError: names each field that differs.
    """
    if found.fingerprint != wanted.fingerprint:
        remedy = "Labels belong to the pictures and keys that they were made for: name the cache of that plan"
        require_same(path, found, wanted, ignore=Plan.not_identifying, remedy=remedy)


def require_same_pictures(path: Place, found: CacheManifest, wanted: CacheManifest, pictures: CacheLayout) -> None:
    """Check that two caches of one plan hold the same pictures: what one could not read, the other may hold.

    Raises:
        ManifestMismatchError: names the first shard that differs.
    """
    for here, there in zip(found.shards, wanted.shards, strict=False):
        if (here.samples, here.tar) != (there.samples, there.tar):
            raise ManifestMismatchError(
                f"{path}: its labels were made for other pictures than {pictures.out} holds: shards.{here.shard}.tar "
                f"has {here.samples} samples ({here.tar.sha256[:12]}…) there, {there.samples} "
                f"({there.tar.sha256[:12]}…) here; make the labels anew from this cache"
            )


def read_span(path: Place, offset: int, size: int) -> bytes:
    """Read bytes from the middle of a file; at a URL, by one request.

    Raises:
        CorruptCacheError: the file ends before, or is none.
    """
    if isinstance(path, RemotePath):
        data = path.read_range(offset, size)
    else:
        with open_regular(path) as file:
            # Reading first makes room for what is asked for, and a damaged index may ask for an exabyte.
            is_there = 0 <= offset <= offset + size <= size_of(file.fileno())
            data = read_at(file.fileno(), offset, size) if is_there else b""
    if len(data) != size or offset < 0:
        raise CorruptCacheError(f"{path}: cut short; bytes {offset}..{offset + size} are not all there; {_REMEDY}")
    return data


ReadRange = Callable[[int, int], bytes]
"""Reads `size` bytes from `offset` of a shard; raises `CorruptCacheError` where they aren't all there."""


@dataclass(frozen=True, eq=False)
class Span:
    """A part of a shard in memory, read at once.

    Attributes:
        path: the shard.
        start: offset of the first byte.
        data: the bytes.
    """

    path: Place
    start: int
    data: bytes

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the shard, by their offset in it.

        Raises:
            CorruptCacheError: they lie outside of the span.
        """
        first = offset - self.start
        if not 0 <= first <= first + size <= len(self.data):
            raise CorruptCacheError(f"{self.path}: bytes {offset}..{offset + size} lie outside of their block")
        return self.data[first : first + size]


def read_pictures_span(layout: CacheLayout, shard: int, rows: Sequence[PictureRow]) -> Span:
    """Read what lies between the first and the last of some samples of a shard, in one read.

    Raises:
        CorruptCacheError: bytes are missing, or their number is implausible.
    """
    members = [(row.json_offset, row.json_size) for row in rows]
    members += [(row.offset, row.size) for row in rows if row.offset >= 0]
    return _read_hull(layout.pictures_tar(shard), members, limit=len(rows) * (MAX_PICTURE_BYTES + MAX_SIDECAR_BYTES))


def read_views_span(layout: CacheLayout, labels: str, shard: int, rows: Sequence[ViewRow]) -> Span:
    """Read what lies between the first and the last of some views of a shard, in one read.

    Raises:
        CorruptCacheError: bytes are missing, or their number is implausible.
    """
    members = [(row.offset, row.size) for row in rows]
    return _read_hull(layout.label_set(labels).tar(shard), members, limit=MAX_VIEWS_SPAN_BYTES)


def _read_hull(path: Place, members: list[tuple[int, int]], *, limit: int) -> Span:
    """Read the smallest range that covers all (offset, size)."""
    start = min((offset for offset, _ in members), default=0)
    end = max((offset + size for offset, size in members), default=0)
    if not (0 <= start <= end <= start + limit) or any(size < 0 for _, size in members):
        raise CorruptCacheError(f"{path}: its index claims bytes {start}..{end} for one block; make the shard anew")
    return Span(path, start, read_span(path, start, end - start))


@dataclass(frozen=True)
class StoredPicture:
    """A sample as it stands in a picture shard.

    Attributes:
        row: where it lies.
        sidecar: the content of KEY.json.
        data: the picture's bytes.
    """

    row: PictureRow
    sidecar: dict[str, Any]
    data: bytes


def read_pictures(
    layout: CacheLayout, shard: int, rows: Sequence[PictureRow], *, root: Place | None, span: Span | None = None
) -> Iterator[StoredPicture]:
    """Read samples of one shard, in the order of `rows`, each checked against its hash.

    Args:
        layout: the cache.
        shard: number of the shard.
        rows: of the shard's index.
        root: where originals lie, for caches that refer to them.
        span: the part of the shard that holds the rows, where it has been read already.

    Raises:
        CorruptCacheError: bytes are missing or changed.
    """
    path = layout.pictures_tar(shard)
    read = functools.partial(read_span, path) if span is None else span.read
    for row in rows:
        sidecar = _read_sidecar(path, row, read)
        if row.offset >= 0:
            if not 0 <= row.size <= MAX_PICTURE_BYTES:
                raise CorruptCacheError(f"{path}: {row.key} claims {row.size} bytes, over the limit; {_REMEDY}")
            data = read(row.offset, row.size)
        else:
            data = _read_referenced(path, row, sidecar, root)
        if hash_bytes(data).sha256 != sidecar.get("sha256"):
            raise CorruptCacheError(
                f"{path}: the picture of {row.key} ({row.name}) is not the one that was cached; delete "
                f"{layout.pictures_receipt(shard)} and run `richsem-prep shard` again to make the shard anew"
            )
        yield StoredPicture(row, sidecar, data)


def _read_sidecar(path: Place, row: PictureRow, read: ReadRange) -> dict[str, Any]:
    if not 0 <= row.json_size <= MAX_SIDECAR_BYTES:
        raise CorruptCacheError(f"{path}: {row.key}.json claims {row.json_size} bytes, over the limit; {_REMEDY}")
    try:
        sidecar = parse_json(read(row.json_offset, row.json_size))
    except ValueError as error:
        raise CorruptCacheError(f"{path}: {row.key}.json is no JSON ({error}); {_REMEDY}") from None
    if not isinstance(sidecar, dict):
        raise CorruptCacheError(f"{path}: {row.key}.json is no JSON object; {_REMEDY}")
    return sidecar


def _read_referenced(path: Place, row: PictureRow, sidecar: dict[str, Any], root: Place | None) -> bytes:
    if root is None:
        raise RichSemError(f"{path}: its pictures lie outside the cache; say where with --root")
    try:
        return read_original(root, Original.from_json(sidecar["original"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptCacheError(
            f"{path}: {row.key}.json doesn't say where its picture lies ({error}); {_REMEDY}"
        ) from None


def read_views(
    layout: CacheLayout, labels: str, shard: int, rows: Sequence[ViewRow], *, span: Span | None = None
) -> Iterator[LabelledView]:
    """Read views of one shard, in the order of `rows`.

    Args:
        layout: the cache.
        labels: name of the label set.
        shard: number of the shard.
        rows: of the shard's index.
        span: the part of the shard that holds the rows, where it has been read already.

    Raises:
        CorruptCacheError: bytes are missing or not a view.
    """
    path = layout.label_set(labels).tar(shard)
    read = functools.partial(read_span, path) if span is None else span.read
    for row in rows:
        data = read(row.offset, row.size)
        try:
            view = unpack_view(data, row.member)
        except CorruptCacheError as error:
            raise CorruptCacheError(f"{path}: {row.key}.{error}; {_REMEDY}") from None
        yield view


def picture_rows(layout: CacheLayout, shard: int) -> list[PictureRow]:
    """The picture index of a shard."""
    return read_picture_index(layout.pictures_index(shard))


def view_rows(layout: CacheLayout, labels: str, shard: int) -> list[ViewRow]:
    """The view index of a shard."""
    return read_view_index(layout.label_set(labels).index(shard))
