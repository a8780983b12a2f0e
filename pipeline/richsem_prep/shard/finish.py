"""The last step: manifests, once every shard has its receipt."""

from collections.abc import Callable, Sequence

from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout
from richsem_schemas.cache.manifest import (
    CacheManifest,
    Environment,
    LabelManifest,
    LabelSpec,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
)
from richsem_schemas.cache.reader import read_plan
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, hash_bytes, read_file
from richsem_schemas.io.places import Place, map_small_files

_SHOWN_KERNELS, _SHOWN_CHARACTERS = 4, 40


def shard_is_done(layout: CacheLayout, labels: str, shard: int, plan: Plan, spec: LabelSpec) -> bool:
    """Whether a shard of labels and its pictures have valid receipts, and the files are as long as they say."""
    has_pictures = layout.pictures_elsewhere.is_file() or pictures_are_done(layout, shard, plan)
    return has_pictures and labels_are_done(layout.label_set(labels), shard, spec)


def labels_are_done(label_set: LabelSetLayout, shard: int, spec: LabelSpec) -> bool:
    """Whether a shard of labels has a valid receipt, and the files are as long as it says."""
    try:
        receipt = LabelsReceipt.read(label_set.receipt(shard))
        return (
            receipt.spec_fingerprint == spec.fingerprint
            and label_set.tar(shard).stat().st_size == receipt.summary.tar.bytes
            and label_set.index(shard).stat().st_size == receipt.summary.index.bytes
        )
    except (FileNotFoundError, CorruptCacheError):
        return False


def pictures_are_done(layout: CacheLayout, shard: int, plan: Plan) -> bool:
    """Whether a shard's pictures have a valid receipt; one that can't be trusted is removed: they are made again."""
    path = layout.pictures_receipt(shard)
    try:
        receipt = PicturesReceipt.read(path)
        if (
            receipt.plan_fingerprint == plan.fingerprint
            and layout.pictures_tar(shard).stat().st_size == receipt.summary.tar.bytes
            and layout.pictures_index(shard).stat().st_size == receipt.summary.index.bytes
        ):
            return True
    except (FileNotFoundError, CorruptCacheError):
        pass
    path.unlink(missing_ok=True)
    return False


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


def resizers_note(manifest: LabelManifest) -> str | None:
    """What to tell of a label set whose shards were resized by more than one kernel; None of any other."""
    kernels = sorted({each.versions["resizer"] for each in manifest.environments if "resizer" in each.versions})
    if len(kernels) < 2:
        return None
    shown = ", ".join(repr(kernel[:_SHOWN_CHARACTERS]) for kernel in kernels[:_SHOWN_KERNELS])
    return (
        f"shards of label set {manifest.name!r} were resized by {shown}{', …' * (len(kernels) > _SHOWN_KERNELS)}: "
        "pixels differ by about a grey level between them; with one resizer on all workers they would be alike"
    )


def _cache_manifest(layout: CacheLayout, plan: Plan) -> CacheManifest:
    """The manifest of the pictures: from their receipts, or from the cache that holds them."""
    if layout.pictures_elsewhere.is_file():
        return CacheManifest.read(layout.pictures_elsewhere)
    pictures = _pictures_receipts(layout, plan)
    return CacheManifest(
        plan=plan,
        fingerprint=plan.fingerprint,
        samples=sum(receipt.summary.samples for receipt in pictures),
        quarantined=sum(receipt.summary.quarantined for receipt in pictures),
        bytes=sum(receipt.summary.tar.bytes for receipt in pictures),
        shards=tuple(receipt.summary for receipt in pictures),
    )


def _pictures_receipts(layout: CacheLayout, plan: Plan) -> list[PicturesReceipt]:
    _require_none_missing(layout, "pictures", layout.pictures_receipt, plan)

    def read(shard: int) -> PicturesReceipt:
        receipt = PicturesReceipt.read(layout.pictures_receipt(shard))
        _require_whole(layout.pictures_tar(receipt.summary.shard), receipt.summary.tar)
        _require_whole(layout.pictures_index(receipt.summary.shard), receipt.summary.index)
        if receipt.plan_fingerprint != plan.fingerprint:
            raise RichSemError(
                f"{layout.pictures_receipt(receipt.summary.shard)} belongs to another plan than {layout.plan}; "
                "delete it and run the same `richsem-prep shard` again"
            )
        return receipt

    return map_small_files(layout.out, read, range(plan.shards))


def finished_sets(layout: CacheLayout) -> list[str]:
    """Label sets of which every shard is there."""
    plan = read_plan(layout)
    return [name for name in layout.label_sets() if not _missing(layout, layout.label_set(name).receipt, plan)]


def _label_manifest(layout: CacheLayout, name: str, plan: Plan) -> LabelManifest:
    label_set = layout.label_set(name)
    _require_none_missing(layout, f"label set {name}", label_set.receipt, plan)
    spec = LabelSpec.read(label_set.spec)

    def read(shard: int) -> LabelsReceipt:
        receipt = LabelsReceipt.read(label_set.receipt(shard))
        _require_whole(label_set.tar(receipt.summary.shard), receipt.summary.tar)
        _require_whole(label_set.index(receipt.summary.shard), receipt.summary.index)
        if receipt.spec_fingerprint != spec.fingerprint:
            raise RichSemError(
                f"{label_set.receipt(receipt.summary.shard)} belongs to another spec than {label_set.spec}; "
                "run the same `richsem-prep shard` again"
            )
        return receipt

    receipts = map_small_files(layout.out, read, range(plan.shards))
    environments: list[Environment] = []
    for receipt in receipts:
        if receipt.environment not in environments:
            environments.append(receipt.environment)
    return LabelManifest(
        name=name,
        spec=spec,
        fingerprint=spec.fingerprint,
        text=hash_bytes(read_file(label_set.text)),
        views=sum(receipt.summary.views for receipt in receipts),
        regions=sum(receipt.summary.regions for receipt in receipts),
        bytes=sum(receipt.summary.tar.bytes for receipt in receipts),
        environments=tuple(environments),
        shards=tuple(receipt.summary for receipt in receipts),
    )


def _require_whole(path: Place, expected: FileHash) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size != expected.bytes:
        raise CorruptCacheError(
            f"{path}: has {size} bytes, its receipt says {expected.bytes}; run the same `richsem-prep shard` again, "
            "which makes the shard anew"
        )


def _missing(layout: CacheLayout, receipt: Callable[[int], Place], plan: Plan) -> list[int]:
    there = map_small_files(layout.out, lambda shard: receipt(shard).is_file(), range(plan.shards))
    return [shard for shard, is_there in enumerate(there) if not is_there]


def _require_none_missing(layout: CacheLayout, what: str, receipt: Callable[[int], Place], plan: Plan) -> None:
    if missing := _missing(layout, receipt, plan):
        shown = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        raise RichSemError(
            f"{layout.out}: {len(missing)} of {plan.shards} shards of the {what} are missing ({shown}); "
            "make them with `richsem-prep shard` and the same options, then finish"
        )
