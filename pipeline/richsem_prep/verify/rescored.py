"""Whether a rescored label set is what the embeddings that it names give, for a sample of its views."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from richsem_prep.verify.views import LabelSetUnderTest
from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.reader import read_views, view_rows
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view_checks import mismatched_labels
from richsem_schemas.errors import CorruptCacheError

SAMPLED_VIEWS = 16


def embeddings_behind(labels: LabelSetUnderTest, sets: Sequence[LabelSetUnderTest]) -> LabelSetUnderTest | None:
    """The set that a label set was rescored from; None where it wasn't, or the set isn't among those checked."""
    wanted = labels.spec.rescored_from
    found = (one for one in sets if one.spec.fingerprint == wanted and one.spec.embeddings != "none")
    return None if wanted is None else next(found, None)


def rescored_problems(labels: LabelSetUnderTest, source: LabelSetUnderTest, shard: int, *, seed: int) -> Iterator[str]:
    """Compute the labels of some views of a shard again.

    Args:
        labels: a set without embeddings.
        source: the one that it was rescored from.
        shard: number of the shard.
        seed: of the sample, the same every time.
    """
    if labels.text is None:
        return
    try:
        rows, rich_rows = (view_rows(one.layout.cache, one.layout.name, shard) for one in (labels, source))
        if [(row.key, row.member) for row in rows] != [(row.key, row.member) for row in rich_rows]:
            yield f"it doesn't hold the views of {source.layout.name}, from which it was rescored"
            return
        count = min(len(rows), SAMPLED_VIEWS)
        taken = np.sort(np.random.default_rng([seed, shard]).choice(len(rows), count, replace=False)).tolist()
        views = list(read_views(labels.layout.cache, labels.layout.name, shard, [rows[at] for at in taken]))
        rich = list(read_views(source.layout.cache, source.layout.name, shard, [rich_rows[at] for at in taken]))
    except (OSError, CorruptCacheError):
        return  # What is broken by itself is reported as such.
    # The temperature lies in the scale.
    text = replace(labels.text, logit_scale=labels.text.logit_scale / labels.spec.temperature)
    for at, view, embedded in zip(taken, views, rich, strict=True):
        assert embedded.embeddings is not None
        if not _show_the_same(view, embedded):
            yield f"{rows[at].key}.{rows[at].member}: it shows other regions than {source.layout.name}"
        elif mismatched_labels(_plain(view.labels), embedded.embeddings, text).any():
            yield (
                f"{rows[at].key}.{rows[at].member}: a soft label is not the one that the embeddings of "
                f"{source.layout.name} and the text bank give"
            )


def _show_the_same(view: LabelledView, other: LabelledView) -> bool:
    return (
        view.view.canvas_hw == other.view.canvas_hw
        and np.array_equal(view.view.tiles, other.view.tiles)
        and np.array_equal(view.view.regions, other.view.regions)
    )


def _plain(labels: TopKSoftLabels) -> TopKSoftLabels:
    return TopKSoftLabels(
        np.ascontiguousarray(labels.class_ids),
        np.ascontiguousarray(labels.log_probs),
        np.ascontiguousarray(labels.log_rest),
    )
