"""Reading a cache: its manifests once, its shards lazily."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, Plan
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.rendered_views import RenderedView, rendered_views
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.cache.text_bank import TextBank, read_text_bank
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.files import bytes_there
from richsem_schemas.io.places import Place, open_place


def find_layout(out: Place) -> CacheLayout:
    """The layout of the cache in a folder, finished or not.

    Raises:
        RichSemError: there is none.
    """
    plan_path = out / "plan" / "plan.json"
    try:
        return CacheLayout(out, Plan.read(plan_path).dataset)
    except (FileNotFoundError, NotADirectoryError):
        raise RichSemError(
            f"{out} holds no cache ({plan_path} is missing); make one with `richsem-prep shard`"
        ) from None


def read_plan(layout: CacheLayout) -> Plan:
    """The plan of a cache.

    Raises:
        FileNotFoundError: there is none.
        CorruptCacheError: it is damaged, or its listing isn't there in full.
    """
    plan = Plan.read(layout.plan)
    size = bytes_there(layout.listing)
    if size != plan.listing.bytes:
        raise CorruptCacheError(
            f"{layout.listing}: has {size} bytes, {layout.plan} says {plan.listing.bytes}; restore it, or begin anew "
            "with --overwrite"
        )
    return plan


def pictures_layout(layout: CacheLayout) -> CacheLayout:
    """Where the pictures of a cache lie: in itself, or, for a folder of labels alone, in the cache that it names."""
    if not layout.pictures_elsewhere.is_file():
        return layout
    return _elsewhere(CacheManifest.read(layout.pictures_elsewhere), layout)


def _elsewhere(manifest: CacheManifest, layout: CacheLayout) -> CacheLayout:
    return layout if manifest.pictures_in is None else CacheLayout(open_place(manifest.pictures_in), layout.name)


@dataclass(frozen=True)
class Cache:
    """A finished cache of pictures and its finished label sets.

    Attributes:
        layout: the cache that holds the pictures.
        manifest: of it.
        label_sets: by name.
        labels_elsewhere: the folder that holds the label sets, where that is another.
    """

    layout: CacheLayout
    manifest: CacheManifest
    label_sets: dict[str, LabelManifest]
    labels_elsewhere: CacheLayout | None = None

    @property
    def labels_layout(self) -> CacheLayout:
        """Where the label sets lie; their views, indexes and text are read from there."""
        return self.labels_elsewhere or self.layout

    def label_set(self, name: str | None) -> LabelManifest:
        """A label set by name; None is the only one.

        Raises:
            RichSemError: there is none of that name, or several to choose from.
        """
        if name is None and len(self.label_sets) == 1:
            return next(iter(self.label_sets.values()))
        if name in self.label_sets:
            return self.label_sets[name]
        # Not those that were read, which may be the one that was asked for alone.
        labels = self.labels_layout
        known = ", ".join(each for each in labels.label_sets() if labels.label_set(each).manifest.is_file()) or "none"
        what = "no label set was named" if name is None else f"there is no finished label set {name!r}"
        raise RichSemError(
            f"{self.labels_layout.out}: {what}; finished ones: {known}; choose one with --label-set, or as label_set "
            "in a config"
        )

    def text_bank(self, label_set: str) -> TextBank:
        """The text bank of a label set."""
        return read_text_bank(self.labels_layout.label_set(label_set))

    @property
    def originals_root(self) -> Place | None:
        """Where the originals lie that the cache refers to, as its plan says; None where the pictures are its own."""
        root = self.manifest.plan.root
        return open_place(root) if root else None

    def picture_shard(self, number: int) -> PictureShard:
        """A shard of pictures."""
        return PictureShard(self.layout, number)

    def label_shard(self, label_set: str, number: int) -> LabelShard:
        """A shard of the views of a label set."""
        return LabelShard(self.labels_layout.label_set(label_set), number)

    def views(
        self, label_set: str | None = None, *, root: Place | str | os.PathLike[str] | None = None
    ) -> Iterator[RenderedView]:
        """All views of a label set, in the order of the shards, keys and members; a block of pictures in memory.

        Args:
            label_set: its name; None is the only one.
            root: folder or URL where originals lie, for caches that refer to them; None is where the plan says.

        Raises:
            RichSemError: there is no such label set, or originals are not where they were.
            CorruptCacheError: a file is damaged.
        """
        manifest = self.label_set(label_set)
        originals = self.originals_root if root is None else open_place(root)
        for shard in manifest.shards:
            yield from rendered_views(
                self.picture_shard(shard.shard),
                self.label_shard(manifest.name, shard.shard),
                self.manifest.plan,
                manifest.spec,
                root=originals,
            )


def open_cache(
    out: Place | str | os.PathLike[str],
    *,
    only: str | None = None,
    labels_from: Place | str | os.PathLike[str] | None = None,
) -> Cache:
    """Open a finished cache.

    Args:
        out: its folder or URL; one of labels alone leads to the cache that holds the pictures.
        only: leaves out the manifests of all label sets but this one; those of many shards take time and memory.
        labels_from: another folder or URL that holds label sets for the same pictures; they are joined by key.

    Raises:
        RichSemError: there is none, or it isn't finished.
        ManifestMismatchError: the labels were made for another plan, or for other pictures of it; names the fields.
        CorruptCacheError: a manifest is damaged.
    """
    layout = find_layout(open_place(out))
    manifest = _finished(layout)
    if labels_from is not None:
        labels = _labels_elsewhere(layout, manifest, find_layout(open_place(labels_from)))
        return Cache(layout, manifest, _label_sets(labels, only), labels)
    pictures = _elsewhere(manifest, layout)
    return Cache(pictures, manifest, _label_sets(layout, only), None if pictures == layout else layout)


def _finished(layout: CacheLayout) -> CacheManifest:
    if not layout.manifest.is_file():
        raise RichSemError(
            f"{layout.out} is not finished: {layout.manifest} is missing; run the same `richsem-prep shard` again, "
            "or `richsem-prep finish` after runs with --shard-range"
        )
    return CacheManifest.read(layout.manifest)


def _label_sets(layout: CacheLayout, only: str | None) -> dict[str, LabelManifest]:
    sets = {}
    for name in layout.label_sets() if only is None else {only}.intersection(layout.label_sets()):
        path = layout.label_set(name).manifest
        if path.is_file():
            sets[name] = LabelManifest.read(path)
            if sets[name].name != name:
                raise CorruptCacheError(f"{path}: is the manifest of {sets[name].name!r}; put it back where it belongs")
    return sets


def _labels_elsewhere(pictures: CacheLayout, manifest: CacheManifest, labels: CacheLayout) -> CacheLayout:
    """The layout of label sets that lie apart, once they are known to be of these pictures."""
    require_same_plan(labels.plan, Plan.read(labels.plan), manifest.plan)
    if labels.manifest.is_file():
        require_same_pictures(labels.manifest, CacheManifest.read(labels.manifest), manifest, pictures)
    return labels


def require_same_plan(
    path: Place,
    found: Plan,
    wanted: Plan,
    *,
    remedy: str = "Labels belong to the pictures and keys that they were made for: name the cache of that plan",
) -> None:
    """Check that two plans name the same pictures by the same keys.

    Raises:
        ManifestMismatchError: names each field that differs.
    """
    if found.fingerprint != wanted.fingerprint:
        require_same(path, found, wanted, ignore=Plan.not_identifying, remedy=remedy)


def require_same_pictures(path: Place, found: CacheManifest, wanted: CacheManifest, pictures: CacheLayout) -> None:
    """Check that two caches of one plan hold the same pictures: what one could not read, the other may hold.

    Raises:
        ManifestMismatchError: names the first shard that differs.
    """
    for here, there in zip(found.shards, wanted.shards, strict=False):
        if (here.samples, here.tar) != (there.samples, there.tar):
            raise ManifestMismatchError(
                f"{path}: its labels were made for other pictures than {pictures.out} holds: shards.{here.shard}.tar "
                f"has {here.samples} samples ({here.tar.sha256[:12]}…) there, {there.samples} "
                f"({there.tar.sha256[:12]}…) here; make the labels anew from this cache"
            )
