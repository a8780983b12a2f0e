"""The views that a page shows: chosen evenly, checked, rendered."""

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.cache.view_batch import ShardPictures
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture

_LONGEST_SIDE = 960
_JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class ShownView:
    """A view with what the page tells about it.

    Attributes:
        jpeg: the rendered view, perhaps smaller than its canvas.
    """

    row: np.void
    shard: int
    labelled: LabelledView
    picture_names: tuple[str, ...]
    jpeg: bytes


def choose_views(cache: Cache, label_set: str, views: int) -> list[tuple[int, np.void]]:
    """Shards and index rows of views, drawn evenly from all kinds, shards and passes; the same ones each time."""
    manifest = cache.label_sets[label_set]
    rng = np.random.default_rng([cache.manifest.plan.seed, views])
    shards = [shard.shard for shard in manifest.shards if shard.views]
    if not shards:
        return []
    # More shards than views are not needed, and a large cache has thousands.
    spread = [shards[int(place)] for place in np.linspace(0, len(shards) - 1, min(views, len(shards)))]
    rows = [(shard, row) for shard in spread for row in cache.label_shard(label_set, shard).rows()]
    groups: dict[tuple[str, int, int], list[tuple[int, np.void]]] = {}
    for place in rng.permutation(len(rows)).tolist():
        shard, row = rows[place]
        groups.setdefault((row["kind"], int(row["pass"]), shard), []).append(rows[place])
    chosen: list[tuple[int, np.void]] = []
    available = Counter(row["kind"] for _, row in rows)
    kinds = sorted(available, key=lambda kind: available[kind])
    for number, kind in enumerate(kinds):
        # What the rarer kinds can't fill goes to the others.
        wanted = (views - len(chosen)) // (len(kinds) - number)
        queues = [groups[key] for key in _diagonally([key for key in groups if key[0] == kind])]
        turns = max(len(queue) for queue in queues)
        dealt = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
        chosen += dealt[:wanted]
    return sorted(chosen, key=_place)


def _place(chosen: tuple[int, np.void]) -> tuple[int, int, str, int]:
    shard, row = chosen
    return VIEW_KINDS.index(row["kind"]), shard, row["key"], int(row["pass"])


def _diagonally(keys: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Order (kind, pass, shard) so that neighbours differ in both pass and shard."""
    passes = sorted({key[1] for key in keys})
    shards = sorted({key[2] for key in keys})

    def turn(key: tuple[str, int, int]) -> tuple[int, int]:
        pass_place, shard_place = passes.index(key[1]), shards.index(key[2])
        return (pass_place - shard_place) % len(passes), shard_place

    return sorted(keys, key=turn)


def load_view(cache: Cache, label_set: str, shard: int, row: np.void, root: Place | None) -> ShownView:
    """Read, check and render a view.

    Raises:
        OSError: a file can't be read.
        CorruptCacheError: the view would render wrongly, or exhaust the memory.
    """
    pictures, labels = cache.picture_shard(shard), cache.label_shard(label_set, shard)
    rows = pictures.rows()
    known = ShardPictures.of_rows(rows, cache.manifest.plan)
    (labelled,) = labels.sound_views(np.array([row]), known, cache.label_sets[label_set].spec)
    shown = pictures.shown_by(labelled.view, rows, root=root)
    rendered = render_view(labelled.view, {sample: decode_picture(item.data) for sample, item in shown.items()})
    names = tuple(shown[sample].row["name"] for sample in labelled.view.tiles["sample"].tolist())
    return ShownView(row, shard, labelled, names, _jpeg(Image.fromarray(rendered)))


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
