"""A shard of labels: the rows of its index, its packed views, and whether labels are what their embeddings give."""

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from richsem_prep.verify.pictures import key_problems, wrong_rows
from richsem_prep.verify.records import LabelSetUnderTest
from richsem_prep.verify.tar import Chunk, shown
from richsem_schemas.cache.alike_views import AlikeViews
from richsem_schemas.cache.codec import unpack_alike
from richsem_schemas.cache.index import Rows, member_names, view_names
from richsem_schemas.cache.manifest import LabelSpec, ShardSummary
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.cache.view_batch import ShardPictures, ViewBatch
from richsem_schemas.cache.view_checks import mismatched_labels, view_problems
from richsem_schemas.errors import CorruptCacheError

SAMPLED_REGIONS = 64
"""Regions of a shard whose soft labels are computed again. Hashes find every changed byte, so this looks for what a
writer did wrong from the start: the text bank of another run, a wrong scale; such a fault is in all of them."""

_REGIONS_AT_ONCE = 1024


def view_row_problems(rows: Rows, shard: int, summary: ShardSummary, spec: LabelSpec) -> Iterator[str]:
    """Say which rules the rows of a view index break."""
    yield from key_problems(rows, shard)
    passes = spec.views.passes
    for kind, number in sorted(set(zip(rows["kind"].tolist(), rows["pass"].tolist(), strict=True))):
        if not 0 <= number < passes.get(kind, 0):
            yield f"the label set has no such views as {shown(kind)} of pass {number}"
    names = list(zip(rows["key"].tolist(), member_names(rows), strict=True))
    is_late_N = np.array([False, *map(operator.ge, names, names[1:])], np.bool_)[: len(rows)]
    yield from wrong_rows(rows, is_late_N, lambda row: f"{shown(names[row][1])} is not in order")
    regions = int(rows["regions"].sum(dtype=np.int64))
    if regions != summary.regions:
        yield f"it has {regions:,} regions, the receipt says {summary.regions:,}"


def views_problems(
    chunks: Iterator[Chunk],
    rows: Rows,
    pictures: ShardPictures,
    labels: LabelSetUnderTest,
    sampled: NDArray[np.int64] | None,
) -> Iterator[str]:
    """Say what is wrong with the views of a shard.

    `sampled` are ascending positions, among the regions of the shard, of those whose labels are computed again; None is
    all.

    Raises:
        CorruptCacheError: a member is not a packed view.
    """
    names = view_names(rows)
    kinds_N = np.array([VIEW_KINDS.index(kind) for kind in rows["kind"].tolist()], np.int64)
    first_region_N = np.cumsum(rows["regions"], dtype=np.int64) - rows["regions"]
    again = None if labels.text is None else _LabelsAgain(labels.text)
    shown_samples = [np.zeros((2, 0), np.int64)]
    for chunk in chunks:
        for views in _alike_views(chunk, names):
            if problem := _record_problem(views, rows, names, labels.spec):
                yield problem
                return
            numbers_V = views.numbers
            names_V = [names[number] for number in numbers_V.tolist()]
            batch = ViewBatch.of_records(names_V, kinds_N[numbers_V], views.records)
            yield from view_problems(batch, pictures, labels.spec)
            shown_samples.append(np.stack([np.repeat(numbers_V, views.tiles), batch.tiles["sample"]]))
            if again is not None:
                position_R = (first_region_N[numbers_V][:, None] + np.arange(views.regions)).reshape(-1)
                is_taken_R = sampled is None or np.isin(position_R, sampled, assume_unique=True)
                yield from again.take(batch, np.flatnonzero(np.broadcast_to(is_taken_R, position_R.shape)))
    if again is not None:
        yield from again.judge()
    numbers, samples = np.concatenate(shown_samples, axis=1)
    yield from _pass_problems(kinds_N[numbers], rows["pass"][numbers], samples, pictures, labels.spec)


def sampled_regions(total: int, *, seed: int, shard: int) -> NDArray[np.int64]:
    """Ascending positions of the regions of a shard whose labels are computed again, the same every time."""
    count = min(max(total, 0), SAMPLED_REGIONS)
    return np.sort(np.random.default_rng([seed, shard]).choice(max(total, 0), count, replace=False))


def _alike_views(chunk: Chunk, names: list[str]) -> Iterator[AlikeViews]:
    sizes = np.array([len(content) for content in chunk.contents])
    for size in np.unique(sizes).tolist():
        members_V = np.flatnonzero(sizes == size)
        bytes_VB = np.frombuffer(b"".join([chunk.contents[at] for at in members_V.tolist()]), np.uint8)
        bytes_VB = bytes_VB.reshape(len(members_V), size)
        while len(members_V):
            try:
                is_alike_V, records_V = unpack_alike(bytes_VB)
            except CorruptCacheError as error:
                raise CorruptCacheError(f"{names[chunk.first + int(members_V[0])]}: {error}") from None
            yield AlikeViews(chunk.first + members_V[is_alike_V], records_V)
            members_V, bytes_VB = members_V[~is_alike_V], bytes_VB[~is_alike_V]


def _record_problem(views: AlikeViews, rows: Rows, names: list[str], spec: LabelSpec) -> str | None:
    rows_V, first = rows[views.numbers], names[int(views.numbers[0])]
    says_V = (rows_V["tiles"] == views.tiles) & (rows_V["regions"] == views.regions)
    if not says_V.all():
        row = rows[number := int(views.numbers[np.argmin(says_V)])]
        return (
            f"{names[number]}: {views.tiles} tiles and {views.regions} regions, the index says {row['tiles']} and "
            f"{row['regions']}"
        )
    if views.records.dtype["regions"].base != spec.record_layout.region_dtype():
        return f"{first}: its record is not the one that the spec describes"
    if not views.tiles:
        return f"{first}: it has no tiles"
    is_anchor_V = views.records["tiles"]["sample"][:, 0] == rows_V["sample"]
    if not is_anchor_V.all():
        return f"{names[int(views.numbers[np.argmin(is_anchor_V)])]}: its first tile is not the sample of its key"
    return None


@dataclass(eq=False)
class _LabelsAgain:
    text: TextBank
    _names: list[str] = field(default_factory=list)
    _labels: list[TopKSoftLabels] = field(default_factory=list)
    _embeddings: list[NDArray[np.floating]] = field(default_factory=list)

    def take(self, batch: ViewBatch, taken_T: NDArray[np.int64]) -> Iterator[str]:
        """Take some regions of a batch; says what is wrong once there are many."""
        if batch.embeddings is None:
            return
        self._names += [batch.names[view] for view in batch.region_owner[taken_T].tolist()]
        self._labels.append(batch.labels[taken_T])
        self._embeddings.append(batch.embeddings[taken_T])
        if len(self._names) >= _REGIONS_AT_ONCE:
            yield from self.judge()

    def judge(self) -> Iterator[str]:
        """Say whether labels that were taken are others than their embeddings give."""
        names, labels, embeddings = self._names, self._labels, self._embeddings
        self._names, self._labels, self._embeddings = [], [], []
        if not names:
            return
        differs_R = mismatched_labels(TopKSoftLabels.joined(labels), np.concatenate(embeddings), self.text)
        if differs_R.any():
            more = f" ({differs_R.sum() - 1} more such)" if differs_R.sum() > 1 else ""
            what = "a soft label is not the one that its embedding and the text bank give"
            yield f"{names[int(np.argmax(differs_R))]}: {what}{more}"


def _pass_problems(
    kinds: NDArray[np.int64],
    passes: NDArray[np.int32],
    samples: NDArray[np.int64],
    pictures: ShardPictures,
    spec: LabelSpec,
) -> Iterator[str]:
    """Each pass of mosaics shows every picture at least once, each pass of another kind exactly once.

    T tiles show `samples`, in views of these kinds and passes.
    """
    if not len(pictures.samples):
        return
    for kind, wanted in spec.views.passes.items():
        is_kind = kinds == VIEW_KINDS.index(kind)
        found = np.unique(passes[is_kind]).tolist()
        if len(found) != wanted:
            yield f"it has {len(found)} passes of {kind} views, the spec says {wanted}"
        for number in found:
            shown_samples = np.sort(samples[is_kind & (passes == number)])
            if kind == "mosaic":
                shown_samples = np.unique(shown_samples)
            if not np.array_equal(shown_samples, pictures.samples):
                how = "at least" if kind == "mosaic" else "exactly"
                yield f"pass {number} of {kind} views doesn't show each picture {how} once"
