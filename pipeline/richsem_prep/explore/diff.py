"""`richsem-prep diff`: how far the soft labels of two label sets of one cache lie apart."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.alike_views import ShardViews
from richsem_schemas.cache.codec import embeddings_of
from richsem_schemas.cache.divergence import kl_divergence, top_k_kl_divergence
from richsem_schemas.cache.index import Rows, view_names
from richsem_schemas.cache.manifest import LabelManifest
from richsem_schemas.cache.reader import Cache, open_cache
from richsem_schemas.cache.record import differing_fields
from richsem_schemas.cache.soft_labels import TopKSoftLabels, class_log_probs
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.ordered_map import default_threads, ordered_map
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import NO_LABEL, NONE_NAME

_REGIONS_AT_ONCE = 1024
_NOT_COMPARED = frozenset({"embeddings", "top_k", "rescored_from"})
"""Fields of a spec that say how labels are kept, not what they are."""


@dataclass(frozen=True)
class ClassDifference:
    """One class's part.

    Attributes:
        flips: regions whose most probable class is another.
    """

    name: str
    regions: int
    mean_kl: float
    flips: int


@dataclass(frozen=True)
class Difference:
    """How label set B differs from label set A.

    Attributes:
        fields: what their specs say differently: field, A's value, B's value.
        unmatched_views: views that only one of the sets has.
        is_exact: whether KL is over whole distributions, from embeddings; else it is over the classes that both labels
            keep, with the rest as one more class, which is a lower bound.
        mean_kl: KL(A ‖ B) in nats.
        p95_kl: nats, the 95th percentile.
        flips: regions whose most probable class differs.
        grouped_by: `hard label`, or `top-1 of A` where no region has one.
        classes: worst mean first, ties by name.
        swaps: most frequent pairs of most probable classes, A's and B's, and how often.
    """

    label_sets: tuple[str, str]
    fields: tuple[tuple[str, str, str], ...]
    regions: int
    unmatched_views: int
    is_exact: bool
    mean_kl: float
    median_kl: float
    p95_kl: float
    max_kl: float
    flips: int
    grouped_by: str
    classes: tuple[ClassDifference, ...]
    swaps: tuple[tuple[str, str, int], ...]


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two sets.

    Attributes:
        rich: the set that holds its embeddings: itself, or the one it was rescored from; None where there are none.
    """

    manifest: LabelManifest
    text: TextBank
    rich: LabelManifest | None

    @property
    def logit_scale(self) -> float:
        """The factor of cosines in its labels."""
        return self.text.logit_scale / self.manifest.spec.temperature


@dataclass(frozen=True, eq=False)
class _Regions:
    """Differences of R regions: KL in nats, both top-1 rows of the text bank, the hard label's row of the plan."""

    kl: NDArray[np.float64]
    top_a: NDArray[np.int64]
    top_b: NDArray[np.int64]
    category: NDArray[np.int64]
    unmatched_views: int


def diff_label_sets(
    out: Place,
    a: str,
    b: str,
    *,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Difference:
    """Compare two finished label sets of a cache, region by region, joined by key and view; A counts as the truth.

    Raises:
        RichSemError: a set isn't there, they have other classes, or no view in common.
        CorruptCacheError: a file is damaged, or the same view shows other regions.
    """
    cache = open_cache(out)
    if a == b:
        raise RichSemError(f"--label-set {a} {b}: that is one label set; name two")
    sides = _side(cache, a), _side(cache, b)
    _require_same_classes(*sides)
    shards = [summary.shard for summary in sides[0].manifest.shards]
    parts: list[_Regions] = []
    threads = threads or default_threads()
    with ThreadPoolExecutor(threads) as pool:
        for part in ordered_map(pool, partial(_diff_shard, cache, sides), shards, ahead=2 * threads):
            parts.append(part)
            if on_progress:
                on_progress(len(parts), len(shards))
    return _summary(cache, sides, parts)


def _side(cache: Cache, name: str) -> Side:
    manifest = cache.label_set(name)
    holders = {one.fingerprint: one for one in cache.label_sets.values() if one.spec.embeddings != "none"}
    return Side(manifest, cache.text_bank(name), holders.get(manifest.spec.rescored_from or manifest.fingerprint))


def _require_same_classes(a: Side, b: Side) -> None:
    if a.text.class_names != b.text.class_names:
        raise RichSemError(
            f"label sets {a.manifest.name} ({a.manifest.spec.text.vocabulary}, {len(a.text.class_names)} classes) and "
            f"{b.manifest.name} ({b.manifest.spec.text.vocabulary}, {len(b.text.class_names)} classes) speak of other "
            "classes, so there is nothing to compare; rescore both with one vocabulary first (richsem-prep rescore)"
        )


def _diff_shard(cache: Cache, sides: tuple[Side, Side], shard: int) -> _Regions:
    shards = [_read(cache, side.manifest, shard) for side in sides]
    taken_a, taken_b, unmatched = _matched_regions(shards[0].rows, shards[1].rows)
    regions_a, regions_b = shards[0].regions(), shards[1].regions()
    _require_same_regions(sides, shard, regions_a[taken_a], regions_b[taken_b])
    rich = [_embedded_regions(cache, side, own, shard) for side, own in zip(sides, shards, strict=True)]
    is_exact = all(side.rich is not None for side in sides)
    divergences = []
    for start in range(0, len(taken_a), _REGIONS_AT_ONCE):
        part_a, part_b = taken_a[start : start + _REGIONS_AT_ONCE], taken_b[start : start + _REGIONS_AT_ONCE]
        if is_exact:
            p_RC, q_RC = (_whole(side, r[part]) for side, r, part in zip(sides, rich, (part_a, part_b), strict=True))
            divergences.append(kl_divergence(p_RC, q_RC))
        else:
            p, q = TopKSoftLabels.of_regions(regions_a[part_a]), TopKSoftLabels.of_regions(regions_b[part_b])
            divergences.append(top_k_kl_divergence(p, q, classes=len(sides[0].text.class_names)))
    top_a_R, top_b_R = (
        regions["class_ids"][:, 0].astype(np.int64)[taken]
        for regions, taken in ((regions_a, taken_a), (regions_b, taken_b))
    )
    kl_R = np.concatenate(divergences) if divergences else np.zeros(0)
    return _Regions(kl_R, top_a_R, top_b_R, regions_a["category_id"].astype(np.int64)[taken_a], unmatched)


def _read(cache: Cache, manifest: LabelManifest, shard: int) -> ShardViews:
    return cache.label_shard(manifest.name, shard).views_alike(manifest.spec)


def _matched_regions(rows_a: Rows, rows_b: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Positions, among all regions of A and of B, of those of the views that both have; and how many views don't."""
    places_b = dict(zip(view_names(rows_b), _region_places(rows_b), strict=True))
    both = [
        (here, places_b[name])
        for name, here in zip(view_names(rows_a), _region_places(rows_a), strict=True)
        if name in places_b
    ]
    # Other counts of one view show in the comparison of its boxes.
    taken_a, taken_b = ([np.zeros(0, np.int64), *(pair[side] for pair in both)] for side in (0, 1))
    unmatched = len(rows_a) + len(rows_b) - 2 * len(both)
    return np.concatenate(taken_a), np.concatenate(taken_b), unmatched


def _region_places(rows: Rows) -> list[NDArray[np.int64]]:
    """Of each view the positions of its regions among all of the shard."""
    ends = np.cumsum(rows["regions"], dtype=np.int64)
    return [np.arange(end - count, end) for end, count in zip(ends, rows["regions"], strict=True)]


def _require_same_regions(
    sides: tuple[Side, Side], shard: int, regions_a: NDArray[np.void], regions_b: NDArray[np.void]
) -> None:
    same = len(regions_a) == len(regions_b) and all(
        np.array_equal(regions_a[field], regions_b[field]) for field in ("box_xyxy_px", "category_id")
    )
    if not same:
        names = " and ".join(side.manifest.name for side in sides)
        raise CorruptCacheError(
            f"shard {shard}: the views of {names} show other regions under the same keys, so they were drawn "
            "otherwise (views.geometry, or another version of NumPy); they can't be compared"
        )


def _embedded_regions(cache: Cache, side: Side, own: ShardViews, shard: int) -> NDArray[np.void]:
    """The regions with the embeddings behind a set's labels, in the order of its own index."""
    if side.rich is None:
        return np.zeros(0)  # type: ignore[return-value]
    if side.rich.name == side.manifest.name:
        return own.regions()
    holder = _read(cache, side.rich, shard)
    if view_names(holder.rows) != view_names(own.rows):
        raise CorruptCacheError(f"shard {shard}: {side.rich.name} and {side.manifest.name} don't hold the same views")
    return holder.regions()


def _whole(side: Side, regions: NDArray[np.void]) -> NDArray[np.float64]:
    embeddings_RD = embeddings_of(regions)
    assert embeddings_RD is not None
    return class_log_probs(embeddings_RD, side.text.features, logit_scale=side.logit_scale)


def _summary(cache: Cache, sides: tuple[Side, Side], parts: list[_Regions]) -> Difference:
    kl_R = np.concatenate([part.kl for part in parts])
    if not len(kl_R):
        both = " and ".join(side.manifest.name for side in sides)
        raise RichSemError(f"{cache.layout.out}: label sets {both} have no views in common; their views differ")
    top_a_R, top_b_R = (np.concatenate([getattr(part, name) for part in parts]) for name in ("top_a", "top_b"))
    category_R = np.concatenate([part.category for part in parts])
    is_flip_R = top_a_R != top_b_R
    is_labelled = bool((category_R != NO_LABEL).any())
    names = cache.manifest.plan.vocabulary.class_names if is_labelled else sides[0].text.class_names
    class_R = category_R if is_labelled else top_a_R
    return Difference(
        label_sets=(sides[0].manifest.name, sides[1].manifest.name),
        fields=tuple(
            (field, str(here), str(there))
            for field, here, there in differing_fields(sides[0].manifest.spec, sides[1].manifest.spec)
            if field not in _NOT_COMPARED
        ),
        regions=len(kl_R),
        unmatched_views=sum(part.unmatched_views for part in parts),
        is_exact=all(side.rich is not None for side in sides),
        mean_kl=float(kl_R.mean()),
        median_kl=float(np.median(kl_R)),
        p95_kl=float(np.quantile(kl_R, 0.95)),
        max_kl=float(kl_R.max()),
        flips=int(is_flip_R.sum()),
        grouped_by="hard label" if is_labelled else f"top-1 of {sides[0].manifest.name}",
        classes=tuple(sorted(_classes(names, class_R, kl_R, is_flip_R), key=lambda item: (-item.mean_kl, item.name))),
        swaps=tuple(_swaps(sides[0].text.class_names, top_a_R[is_flip_R], top_b_R[is_flip_R])),
    )


def _classes(
    names: tuple[str, ...], class_R: NDArray[np.int64], kl_R: NDArray[np.float64], is_flip_R: NDArray[np.bool_]
) -> Iterator[ClassDifference]:
    regions_C = np.bincount(class_R, minlength=len(names))
    kl_C = np.bincount(class_R, weights=kl_R, minlength=len(names))
    flips_C = np.bincount(class_R[is_flip_R], minlength=len(names))
    for row in np.flatnonzero(regions_C).tolist():
        name = names[row] if row < len(names) else NONE_NAME
        yield ClassDifference(name, int(regions_C[row]), float(kl_C[row] / regions_C[row]), int(flips_C[row]))


def _swaps(
    names: tuple[str, ...], top_a_R: NDArray[np.int64], top_b_R: NDArray[np.int64]
) -> Iterator[tuple[str, str, int]]:
    pairs = Counter(zip(top_a_R.tolist(), top_b_R.tolist(), strict=True))
    for (here, there), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        yield names[here], names[there], count
