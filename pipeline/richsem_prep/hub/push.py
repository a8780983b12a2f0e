"""`richsem-prep push`: a label set to a dataset repository; its manifest and the card go last."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from richsem_prep.hub.dataset_card import dataset_card
from richsem_prep.hub.hub import HubRepo, Snapshot, Upload
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import LabelManifest, Plan, TextManifest
from richsem_schemas.cache.reader import Cache, open_cache, require_same_plan
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.places import Place, name_below

FILES_AT_ONCE = 192
"""Files that go to the client together: a push that stops goes on after the last of them, and of a cache at a URL so
many are copied to this machine at a time."""

PICTURES_LICENCE = "pictures/LICENCE"
"""Under which licence the pictures of a repository were given away; one line."""

_MAX_LICENCE_BYTES = 2**20


@dataclass(frozen=True)
class Pushed:
    """A push that is done: the label set, its files, those of them that were there already, and their bytes."""

    label_set: str
    files: int
    already: int
    bytes: int


def push(out: Place, repo: HubRepo, *, label_set: str | None, with_pictures: str | None, private: bool) -> Pushed:
    """Upload a finished label set with its plan, and the pictures where a licence allows it.

    The set's manifest and the card go last: a push that stops half way leaves nothing that `pull` would take for a set,
    and the same push again goes on.

    Args:
        out: folder of the cache.
        repo: the dataset repository; made if it isn't there.
        label_set: its name; None is the only one.
        with_pictures: the licence under which the pictures may be given away; None leaves them out.
        private: of a repository that is made now.

    Raises:
        RichSemError: the set isn't finished, pictures can't be given away, or the repository holds something else.
    """
    cache = open_cache(out, only=label_set)
    manifest = cache.label_set(label_set)
    _require_pictures(cache, with_pictures)
    repo.create(private=private)
    with repo.snapshot() as there, TemporaryDirectory(prefix="richsem-push-") as folder:
        _require_same_cache(there, cache.manifest.plan, manifest)
        uploads = [*_common_files(cache, Path(folder)), *_label_files(cache, manifest)]
        uploads += _picture_files(cache, with_pictures) if with_pictures else ()
        missing = [upload for upload in uploads if not _is_there(upload, there)]
        for start in range(0, len(missing), FILES_AT_ONCE):
            part = missing[start : start + FILES_AT_ONCE]
            repo.upload(part, f"Label set {manifest.name}: {part[0].name} and {len(part) - 1} more")
        card = Upload("README.md", _card(there, cache, manifest, with_pictures).encode())
        last = _file(cache.labels_layout.label_set(manifest.name).manifest, cache.labels_layout.out)
        repo.upload([last, card], f"Label set {manifest.name}, whole")
        total = sum(upload.size for upload in uploads)
    return Pushed(manifest.name, len(uploads), len(uploads) - len(missing), total)


def _require_pictures(cache: Cache, licence: str | None) -> None:
    if licence is None:
        return
    if not licence.strip():
        raise RichSemError("--with-pictures needs the licence under which the pictures may be given away")
    if cache.manifest.plan.pictures == "reference":
        raise RichSemError(
            f"{cache.layout.out} refers to its pictures and holds none; make a cache with --pictures copy, or leave "
            "--with-pictures out"
        )
    if cache.labels_elsewhere is not None:
        raise RichSemError(f"{cache.labels_elsewhere.out} holds labels alone; leave --with-pictures out")


def _require_same_cache(there: Snapshot, plan: Plan, manifest: LabelManifest) -> None:
    """Check that what the repository holds, if anything, is of the same plan, and the set of that name the same."""
    names = CacheLayout(Path(), plan.dataset)
    if str(names.plan) in there.files:
        path, found = Path(f"{there.repo.name}/{names.plan}"), there.record(Plan, str(names.plan))
        require_same_plan(path, found, plan, remedy="One repository is for one plan: name another")
    if manifest.name in there.label_sets():
        name = str(names.label_set(manifest.name).manifest)
        spec = there.record(LabelManifest, name).spec
        remedy = "Delete the set in the repository, or push to another"
        require_same(Path(f"{there.repo.name}/{name}"), spec, manifest.spec, remedy=remedy)


def _file(path: Place, out: Place, expected: FileHash | None = None) -> Upload:
    return Upload(name_below(path, out), path, expected)


def _common_files(cache: Cache, folder: Path) -> Iterator[Upload]:
    """Plan, listing and manifest of the cache, without the paths at which somebody's pictures lie."""
    layout, plan = cache.labels_layout, cache.manifest.plan.model_copy(update={"root": None})
    public = CacheLayout(folder, layout.name)
    plan.write(public.plan)
    cache.manifest.model_copy(update={"plan": plan, "pictures_in": None}).write(public.manifest)
    yield _file(public.plan, folder)
    yield _file(public.manifest, folder)
    yield _file(layout.listing, layout.out, plan.listing)
    if plan.listing_quarantine is not None:
        yield _file(layout.listing_quarantine, layout.out, plan.listing_quarantine)


def _label_files(cache: Cache, manifest: LabelManifest) -> Iterator[Upload]:
    out, layout = cache.labels_layout.out, cache.labels_layout.label_set(manifest.name)
    yield _file(layout.spec, out)
    yield _file(layout.text, out, manifest.text)
    yield _file(layout.text_features, out, TextManifest.read(layout.text).features)
    for summary in manifest.shards:
        shard = LabelShard(layout, summary.shard)
        if shard.read_receipt().summary != summary:
            raise CorruptCacheError(f"{shard.receipt} is not what {layout.manifest} says; see `richsem-prep verify`")
        yield _file(shard.tar, out, summary.tar)
        yield _file(shard.index, out, summary.index)
        yield _file(shard.receipt, out)


def _picture_files(cache: Cache, licence: str) -> Iterator[Upload]:
    out = cache.layout.out
    yield Upload(PICTURES_LICENCE, f"{licence.strip()}\n".encode())
    for summary in cache.manifest.shards:
        shard = cache.picture_shard(summary.shard)
        quarantine = shard.read_receipt().quarantine
        yield _file(shard.tar, out, summary.tar)
        yield _file(shard.index, out, summary.index)
        if quarantine is not None:
            yield _file(shard.quarantine, out, quarantine)
        yield _file(shard.receipt, out)


def _is_there(upload: Upload, there: Snapshot) -> bool:
    """Whether the repository is known to have a file; of small ones the hub finds out when they come."""
    found = there.files.get(upload.name)
    return bool(found and found.lfs and upload.expected and found.lfs.sha256 == upload.expected.sha256)


def _card(there: Snapshot, cache: Cache, manifest: LabelManifest, licence: str | None) -> str:
    """The card of what the repository will hold: the sets that are there and this one, pictures of an earlier push."""
    layout = CacheLayout(Path(), cache.manifest.plan.dataset)
    sets = {name: there.record(LabelManifest, str(layout.label_set(name).manifest)) for name in there.label_sets()}
    sets[manifest.name] = manifest
    if licence is None and PICTURES_LICENCE in there.files:
        path = there.fetch(PICTURES_LICENCE, there.folder, limit=_MAX_LICENCE_BYTES)
        licence = path.read_text(errors="replace").strip()
    return dataset_card(there.repo.name, cache.manifest, [sets[name] for name in sorted(sets)], licence=licence)
