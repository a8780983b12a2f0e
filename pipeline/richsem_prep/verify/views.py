"""The packed views of a label shard: records, values, passes, and whether labels are what their embeddings give."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from richsem_prep.verify.tar import Chunk
from richsem_schemas.cache.codec import unpack_alike
from richsem_schemas.cache.index import ViewColumns
from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import LabelManifest, LabelSpec
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


@dataclass(frozen=True, eq=False)
class LabelSetUnderTest:
    """What the checks of all shards of a label set share.

    Attributes:
        layout: the label set.
        spec: what it should be.
        manifest: what it says it is; None where it isn't finished.
        text: its text bank; None where it is broken.
    """

    layout: LabelSetLayout
    spec: LabelSpec
    manifest: LabelManifest | None
    text: TextBank | None


def views_problems(
    chunks: Iterator[Chunk],
    rows: ViewColumns,
    names: list[str],
    pictures: ShardPictures,
    labels: LabelSetUnderTest,
    sampled: NDArray[np.int64] | None,
) -> Iterator[str]:
    """Say what is wrong with the views of a shard.

    Args:
        chunks: its members.
        rows: its index.
        names: of the members.
        pictures: of the shard.
        labels: the set it belongs to.
        sampled: ascending positions, among the shard's regions, of those whose labels are computed again; None is all.

    Raises:
        CorruptCacheError: a member is not a packed view.
    """
    kinds_N = np.array([VIEW_KINDS.index(kind) for kind in rows.kind], np.int64)
    first_region_N = np.cumsum(rows.regions, dtype=np.int64) - rows.regions
    passes = _PassesSeen(kinds_N, rows.pass_index)
    regeneration = _Regeneration(labels.text, sampled)
    for chunk in chunks:
        for numbers_V, records_V in _stacked(chunk, names):
            if problem := _record_problem(numbers_V, records_V, rows, names, labels.spec):
                yield problem
                return
            batch = ViewBatch.of_records(
                [names[number] for number in numbers_V.tolist()], kinds_N[numbers_V], records_V
            )
            yield from view_problems(batch, pictures, labels.spec)
            passes.add(numbers_V, records_V["tiles"]["sample"])
            yield from regeneration.add(batch, first_region_N[numbers_V])
    yield from regeneration.flush()
    yield from passes.problems(pictures, labels.spec)


def sampled_regions(total: int, *, seed: int, shard: int) -> NDArray[np.int64]:
    """Ascending positions of the regions of a shard whose labels are computed again, the same every time."""
    count = min(max(total, 0), SAMPLED_REGIONS)
    return np.sort(np.random.default_rng([seed, shard]).choice(max(total, 0), count, replace=False))


def _stacked(chunk: Chunk, names: list[str]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.void]]]:
    """The views of a chunk by shape: their numbers in the index, and their records."""
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
            yield chunk.first + members_V[is_alike_V], records_V
            members_V, bytes_VB = members_V[~is_alike_V], bytes_VB[~is_alike_V]


def _record_problem(
    numbers_V: NDArray[np.int64], records_V: NDArray[np.void], rows: ViewColumns, names: list[str], spec: LabelSpec
) -> str | None:
    tiles, regions = records_V["tiles"].shape[1], records_V["regions"].shape[1]
    says_V = (rows.tiles[numbers_V] == tiles) & (rows.regions[numbers_V] == regions)
    if not says_V.all():
        number = int(numbers_V[np.argmin(says_V)])
        return (
            f"{names[number]}: {tiles} tiles and {regions} regions, the index says {rows.tiles[number]} and "
            f"{rows.regions[number]}"
        )
    if records_V.dtype["regions"].base != spec.record_layout.region_dtype():
        return f"{names[int(numbers_V[0])]}: its record is not the one that the spec describes"
    if not tiles:
        return f"{names[int(numbers_V[0])]}: it has no tiles"
    is_anchor_V = records_V["tiles"]["sample"][:, 0] == rows.sample[numbers_V]
    if not is_anchor_V.all():
        return f"{names[int(numbers_V[np.argmin(is_anchor_V)])]}: its first tile is not the sample of its key"
    return None


class _Regeneration:
    """Computes the labels of some regions again, many at a time."""

    def __init__(self, text: TextBank | None, sampled: NDArray[np.int64] | None) -> None:
        self._text = text
        self._sampled = sampled
        self._waiting: list[tuple[list[str], TopKSoftLabels, NDArray[np.floating]]] = []

    def add(self, batch: ViewBatch, first_region_V: NDArray[np.int64]) -> Iterator[str]:
        """Take the sampled regions of a batch, whose views begin with these regions of the shard."""
        if self._text is None or batch.embeddings is None or not len(batch.region_owner):
            return
        owner_R = batch.region_owner
        if self._sampled is None:
            taken_T = np.arange(len(owner_R))
        else:
            position_R = first_region_V[owner_R] + np.arange(len(owner_R)) - np.searchsorted(owner_R, owner_R)
            taken_T = np.flatnonzero(np.isin(position_R, self._sampled, assume_unique=True))
        names = [batch.names[view] for view in owner_R[taken_T].tolist()]
        kept = batch.labels
        labels = TopKSoftLabels(kept.class_ids[taken_T], kept.log_probs[taken_T], kept.log_rest[taken_T])
        self._waiting.append((names, labels, batch.embeddings[taken_T]))
        if sum(len(names) for names, *_ in self._waiting) >= _REGIONS_AT_ONCE:
            yield from self.flush()

    def flush(self) -> Iterator[str]:
        """Judge what was taken."""
        waiting, self._waiting = self._waiting, []
        if not waiting or self._text is None:
            return
        names = [name for names, *_ in waiting for name in names]
        labels = TopKSoftLabels(
            np.concatenate([labels.class_ids for _, labels, _ in waiting]),
            np.concatenate([labels.log_probs for _, labels, _ in waiting]),
            np.concatenate([labels.log_rest for _, labels, _ in waiting]),
        )
        differs_R = mismatched_labels(labels, np.concatenate([embeddings for *_, embeddings in waiting]), self._text)
        if differs_R.any():
            more = f" ({differs_R.sum() - 1} more such)" if differs_R.sum() > 1 else ""
            what = "a soft label is not the one that its embedding and the text bank give"
            yield f"{names[int(np.argmax(differs_R))]}: {what}{more}"


@dataclass(eq=False)
class _PassesSeen:
    """Which samples the views of each pass show; kinds [N] and passes [N] are those of the index."""

    kinds: NDArray[np.int64]
    passes: NDArray[np.int32]
    _numbers: list[NDArray[np.int64]] = field(default_factory=list)
    _samples: list[NDArray[np.int32]] = field(default_factory=list)

    def add(self, numbers_V: NDArray[np.int64], samples_VT: NDArray[np.int32]) -> None:
        self._numbers.append(np.repeat(numbers_V, samples_VT.shape[1]))
        self._samples.append(samples_VT.reshape(-1))

    def problems(self, pictures: ShardPictures, spec: LabelSpec) -> Iterator[str]:
        """Each pass of mosaics shows every picture at least once, each pass of another kind exactly once."""
        if not len(pictures.samples):
            return
        numbers = np.concatenate([np.zeros(0, np.int64), *self._numbers])
        samples = np.concatenate([np.zeros(0, np.int32), *self._samples])
        kinds, passes = self.kinds[numbers], self.passes[numbers]
        for kind, wanted in spec.views.passes.items():
            is_kind = kinds == VIEW_KINDS.index(kind)
            found = np.unique(passes[is_kind]).tolist()
            if len(found) != wanted:
                yield f"it has {len(found)} passes of {kind} views, the spec says {wanted}"
            for number in found:
                shown = np.sort(samples[is_kind & (passes == number)])
                if kind == "mosaic":
                    shown = np.unique(shown)
                if not np.array_equal(shown, pictures.samples):
                    how = "at least" if kind == "mosaic" else "exactly"
                    yield f"pass {number} of {kind} views doesn't show each picture {how} once"
