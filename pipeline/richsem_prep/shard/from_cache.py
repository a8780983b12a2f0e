"""Labels alone: the plan and the pictures of another cache, for a new teacher where the raw data is gone."""

from typing import Any

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, Plan
from richsem_schemas.cache.reader import find_layout, open_cache, read_plan, require_same_pictures, require_same_plan
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import hash_bytes, read_file, write_atomically
from richsem_schemas.io.places import Place, open_place

_TAKEN_OVER = ("dataset", "seed", "samples_per_shard", "limit", "pictures", "max_side")


def options_of_plan(from_cache: Place, dataset: str | None, root: Place | None) -> dict[str, Any]:
    """The options that the plan of a cache fixes, with `dataset` and `root` as the user gives them, if at all.

    Raises:
        RichSemError: there is no such cache, or it is of another dataset.
    """
    plan = Plan.read(find_layout(from_cache).plan)
    if dataset not in {None, plan.dataset}:
        raise RichSemError(f"--dataset {dataset}: {from_cache} is a cache of {plan.dataset}; leave --dataset out")
    options: dict[str, Any] = {field: getattr(plan, field) for field in _TAKEN_OVER}
    # Pictures in the cache need no root; the cache itself stands for it.
    options["root"] = root or (open_place(plan.root) if plan.root else from_cache)
    return options


def adopt_plan(layout: CacheLayout, from_cache: Place) -> Plan:
    """Take over the plan of a finished cache, or check that OUT follows it already; the plan is written last.

    Raises:
        RichSemError: the cache isn't finished, or OUT holds pictures of its own.
        ManifestMismatchError: OUT follows another plan, or other pictures.
    """
    source = open_cache(from_cache, only="")
    # Labels alone lead on to the cache that they were made from.
    manifest = source.manifest.model_copy(update={"pictures_in": str(source.layout.out.absolute())})
    pictures = source.layout
    if layout.plan.exists():
        plan = read_plan(layout)
        _require_labels_alone(layout)
        require_same_plan(layout.plan, plan, manifest.plan)
        path = layout.pictures_elsewhere
        require_same_pictures(path, CacheManifest.read(path), manifest, pictures)
        # The cache may have moved.
        manifest.write(path)
        return plan
    _copy_listing(pictures, layout, manifest.plan)
    manifest.write(layout.pictures_elsewhere)
    manifest.plan.write(layout.plan)
    return manifest.plan


def require_pictures_of_its_own(layout: CacheLayout) -> None:
    """Check that OUT isn't a folder of labels alone.

    Raises:
        RichSemError: it is one.
    """
    if layout.pictures_elsewhere.is_file():
        place = CacheManifest.read(layout.pictures_elsewhere).pictures_in
        raise RichSemError(f"{layout.out} holds labels alone, for the pictures of {place}; say --from-cache {place}")


def _require_labels_alone(layout: CacheLayout) -> None:
    if not layout.pictures_elsewhere.is_file():
        raise RichSemError(
            f"--out {layout.out} is a cache with pictures of its own; leave out --from-cache to add a label set to it, "
            "or name another --out"
        )


def _copy_listing(source: CacheLayout, target: CacheLayout, plan: Plan) -> None:
    copies = [(source.listing, target.listing, plan.listing)]
    if plan.listing_quarantine is not None:
        copies.append((source.listing_quarantine, target.listing_quarantine, plan.listing_quarantine))
    for here, there, expected in copies:
        data = read_file(here)
        if hash_bytes(data) != expected:
            raise CorruptCacheError(f"{here}: its bytes don't match {source.plan}; restore it first")
        write_atomically(there, data)
