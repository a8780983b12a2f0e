"""`richsem-prep pull`: a label set from a dataset repository, every byte against a hash, its manifest last.

Nothing that a repository says becomes a path: files are asked for by the names that they have in a cache, and those
follow from the plan's validated dataset name and from the set's. So the client fetches them one by one: its snapshots
take patterns, and with them whatever else a repository has that matches. So, too, a cache at a URL takes no room here.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub.utils.tqdm import disable_progress_bars

from richsem_prep.hub.hub import HubError, HubRepo, Snapshot
from richsem_prep.shard.finish import finish_cache
from richsem_schemas.cache.jobs import JOBS_FOLDER, hold_job
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import (
    CacheManifest,
    LabelManifest,
    LabelSpec,
    PicturesReceipt,
    Plan,
    ShardReceipt,
    ShardSummary,
    TextManifest,
)
from richsem_schemas.cache.reader import read_plan, require_same_pictures, require_same_plan
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.ordered_map import ordered_map
from richsem_schemas.io.places import Place, RemotePath, name_below

_PLAN = "plan/plan.json"
_SHARDS_AT_ONCE = 8

_ELSEWHERE = "a cache of the same plan"
"""In the place of the pictures' folder where a pull brings none: only their owner knows it."""

OnBytes = Callable[[int, int], None]
"""Told bytes done and bytes in all."""


@dataclass(frozen=True)
class Pulled:
    """A pull that is done.

    Attributes:
        already: shards that were there before.
        has_pictures: whether OUT holds pictures now.
    """

    label_set: str
    shards: int
    already: int
    bytes: int
    has_pictures: bool


def pull(repo: HubRepo, out: Place, *, label_set: str | None, on_progress: OnBytes) -> Pulled:
    """Fetch a label set into a cache of the same plan, or into an empty folder together with its plan.

    Pictures are fetched where the repository has them and OUT has none. A pull that stops half way leaves shards that
    are whole and no manifest; the same pull again goes on from there. Of the label sets None chooses the only one.

    Raises:
        RichSemError: OUT holds something else, or the repository isn't what it says.
    """
    # The client's bars would cross ours.
    disable_progress_bars()
    with repo.snapshot() as there:
        name = _chosen_set(there, label_set)
        plan = there.record(Plan, _PLAN)
        layout = CacheLayout(out, plan.dataset)
        manifest = there.record(LabelManifest, name_below(layout.label_set(name).manifest, out))
        _require_consistent(there, manifest, name, plan)
        _require_usable(out)
        with hold_job(out, None), _folder_of_parts(out) as folder:
            fetch = _Fetch(there, layout, plan, folder)
            _require_same(layout, plan, manifest)
            _require_whole_pictures(layout, fetch.has_pictures)
            fetch.plan_files()
            fetch.text_and_spec(manifest)
            already = fetch.labels(manifest, on_progress)
            fetch.pictures()
            if not layout.manifest.is_file():
                finish_cache(layout, [])
            manifest.write(layout.label_set(name).manifest)
    return Pulled(name, len(manifest.shards), already, manifest.bytes, layout.pictures_tar(0).is_file())


@contextmanager
def _folder_of_parts(out: Place) -> Iterator[Path]:
    """Where files are until they are whole: on the disk of OUT, that they can be moved."""
    if isinstance(out, RemotePath):
        with TemporaryDirectory(prefix="richsem-pull-") as temporary:
            yield Path(temporary)
        return
    folder = out / JOBS_FOLDER / "pull"
    # A pull that was killed left parts of files, with which the client doesn't go on.
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _chosen_set(there: Snapshot, label_set: str | None) -> str:
    known = there.label_sets()
    if label_set is None and len(known) == 1:
        return known[0]
    if label_set in known:
        return label_set
    what = "no label set was named" if label_set is None else f"there is no finished label set {label_set!r}"
    raise RichSemError(
        f"{there.repo.name}: {what}; finished ones: {', '.join(known) or 'none'}; choose one with --label-set"
    )


def _require_consistent(there: Snapshot, manifest: LabelManifest, name: str, plan: Plan) -> None:
    complaints = {
        f"is the manifest of {manifest.name!r}": manifest.name != name,
        "was made for another plan": manifest.spec.plan_fingerprint != plan.fingerprint,
        "has not the fingerprint of its spec": manifest.fingerprint != manifest.spec.fingerprint,
        f"has not the {plan.shards} shards of the plan, in order": not _are_all(manifest.shards, plan),
        "counts other bytes than its shards": manifest.bytes != sum(item.tar.bytes for item in manifest.shards),
    }
    for complaint, is_so in complaints.items():
        if is_so:
            raise CorruptCacheError(f"{there.repo.name}/labels/{name}/manifest.json {complaint}; push the set again")


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
    with suppress(FileNotFoundError):
        own = Plan.read(layout.plan)
        require_same_plan(layout.plan, own, plan, remedy="Name another OUT, or make the same cache")
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


def _is_there(shard: LabelShard, summary: ShardSummary) -> bool:
    """Whether a shard of labels is there with the receipt that a pull writes last."""
    try:
        shard.require_sizes(summary)
        return shard.read_receipt().summary == summary
    except (FileNotFoundError, CorruptCacheError):
        return False


_Wanted = tuple[PictureShard | LabelShard, ShardSummary, str]
"""A shard, what its manifest says of it, and the fingerprint of its plan or spec."""


@dataclass(frozen=True)
class _Fetch:
    """Fetches the parts of a cache, each whole or not at all.

    Attributes:
        there: the repository at one commit, for the whole pull.
        layout: where to; files have the same names there.
        folder: of what isn't whole yet.
    """

    there: Snapshot
    layout: CacheLayout
    plan: Plan
    folder: Path

    @cached_property
    def has_pictures(self) -> bool:
        """Whether the repository has them; a shard's receipt is the last of its files to be pushed."""
        receipts = map(self.layout.pictures_receipt, range(self.plan.shards))
        return all(self._name(receipt) in self.there.files for receipt in receipts)

    def plan_files(self) -> None:
        """The listing and then the plan, unless they are there; and whether pictures go with them."""
        layout, plan, manifest = self.layout, self.plan, self._manifest()
        if layout.manifest.is_file():
            path = Path(f"{self.there.repo.name}/{self._name(layout.manifest)}")
            require_same_pictures(path, manifest, CacheManifest.read(layout.manifest), layout)
        if layout.plan.is_file():
            return
        self._take(layout.listing, plan.listing)
        self._take(layout.listing_quarantine, plan.listing_quarantine)
        if not self.has_pictures:
            manifest.model_copy(update={"pictures_in": _ELSEWHERE}).write(layout.pictures_elsewhere)
        plan.write(layout.plan)

    def text_and_spec(self, manifest: LabelManifest) -> None:
        """The text bank and then the spec, after which the set counts as begun."""
        layout = self.layout.label_set(manifest.name)
        text = self.there.record(TextManifest, self._name(layout.text))
        self._take(layout.text_features, text.features)
        self._take(layout.text, manifest.text)
        manifest.spec.write(layout.spec)

    def labels(self, manifest: LabelManifest, on_progress: OnBytes) -> int:
        """The shards of labels that OUT lacks; the number of those that it has."""
        layout = self.layout.label_set(manifest.name)
        missing = [summary for summary in manifest.shards if not _is_there(LabelShard(layout, summary.shard), summary)]
        if missing:
            # Until all are there nobody takes the set, nor an older one whose shards give way.
            layout.manifest.unlink(missing_ok=True)
        done = manifest.bytes - sum(summary.tar.bytes for summary in missing)
        wanted = [(LabelShard(layout, summary.shard), summary, manifest.fingerprint) for summary in missing]
        for summary in self._shards(wanted):
            done += summary.tar.bytes
            on_progress(done, manifest.bytes)
        return len(manifest.shards) - len(missing)

    def pictures(self) -> None:
        """The shards of pictures that OUT lacks; none for labels alone."""
        if not self.has_pictures or self.layout.pictures_elsewhere.is_file():
            return
        shards = [(PictureShard(self.layout, summary.shard), summary) for summary in self._manifest().shards]
        wanted = [(shard, said, self.plan.fingerprint) for shard, said in shards if not shard.receipt.is_file()]
        for _ in self._shards(wanted):
            pass

    def _shards(self, wanted: Sequence[_Wanted]) -> Iterator[ShardSummary]:
        """Fetch shards, several at a time; what their manifest says of those that are there, in order."""
        with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
            yield from ordered_map(pool, self._shard, wanted, ahead=_SHARDS_AT_ONCE)

    def _shard(self, wanted: _Wanted) -> ShardSummary:
        shard, summary, fingerprint = wanted
        name = self._name(shard.receipt)
        receipt: ShardReceipt = self.there.record(shard.receipt_type, name)
        if receipt.summary != summary or receipt.fingerprint != fingerprint:
            raise HubError(f"{self.there.repo.name}: {name} is not what its manifest says; push it again")
        self._take(shard.tar, summary.tar)
        self._take(shard.index, summary.index)
        if isinstance(shard, PictureShard) and isinstance(receipt, PicturesReceipt):
            self._take(shard.quarantine, receipt.quarantine)
        # Last: it says that the others are there.
        receipt.write(shard.receipt)
        return summary

    def _manifest(self) -> CacheManifest:
        name = self._name(self.layout.manifest)
        manifest = self.there.record(CacheManifest, name)
        if manifest.plan.fingerprint != self.plan.fingerprint or not _are_all(manifest.shards, self.plan):
            raise CorruptCacheError(f"{self.there.repo.name}/{name} is of another plan; push the set again")
        return manifest

    def _name(self, path: Place) -> str:
        return name_below(path, self.layout.out)

    def _take(self, path: Place, expected: FileHash | None) -> None:
        if expected is not None:
            self.there.take(self._name(path), path, expected, self.folder)
