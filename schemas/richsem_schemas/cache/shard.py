"""A shard: its tar, its index and its receipt, and all that is read of them.

A shard of pictures and a shard of labels differ in their rows and in what stands in their tars. Readers check what
they read: an index cell by cell, a picture against its hash; whole files where they are asked to.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from richsem_schemas.cache.alike_views import AlikeViews, ShardViews, alike_views
from richsem_schemas.cache.codec import LabelledView, unpack_view
from richsem_schemas.cache.index import PICTURE_ROW, VIEW_ROW, Rows, member_names, read_index, read_raw_index
from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout
from richsem_schemas.cache.manifest import LabelSpec, LabelsReceipt, PicturesReceipt, ShardReceipt, ShardSummary
from richsem_schemas.cache.span import Span, read_hull, read_span
from richsem_schemas.cache.view import View, ViewKind
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.cache.view_checks import require_sound_views
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.canonical_json import parse_json
from richsem_schemas.io.files import FileHash, bytes_there, hash_bytes, hash_file, read_file
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import MAX_PICTURE_BYTES
from richsem_schemas.pictures.originals import Original, read_original

MAX_SIDECAR_BYTES = 2**20

MAX_VIEWS_SPAN_BYTES = 2**30
"""Most bytes that the views of one block may take; a forged index must not fill the memory."""

_Receipt = TypeVar("_Receipt", bound=ShardReceipt)
_Reader = Callable[[int, int], bytes]


class Shard(Generic[_Receipt]):
    """Three files, of which the receipt is the done-mark: so much shards of pictures and of labels have in common.

    Attributes:
        tar: pictures with their sidecars, or packed views.
        index: where each of them lies in the tar; rows of `row_dtype`.
        receipt: counts and hashes of a finished shard, as `receipt_type` reads them.
    """

    number: int
    tar: Place
    index: Place
    receipt: Place
    row_dtype: ClassVar[np.dtype]
    receipt_type: type[_Receipt]
    _made_by: ClassVar[str]

    def read_receipt(self) -> _Receipt:
        """Counts and hashes of the finished shard.

        Raises:
            FileNotFoundError: it isn't finished.
            CorruptCacheError: the receipt is damaged.
        """
        return self.receipt_type.read(self.receipt)

    @property
    def files(self) -> tuple[Place, Place, Place]:
        """Tar, index and receipt."""
        return self.tar, self.index, self.receipt

    @property
    def remedy(self) -> str:
        """Mends a damaged shard."""
        return f"delete {self.receipt} and run the same {self._made_by} again, which makes the shard anew"

    def is_done(self, fingerprint: str) -> bool:
        """Whether the receipt is valid, of the plan or spec with this fingerprint, and the files as long as it says."""
        try:
            receipt = self.read_receipt()
            self.require_sizes(receipt.summary)
        except (FileNotFoundError, CorruptCacheError):
            return False
        return receipt.fingerprint == fingerprint

    def require_sizes(self, summary: ShardSummary) -> None:
        """Check that tar and index are as long as a receipt or a manifest says.

        Raises:
            CorruptCacheError: one isn't, or is missing.
        """
        for path, expected in ((self.tar, summary.tar), (self.index, summary.index)):
            self._require_size(path, bytes_there(path), expected)

    def check_bytes(self, summary: ShardSummary) -> None:
        """Check tar and index byte by byte against what a receipt or a manifest says.

        Raises:
            CorruptCacheError: one is another.
        """
        self.require_sizes(summary)
        for path, expected in ((self.tar, summary.tar), (self.index, summary.index)):
            if hash_file(path) != expected:
                raise CorruptCacheError(self._differs(path))

    def read_intact(self, path: Place, expected: FileHash) -> bytes:
        """The content of one of the shard's files.

        Raises:
            FileNotFoundError: it is missing.
            CorruptCacheError: it is another than the expected one.
        """
        data = read_file(path)
        self._require_size(path, len(data), expected)
        if hash_bytes(data) != expected:
            raise CorruptCacheError(self._differs(path))
        return data

    def _require_size(self, path: Place, size: int, expected: FileHash) -> None:
        if size != expected.bytes:
            raise CorruptCacheError(f"{path}: has {size} bytes, its receipt says {expected.bytes}; {self.remedy}")

    def _differs(self, path: Place) -> str:
        return f"{path}: its bytes don't match its receipt; {self.remedy}"

    def rows(self, expected: FileHash | None = None) -> Rows:
        """The index, every cell checked, and its hash where it is known; see `read_index`."""
        return read_index(self.index, self.row_dtype, expected)

    def raw_rows(self) -> Rows:
        """The index as it is, for a reader that names each wrong cell."""
        return read_raw_index(self.index, self.row_dtype)

    def revoke(self) -> None:
        """Take back the receipt: the shard counts as not made, its files stay until it is made again."""
        self.receipt.unlink(missing_ok=True)


@dataclass(frozen=True)
class StoredPicture:
    """A sample as it stands in a picture shard.

    Attributes:
        row: of `PICTURE_ROW`, where it lies.
        sidecar: the content of KEY.json.
    """

    row: np.void
    sidecar: dict[str, Any]
    data: bytes


class PictureShard(Shard[PicturesReceipt]):
    """A shard of pictures.

    Attributes:
        quarantine: the samples that were left out, and why; missing where there are none.
    """

    row_dtype = PICTURE_ROW
    receipt_type = PicturesReceipt
    _made_by = "`richsem-prep shard`"

    def __init__(self, layout: CacheLayout, number: int) -> None:
        self.layout, self.number = layout, number
        self.tar, self.index = layout.pictures_tar(number), layout.pictures_index(number)
        self.receipt, self.quarantine = layout.pictures_receipt(number), layout.quarantine(number)

    def span(self, rows: Rows) -> Span:
        """Read what lies between the first and the last of some samples, in one read; at a URL by one request.

        Raises:
            CorruptCacheError: bytes are missing, or their number is implausible.
        """
        copied = rows[rows["offset"] >= 0]
        offsets = np.concatenate([rows["json_offset"], copied["offset"]])
        sizes = np.concatenate([rows["json_size"], copied["size"]])
        return read_hull(self.tar, offsets, sizes, limit=len(rows) * (MAX_PICTURE_BYTES + MAX_SIDECAR_BYTES))

    def pictures(
        self, rows: Rows | None = None, *, root: Place | None, span: Span | None = None
    ) -> Iterator[StoredPicture]:
        """Read samples, in the order of `rows`, each checked against its hash.

        Args:
            rows: of the shard's index; None is all.
            root: where originals lie, for caches that refer to them.
            span: the part of the tar that holds the rows, where it has been read already.

        Raises:
            CorruptCacheError: bytes are missing or changed.
            PictureError: an original can't be read.
        """
        read = functools.partial(read_span, self.tar) if span is None else span.read
        for row in self.rows() if rows is None else rows:
            sidecar = self._sidecar(row, read)
            if row["offset"] >= 0:
                self._require_plausible(row["key"], int(row["size"]), MAX_PICTURE_BYTES)
                data = read(int(row["offset"]), int(row["size"]))
            else:
                data = self._original(row["key"], sidecar, root)
            if hash_bytes(data).sha256 != sidecar.get("sha256"):
                raise CorruptCacheError(
                    f"{self.tar}: the picture of {row['key']} ({row['name']}) is not the one that was cached; "
                    f"{self.remedy}"
                )
            yield StoredPicture(row, sidecar, data)

    def shown_by(self, view: View, rows: Rows, *, root: Place | None) -> dict[int, StoredPicture]:
        """The pictures that a view shows, by sample; `rows` are those of the shard."""
        shown = self.pictures(rows[np.isin(rows["sample"], view.tiles["sample"])], root=root)
        return {int(picture.row["sample"]): picture for picture in shown}

    def _sidecar(self, row: np.void, read: _Reader) -> dict[str, Any]:
        name = f"{row['key']}.json"
        self._require_plausible(name, int(row["json_size"]), MAX_SIDECAR_BYTES)
        try:
            sidecar = parse_json(read(int(row["json_offset"]), int(row["json_size"])))
        except ValueError as error:
            raise CorruptCacheError(f"{self.tar}: {name} is no JSON ({error}); {self.remedy}") from None
        if not isinstance(sidecar, dict):
            raise CorruptCacheError(f"{self.tar}: {name} is no JSON object; {self.remedy}")
        return sidecar

    def _require_plausible(self, name: str, size: int, limit: int) -> None:
        if not 0 <= size <= limit:
            raise CorruptCacheError(f"{self.tar}: {name} claims {size} bytes, over the limit; {self.remedy}")

    def _original(self, key: str, sidecar: dict[str, Any], root: Place | None) -> bytes:
        if root is None:
            raise RichSemError(f"{self.tar}: its pictures lie outside the cache; say where with --root")
        try:
            return read_original(root, Original.from_json(sidecar["original"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptCacheError(
                f"{self.tar}: {key}.json doesn't say where its picture lies ({error}); {self.remedy}"
            ) from None


class LabelShard(Shard[LabelsReceipt]):
    """A shard of labelled views."""

    row_dtype = VIEW_ROW
    receipt_type = LabelsReceipt
    _made_by = "`richsem-prep shard` or `rescore`"

    def __init__(self, label_set: LabelSetLayout, number: int) -> None:
        self.label_set, self.number = label_set, number
        self.tar, self.index, self.receipt = label_set.tar(number), label_set.index(number), label_set.receipt(number)

    def span(self, rows: Rows) -> Span:
        """Read what lies between the first and the last of some views, in one read; at a URL by one request.

        Raises:
            CorruptCacheError: bytes are missing, or their number is implausible.
        """
        return read_hull(self.tar, rows["offset"], rows["size"], limit=MAX_VIEWS_SPAN_BYTES)

    def views(self, rows: Rows | None = None, *, span: Span | None = None) -> Iterator[LabelledView]:
        """Read views, in the order of `rows`; None is all. A span that has been read already holds them.

        Raises:
            CorruptCacheError: bytes are missing or not a view.
        """
        rows = self.rows() if rows is None else rows
        read = functools.partial(read_span, self.tar) if span is None else span.read
        members = zip(
            rows["key"].tolist(), member_names(rows), rows["offset"].tolist(), rows["size"].tolist(), strict=True
        )
        for key, member, offset, size in members:
            data = read(offset, size)
            try:
                view = unpack_view(data, member)
            except CorruptCacheError as error:
                raise CorruptCacheError(f"{self.tar}: {key}.{error}; {self.remedy}") from None
            yield view

    def sound_views(
        self, rows: Rows, pictures: ShardPictures, spec: LabelSpec, *, span: Span | None = None
    ) -> list[LabelledView]:
        """Read views and check them by index, spec and the pictures that they may show: then they can be rendered.

        `pictures` are those of the shard, at least those that the views may show.

        Raises:
            CorruptCacheError: bytes are missing, not a view, or not one that can be right.
        """
        views = list(self.views(rows, span=span))
        try:
            require_sound_views(rows, views, pictures, spec)
        except CorruptCacheError as error:
            raise CorruptCacheError(f"{self.tar}: {error}; {self.remedy}") from None
        return views

    def views_alike(self, spec: LabelSpec) -> ShardViews:
        """Read the whole shard, its bytes checked against the receipt: the fast way to work on all views.

        Raises:
            CorruptCacheError: a file is missing, changed, or not what index and spec describe.
        """
        receipt, rows, tar = self._read_whole(spec)
        return ShardViews(spec, receipt, rows, list(self._alike(tar, rows, spec)))

    def views_of_kinds(self, spec: LabelSpec, kinds: Sequence[ViewKind]) -> Iterator[tuple[ViewKind, Rows, AlikeViews]]:
        """Read the whole shard as `views_alike` does, and give some kinds of views, kind by kind in their order.

        One shape of views is unpacked at a time, so that memory is that of the tar and little more; each comes with its
        rows of the index.

        Raises:
            CorruptCacheError: a file is missing, changed, or not what index and spec describe.
        """
        _, rows, tar = self._read_whole(spec)
        for kind in kinds:
            rows_of_kind = rows[rows["kind"] == kind]
            for views in self._alike(tar, rows_of_kind, spec):
                yield kind, rows_of_kind[views.numbers], views

    def _read_whole(self, spec: LabelSpec) -> tuple[LabelsReceipt, Rows, bytes]:
        try:
            receipt = self.read_receipt()
            rows = self.rows(receipt.summary.index)
            tar = self.read_intact(self.tar, receipt.summary.tar)
        except FileNotFoundError as error:
            raise CorruptCacheError(f"{error.filename} is missing; {self.remedy}") from None
        if receipt.fingerprint != spec.fingerprint:
            raise CorruptCacheError(f"{self.receipt} belongs to another spec; {self.remedy}")
        return receipt, rows, tar

    def _alike(self, tar: bytes, rows: Rows, spec: LabelSpec) -> Iterator[AlikeViews]:
        try:
            yield from alike_views(tar, rows, spec.record_layout)
        except CorruptCacheError as error:
            raise CorruptCacheError(f"{self.tar}: {error}; {self.remedy}") from None
