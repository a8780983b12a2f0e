"""`--retry-failed`: rebuild the shards whose quarantined samples have become readable."""

from collections.abc import Callable

from richsem_prep.shard.plan import planned_entries
from richsem_prep.sources.entry import SourceEntry, read_entry
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import Plan
from richsem_schemas.cache.quarantine import read_quarantine
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.errors import CorruptCacheError, PictureError
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.decode import decode_picture


def drop_mended_shards(layout: CacheLayout, plan: Plan, root: Place, *, say: Callable[[str], None]) -> None:
    """Take back the receipts of shards that would now hold more pictures, so that they are made again.

    A shard's views change with its pictures, so its labels go in every label set, and with them the manifests.
    """
    shards = [PictureShard(layout, number) for number in range(plan.shards)]
    mended = [shard for shard in shards if _has_mended_sample(shard, plan, root)]
    if not mended:
        say("--retry-failed: no quarantined sample has become readable")
        return
    layout.manifest.unlink(missing_ok=True)
    for name in layout.label_sets():
        label_set = layout.label_set(name)
        label_set.manifest.unlink(missing_ok=True)
        for shard in mended:
            LabelShard(label_set, shard.number).revoke()
    for shard in mended:
        shard.revoke()
    say(
        f"--retry-failed: making {len(mended)} shard{'s' * (len(mended) > 1)} again; label sets "
        f"{', '.join(layout.label_sets()) or 'none'} need a run of `richsem-prep shard` each"
    )


def _has_mended_sample(shard: PictureShard, plan: Plan, root: Place) -> bool:
    if not shard.quarantine.is_file():
        return False
    try:
        samples = [record["sample"] for record in read_quarantine(shard.quarantine)]
        bad = planned_entries(shard.layout, plan, shard.number, samples)
    except (CorruptCacheError, LookupError, TypeError, ValueError):
        return True  # Not what was written; making the shard anew mends it.
    return any(_is_readable(root, entry) for entry in bad)


def _is_readable(root: Place, entry: SourceEntry) -> bool:
    try:
        decode_picture(read_entry(root, entry))
    except (PictureError, OSError):
        return False
    return True
