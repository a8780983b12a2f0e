"""Whether a rescored label set is what the embeddings that it names give, for a sample of its views."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from richsem_prep.verify.records import LabelSetUnderTest
from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import view_names
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.view_checks import mismatched_labels
from richsem_schemas.errors import CorruptCacheError

SAMPLED_VIEWS = 16


def embeddings_behind(labels: LabelSetUnderTest, sets: Sequence[LabelSetUnderTest]) -> LabelSetUnderTest | None:
    """The set that a label set was rescored from; None where it wasn't, or the set isn't among those checked."""
    wanted = labels.spec.rescored_from
    found = (one for one in sets if one.spec.fingerprint == wanted and one.spec.embeddings != "none")
    return None if wanted is None else next(found, None)


def rescored_problems(labels: LabelSetUnderTest, source: LabelSetUnderTest, shard: int, *, seed: int) -> Iterator[str]:
    """Compute the labels of some views of a shard again, the same sample of views every time."""
    if labels.text is None:
        return
    own, rich = (LabelShard(one.layout, shard) for one in (labels, source))
    try:
        rows, rich_rows = own.rows(), rich.rows()
        names = view_names(rows)
        if names != view_names(rich_rows):
            yield f"it doesn't hold the views of {source.layout.name}, from which it was rescored"
            return
        count = min(len(rows), SAMPLED_VIEWS)
        taken = np.sort(np.random.default_rng([seed, shard]).choice(len(rows), count, replace=False))
        pairs = list(zip(own.views(rows[taken]), rich.views(rich_rows[taken]), strict=True))
    except (OSError, CorruptCacheError):
        return  # What is broken by itself is reported as such.
    # The temperature lies in the scale.
    text = replace(labels.text, logit_scale=labels.text.logit_scale / labels.spec.temperature)
    for number, (view, embedded) in zip(taken.tolist(), pairs, strict=True):
        assert embedded.embeddings is not None
        if not _show_the_same(view, embedded):
            yield f"{names[number]}: it shows other regions than {source.layout.name}"
        elif mismatched_labels(view.labels, embedded.embeddings, text).any():
            yield (
                f"{names[number]}: a soft label is not the one that the embeddings of {source.layout.name} and the "
                "text bank give"
            )


def _show_the_same(view: LabelledView, other: LabelledView) -> bool:
    return (
        view.view.canvas_hw == other.view.canvas_hw
        and np.array_equal(view.view.tiles, other.view.tiles)
        and np.array_equal(view.view.regions, other.view.regions)
    )
