"""The views that a page shows: chosen evenly, checked, rendered."""

import io
from collections import Counter
from dataclasses import dataclass

import numpy as np
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import PictureRow, ViewRow
from richsem_schemas.cache.reader import Cache, picture_rows, read_pictures, read_views, view_rows
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.cache.view_checks import ShardPictures, ViewBatch, geometry_problems
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture

_LONGEST_SIDE = 960
_JPEG_QUALITY = 85


@dataclass(frozen=True, eq=False)
class ShownView:
    """A view with what the page tells about it.

    Attributes:
        row: where it stands.
        shard: its number.
        labelled: recipe and labels.
        picture_names: of its tiles.
        jpeg: the rendered view, perhaps smaller than its canvas.
    """

    row: ViewRow
    shard: int
    labelled: LabelledView
    picture_names: tuple[str, ...]
    jpeg: bytes


def choose_views(cache: Cache, label_set: str, views: int) -> list[tuple[int, ViewRow]]:
    """Draw views evenly from all kinds, shards and passes; the same ones each time.

    Returns:
        Shard and index row of each, in the order of kinds, shards and keys.
    """
    manifest = cache.label_sets[label_set]
    rng = np.random.default_rng([cache.manifest.plan.seed, views])
    shards = [shard.shard for shard in manifest.shards if shard.views]
    if not shards:
        return []
    # More shards than views are not needed, and a large cache has thousands.
    spread = [shards[int(place)] for place in np.linspace(0, len(shards) - 1, min(views, len(shards)))]
    rows = [(shard, row) for shard in spread for row in view_rows(cache.labels_layout, label_set, shard)]
    groups: dict[tuple[str, int, int], list[tuple[int, ViewRow]]] = {}
    for place in rng.permutation(len(rows)).tolist():
        shard, row = rows[place]
        groups.setdefault((row.kind, row.pass_index, shard), []).append(rows[place])
    chosen: list[tuple[int, ViewRow]] = []
    available = Counter(row.kind for _, row in rows)
    kinds = sorted(available, key=lambda kind: available[kind])
    for number, kind in enumerate(kinds):
        # What the rarer kinds can't fill goes to the others.
        wanted = (views - len(chosen)) // (len(kinds) - number)
        queues = [groups[key] for key in _diagonally([key for key in groups if key[0] == kind])]
        turns = max(len(queue) for queue in queues)
        dealt = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
        chosen += dealt[:wanted]
    return sorted(chosen, key=lambda item: (VIEW_KINDS.index(item[1].kind), item[0], item[1].key, item[1].pass_index))


def _diagonally(keys: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Order (kind, pass, shard) so that neighbours differ in both pass and shard."""
    passes = sorted({key[1] for key in keys})
    shards = sorted({key[2] for key in keys})

    def turn(key: tuple[str, int, int]) -> tuple[int, int]:
        pass_place, shard_place = passes.index(key[1]), shards.index(key[2])
        return (pass_place - shard_place) % len(passes), shard_place

    return sorted(keys, key=turn)


def load_view(cache: Cache, label_set: str, shard: int, row: ViewRow, root: Place | None) -> ShownView:
    """Read, check and render a view.

    Args:
        cache: a finished cache.
        label_set: name of a finished label set.
        shard: of the view.
        row: of the view in that shard's index.
        root: where originals lie, for caches that refer to them.

    Raises:
        OSError: a file can't be read.
        CorruptCacheError: the view would render wrongly, or exhaust the memory.
    """
    layout = cache.layout
    rows = {item.sample: item for item in picture_rows(layout, shard)}
    (labelled,) = read_views(cache.labels_layout, label_set, shard, [row])
    _require_sound(cache, label_set, shard, row, labelled, list(rows.values()))
    samples = labelled.view.tiles["sample"].tolist()
    wanted = [rows[sample] for sample in dict.fromkeys(samples)]
    stored = {item.row.sample: item for item in read_pictures(layout, shard, wanted, root=root)}
    rendered = render_view(labelled.view, {sample: decode_picture(item.data) for sample, item in stored.items()})
    names = tuple(stored[sample].row.name for sample in samples)
    return ShownView(row, shard, labelled, names, _jpeg(Image.fromarray(rendered)))


def _require_sound(
    cache: Cache, label_set: str, shard: int, row: ViewRow, labelled: LabelledView, pictures: list[PictureRow]
) -> None:
    """Refuse what would render wrongly, or exhaust the memory."""
    plan, classes = cache.manifest.plan, cache.label_sets[label_set].spec.text.classes
    batch = ViewBatch.of([(f"{row.key}.{row.member}", labelled)])
    problems = list(geometry_problems(batch, ShardPictures.of(pictures, plan)))
    class_ids = labelled.labels.class_ids
    if ((class_ids < 0) | (class_ids >= classes)).any():
        problems.append(f"{row.key}.{row.member}: a class id is out of range")
    if problems:
        path = cache.labels_layout.label_set(label_set).tar(shard)
        raise CorruptCacheError(f"{path}: {problems[0]}; run `richsem-prep verify {cache.labels_layout.out}`")


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
