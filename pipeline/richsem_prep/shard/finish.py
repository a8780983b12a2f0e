"""The last step: manifests, once every shard has its receipt."""

from collections.abc import Sequence
from typing import TypeVar

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, Environment, LabelManifest, LabelSpec, Plan, ShardReceipt
from richsem_schemas.cache.reader import read_plan
from richsem_schemas.cache.resizers import resizers_note
from richsem_schemas.cache.shard import LabelShard, PictureShard, Shard
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import hash_bytes, read_file
from richsem_schemas.io.places import Place, map_small_files

_SHOWN_SHARDS = 8

_Receipt = TypeVar("_Receipt", bound=ShardReceipt)


def shard_is_done(layout: CacheLayout, label_set: str, number: int, plan: Plan, spec: LabelSpec) -> bool:
    """Whether a shard of labels and its pictures have valid receipts, and the files are as long as they say."""
    has_pictures = layout.pictures_elsewhere.is_file() or pictures_are_done(layout, number, plan)
    return has_pictures and LabelShard(layout.label_set(label_set), number).is_done(spec.fingerprint)


def pictures_are_done(layout: CacheLayout, number: int, plan: Plan) -> bool:
    """Whether a shard's pictures have a valid receipt; one that can't be trusted is removed: they are made again."""
    shard = PictureShard(layout, number)
    is_done = shard.is_done(plan.fingerprint)
    if not is_done:
        shard.revoke()
    return is_done


def finish_cache(layout: CacheLayout, label_sets: Sequence[str]) -> tuple[str, ...]:
    """Write the manifests of the pictures and of some label sets.

    Returns:
        What a user may want to know of the sets, but need not mend.

    Raises:
        RichSemError: shards are missing; says which.
    """
    plan = read_plan(layout)
    manifest = _cache_manifest(layout, plan)
    manifests = {name: _label_manifest(layout, name, plan) for name in label_sets}
    manifest.write(layout.manifest)
    for name, label_manifest in manifests.items():
        label_manifest.write(layout.label_set(name).manifest)
    return tuple(note for made in manifests.values() if (note := resizers_note(made)) is not None)


def _cache_manifest(layout: CacheLayout, plan: Plan) -> CacheManifest:
    """The manifest of the pictures: from their receipts, or from the cache that holds them."""
    if layout.pictures_elsewhere.is_file():
        return CacheManifest.read(layout.pictures_elsewhere)
    shards = [PictureShard(layout, number) for number in range(plan.shards)]
    pictures = _receipts(shards, plan.fingerprint, of="pictures", made_by=layout.plan, out=layout.out)
    return CacheManifest(
        plan=plan,
        fingerprint=plan.fingerprint,
        samples=sum(receipt.summary.samples for receipt in pictures),
        quarantined=sum(receipt.summary.quarantined for receipt in pictures),
        bytes=sum(receipt.summary.tar.bytes for receipt in pictures),
        shards=tuple(receipt.summary for receipt in pictures),
    )


def finished_sets(layout: CacheLayout) -> list[str]:
    """Label sets of which every shard is there."""
    plan = read_plan(layout)
    return [name for name in layout.label_sets() if not _missing(_label_shards(layout, name, plan), layout.out)]


def _label_shards(layout: CacheLayout, name: str, plan: Plan) -> list[LabelShard]:
    return [LabelShard(layout.label_set(name), number) for number in range(plan.shards)]


def _label_manifest(layout: CacheLayout, name: str, plan: Plan) -> LabelManifest:
    label_set = layout.label_set(name)
    spec = LabelSpec.read(label_set.spec)
    shards = _label_shards(layout, name, plan)
    receipts = _receipts(shards, spec.fingerprint, of=f"label set {name}", made_by=label_set.spec, out=layout.out)
    summaries = tuple(receipt.summary for receipt in receipts)
    return LabelManifest(
        name=name,
        spec=spec,
        fingerprint=spec.fingerprint,
        text=hash_bytes(read_file(label_set.text)),
        views=sum(summary.views for summary in summaries),
        regions=sum(summary.regions for summary in summaries),
        bytes=sum(summary.tar.bytes for summary in summaries),
        environments=_distinct([receipt.environment for receipt in receipts]),
        shards=summaries,
    )


def _distinct(environments: list[Environment]) -> tuple[Environment, ...]:
    found: list[Environment] = []
    for environment in environments:
        if environment not in found:
            found.append(environment)
    return tuple(found)


def _receipts(
    shards: Sequence[Shard[_Receipt]], fingerprint: str, *, of: str, made_by: Place, out: Place
) -> list[_Receipt]:
    """The receipts of all shards, compared with the length of their files, and with what they should be made by."""
    if missing := _missing(shards, out):
        shown = ", ".join(map(str, missing[:_SHOWN_SHARDS])) + (", …" if len(missing) > _SHOWN_SHARDS else "")
        raise RichSemError(
            f"{out}: {len(missing)} of {len(shards)} shards of the {of} are missing ({shown}); "
            "make them with `richsem-prep shard` and the same options, then finish"
        )

    def read(shard: Shard[_Receipt]) -> _Receipt:
        receipt = shard.read_receipt()
        shard.require_sizes(receipt.summary)
        if receipt.fingerprint != fingerprint:
            raise RichSemError(f"{shard.receipt} belongs to another {made_by.stem} than {made_by}; {shard.remedy}")
        return receipt

    return map_small_files(out, read, shards)


def _missing(shards: Sequence[Shard], out: Place) -> list[int]:
    there = map_small_files(out, lambda shard: shard.receipt.is_file(), shards)
    return [shard.number for shard, is_there in zip(shards, there, strict=True) if not is_there]
