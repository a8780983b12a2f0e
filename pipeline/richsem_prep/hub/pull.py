"""`richsem-prep pull`: a label set from a dataset repository, every byte against a hash, its manifest last.

Nothing that a repository says becomes a path: files are asked for by the names that they have in a cache, and those
follow from the plan's validated dataset name and from the set's.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from richsem_prep.hub.hub import HubError, HubRepo, RemoteFile, label_manifests
from richsem_prep.shard.finish import finish_cache
from richsem_schemas.cache.jobs import JOBS_FOLDER, hold_job
from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout, check_set_name
from richsem_schemas.cache.manifest import (
    CacheManifest,
    LabelManifest,
    LabelSpec,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    ShardSummary,
    TextManifest,
)
from richsem_schemas.cache.reader import read_plan, require_same_pictures
from richsem_schemas.cache.record import require_same
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash, hash_bytes, write_atomically
from richsem_schemas.io.places import Place

_PLAN = "plan/plan.json"

_ELSEWHERE = "a cache of the same plan"
"""What stands for the place of the pictures where a pull brings none: only their owner knows it."""

OnBytes = Callable[[int, int], None]
"""Told bytes done and bytes in all."""


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Attributes:
        labels: the set.
        shards: of labels.
        already: shards that were there before.
        bytes: of the set.
        has_pictures: whether OUT holds pictures now.
    """

    labels: str
    shards: int
    already: int
    bytes: int
    has_pictures: bool


def pull(repo: HubRepo, out: Place, *, labels: str | None, on_progress: OnBytes) -> Pulled:
    """Fetch a label set into a cache of the same plan, or into an empty folder together with its plan.

    Pictures are fetched where the repository has them and OUT has none. A pull that stops half way leaves shards that
    are whole and no manifest; the same pull again fetches what is missing.

    Args:
        repo: the dataset repository.
        out: folder of the cache.
        labels: name of the set; None is the only one.
        on_progress: told how far the download is.

    Raises:
        RichSemError: OUT holds something else, or the repository isn't what it says.
    """
    revision = repo.revision()
    there = repo.files(revision)
    name = _chosen_set(repo, there, labels)
    plan = repo.record(Plan, _PLAN, revision)
    names = CacheLayout(Path(), plan.dataset)
    layout = CacheLayout(out, plan.dataset)
    manifest = repo.record(LabelManifest, str(names.label_set(name).manifest), revision)
    _require_consistent(repo, manifest, name, plan)
    _require_usable(out)
    # A shard's receipt is the last of its files to be pushed.
    has_pictures = all(str(names.pictures_receipt(shard)) in there for shard in range(plan.shards))
    with hold_job(out, None):
        _require_same(layout, plan, manifest)
        _require_whole_pictures(layout, has_pictures)
        fetch = _Fetch(repo, revision, names, layout, plan, has_pictures)
        fetch.plan_files()
        fetch.text_and_spec(manifest)
        missing = [summary for summary in manifest.shards if not _has_labels(layout.label_set(name), summary)]
        if missing:
            # Until all are there nobody takes the set, nor an older one whose shards give way.
            layout.label_set(name).manifest.unlink(missing_ok=True)
        done = manifest.bytes - sum(summary.tar.bytes for summary in missing)
        for summary in missing:
            fetch.labels(manifest, summary)
            done += summary.tar.bytes
            on_progress(done, manifest.bytes)
        fetch.pictures()
        fetch.cache_manifest()
        manifest.write(layout.label_set(name).manifest)
    already = len(manifest.shards) - len(missing)
    return Pulled(name, len(manifest.shards), already, manifest.bytes, layout.pictures_tar(0).is_file())


def _chosen_set(repo: HubRepo, there: Mapping[str, RemoteFile], labels: str | None) -> str:
    known = [path.split("/")[1] for path in label_manifests(there)]
    if labels is None and len(known) == 1:
        return known[0]
    if labels is not None and labels in known:
        return check_set_name(labels)
    what = "no label set was named" if labels is None else f"there is no finished label set {labels!r}"
    raise RichSemError(f"{repo.name}: {what}; finished ones: {', '.join(known) or 'none'}; choose one with --label-set")


def _require_consistent(repo: HubRepo, manifest: LabelManifest, name: str, plan: Plan) -> None:
    """Check that plan and manifest of a repository speak of each other."""
    complaints = {
        f"is the manifest of {manifest.name!r}": manifest.name != name,
        "was made for another plan": manifest.spec.plan_fingerprint != plan.fingerprint,
        "has not the fingerprint of its spec": manifest.fingerprint != manifest.spec.fingerprint,
        f"has not the {plan.shards} shards of the plan, in order": not _are_all(manifest.shards, plan),
        "counts other bytes than its shards": manifest.bytes != sum(item.tar.bytes for item in manifest.shards),
    }
    for complaint, is_so in complaints.items():
        if is_so:
            raise CorruptCacheError(f"{repo.name}/labels/{name}/manifest.json {complaint}; push the set again")


def _are_all(shards: tuple[ShardSummary, ...], plan: Plan) -> bool:
    return len(shards) == plan.shards and all(number == item.shard for number, item in enumerate(shards))


def _require_usable(out: Place) -> None:
    if out.exists() and not out.is_dir():
        raise RichSemError(f"{out} is no folder; name one")
    if not out.is_dir() or (out / "plan").is_dir():
        return
    strangers = sorted(path.name for path in out.iterdir() if path.name != JOBS_FOLDER)
    if strangers:
        raise RichSemError(
            f"{out} holds other things ({', '.join(strangers[:5])}) and no cache; name a new folder, or a cache"
        )


def _require_same(layout: CacheLayout, plan: Plan, manifest: LabelManifest) -> None:
    """Check that OUT has the same plan, if any, and the same label set, if any.

    Raises:
        ManifestMismatchError: names the fields that differ.
    """
    with suppress(FileNotFoundError):
        own = Plan.read(layout.plan)
        if own.fingerprint != plan.fingerprint:
            require_same(
                layout.plan, own, plan, ignore=Plan.not_identifying, remedy="Name another OUT, or make the same cache"
            )
        # Its listing, too.
        read_plan(layout)
    with suppress(FileNotFoundError):
        spec = LabelSpec.read(layout.label_set(manifest.name).spec)
        remedy = "Remove that set, or pull into another OUT"
        require_same(layout.label_set(manifest.name).spec, spec, manifest.spec, remedy=remedy)


def _require_whole_pictures(layout: CacheLayout, will_come: bool) -> None:
    """Check that OUT has all of its pictures, or none, unless the missing ones are fetched."""
    receipts = layout.pictures_receipt(0).parent
    has_some = receipts.is_dir() and any(path.suffix == ".json" for path in receipts.iterdir())
    if has_some and not will_come and not layout.manifest.is_file():
        raise RichSemError(
            f"{layout.out} is not finished: {layout.manifest} is missing; run the same `richsem-prep shard` again, or "
            "`richsem-prep finish` after runs with --shard-range, then pull"
        )


def _has_labels(labels: LabelSetLayout, summary: ShardSummary) -> bool:
    """Whether a shard of labels is there with the receipt that a pull writes last."""
    try:
        return (
            LabelsReceipt.read(labels.receipt(summary.shard)).summary == summary
            and labels.tar(summary.shard).stat().st_size == summary.tar.bytes
            and labels.index(summary.shard).stat().st_size == summary.index.bytes
        )
    except (FileNotFoundError, CorruptCacheError):
        return False


@dataclass(frozen=True)
class _Fetch:
    """Fetches the parts of a cache, each whole or not at all.

    Attributes:
        repo: where from.
        revision: the commit; one for the whole pull.
        names: of files in the repository, as relative paths.
        layout: where to.
        plan: of the repository.
        has_pictures: whether the repository has them.
    """

    repo: HubRepo
    revision: str
    names: CacheLayout
    layout: CacheLayout
    plan: Plan
    has_pictures: bool

    def plan_files(self) -> None:
        """The listing and then the plan, unless they are there; and whether pictures go with them."""
        manifest = self._remote_manifest()
        if self.layout.manifest.is_file():
            path = Path(f"{self.repo.name}/{self.names.manifest}")
            require_same_pictures(path, manifest, CacheManifest.read(self.layout.manifest), self.layout)
        if self.layout.plan.is_file():
            return
        self._file(self.names.listing, self.layout.listing, self.plan.listing)
        if self.plan.listing_quarantine is not None:
            here = self.layout.listing_quarantine
            self._file(self.names.listing_quarantine, here, self.plan.listing_quarantine)
        if not self.has_pictures:
            manifest.model_copy(update={"pictures_in": _ELSEWHERE}).write(self.layout.pictures_elsewhere)
        self.plan.write(self.layout.plan)

    def text_and_spec(self, manifest: LabelManifest) -> None:
        """The text bank and then the spec, after which the set counts as begun."""
        names, layout = self.names.label_set(manifest.name), self.layout.label_set(manifest.name)
        data = self.repo.read(str(names.text), self.revision)
        if hash_bytes(data) != manifest.text:
            raise HubError(f"{self.repo.name}: {names.text} is not what its manifest names; push the set again")
        text = self.repo.record(TextManifest, str(names.text), self.revision)
        self._file(names.text_features, layout.text_features, text.features)
        write_atomically(layout.text, data)
        manifest.spec.write(layout.spec)

    def labels(self, manifest: LabelManifest, summary: ShardSummary) -> None:
        """One shard of labels, its receipt last."""
        names, layout = self.names.label_set(manifest.name), self.layout.label_set(manifest.name)
        path = str(names.receipt(summary.shard))
        receipt = self.repo.record(LabelsReceipt, path, self.revision)
        if receipt.summary != summary or receipt.spec_fingerprint != manifest.fingerprint:
            raise HubError(f"{self.repo.name}: {path} is not what the manifest of {manifest.name} says; push it again")
        self._file(names.tar(summary.shard), layout.tar(summary.shard), summary.tar)
        self._file(names.index(summary.shard), layout.index(summary.shard), summary.index)
        receipt.write(layout.receipt(summary.shard))

    def pictures(self) -> None:
        """Every shard of pictures that OUT lacks, each with its receipt last; none for labels alone."""
        if not self.has_pictures or self.layout.pictures_elsewhere.is_file():
            return
        for summary in self._remote_manifest().shards:
            shard = summary.shard
            if self.layout.pictures_receipt(shard).is_file():
                continue
            path = str(self.names.pictures_receipt(shard))
            receipt = self.repo.record(PicturesReceipt, path, self.revision)
            if receipt.summary != summary or receipt.plan_fingerprint != self.plan.fingerprint:
                raise HubError(f"{self.repo.name}: {path} is not what its manifest.json says; push it again")
            self._file(self.names.pictures_tar(shard), self.layout.pictures_tar(shard), summary.tar)
            self._file(self.names.pictures_index(shard), self.layout.pictures_index(shard), summary.index)
            if receipt.quarantine is not None:
                self._file(self.names.quarantine(shard), self.layout.quarantine(shard), receipt.quarantine)
            receipt.write(self.layout.pictures_receipt(shard))

    def cache_manifest(self) -> None:
        """The manifest of the cache, unless it is there."""
        if self.layout.manifest.is_file():
            return
        if self.layout.pictures_elsewhere.is_file():
            CacheManifest.read(self.layout.pictures_elsewhere).write(self.layout.manifest)
        else:
            finish_cache(self.layout, [])

    def _remote_manifest(self) -> CacheManifest:
        name = str(self.names.manifest)
        manifest = self.repo.record(CacheManifest, name, self.revision)
        if manifest.plan.fingerprint != self.plan.fingerprint or not _are_all(manifest.shards, self.plan):
            raise CorruptCacheError(f"{self.repo.name}/{name} is of another plan; push the set again")
        return manifest

    def _file(self, name: Place, to: Place, expected: FileHash) -> None:
        self.repo.fetch(str(name), self.revision, to, expected)
