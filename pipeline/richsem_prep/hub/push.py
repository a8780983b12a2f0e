"""`richsem-prep push`: a label set to a dataset repository; its manifest and the card go last."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from richsem_prep.hub.dataset_card import dataset_card
from richsem_prep.hub.hub import HubRepo, RemoteFile, Upload, label_manifests
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import (
    LabelManifest,
    LabelsReceipt,
    PicturesReceipt,
    Plan,
    TextManifest,
)
from richsem_schemas.cache.reader import Cache, open_cache
from richsem_schemas.cache.record import require_same
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import FileHash
from richsem_schemas.io.places import Place, name_below

BATCH_FILES = 64
BATCH_BYTES = 2**30
"""What one commit holds at most, unless one file is larger."""

PICTURES_LICENCE = "pictures/LICENCE"
"""Under which licence the pictures of a repository were given away; one line."""


@dataclass(frozen=True)
class Pushed:
    """What a push did: the label set, its files, those of them that were there already, and their bytes."""

    labels: str
    files: int
    already: int
    bytes: int


def push(
    out: Place,
    repo: HubRepo,
    *,
    labels: str | None,
    with_pictures: str | None,
    private: bool,
) -> Pushed:
    """Upload a finished label set with its plan, and the pictures where a licence allows it.

    Files go in batches, the set's manifest and the card in the last commit: a push that stops half way leaves nothing
    that `pull` would take for a set, and the same push again goes on.

    Args:
        out: folder of the cache.
        repo: the dataset repository; made if it isn't there.
        labels: name of the set; None is the only one.
        with_pictures: the licence under which the pictures may be given away; None leaves them out.
        private: of a repository that is made now.

    Raises:
        RichSemError: the set isn't finished, pictures can't be given away, or the repository holds something else.
    """
    cache = open_cache(out, only=labels)
    manifest = cache.label_set(labels)
    _require_pictures(cache, with_pictures)
    repo.create(private=private)
    revision = repo.revision()
    there = repo.files(revision)
    _require_same_cache(cache.manifest.plan, manifest, repo, revision, there)
    with TemporaryDirectory(prefix="richsem-push-") as folder:
        uploads = [*_common_files(cache, Path(folder)), *_label_files(cache, manifest)]
        uploads += _picture_files(cache, with_pictures) if with_pictures else ()
        missing = [upload for upload in uploads if not _is_there(upload, there)]
        for batch in _batches(missing):
            repo.commit(batch, f"Label set {manifest.name}: {batch[0].name} and {len(batch) - 1} more")
        total = sum(map(_size, uploads))
    licence = with_pictures or _licence_there(repo, revision, there)
    others = [repo.record(LabelManifest, path, revision) for path in label_manifests(there)]
    sets = {item.name: item for item in [*others, manifest]}
    card = dataset_card(repo.name, cache.manifest, [sets[name] for name in sorted(sets)], licence=licence)
    last = _file(cache.labels_layout.label_set(manifest.name).manifest, cache.labels_layout.out)
    repo.commit([last, Upload("README.md", card.encode())], f"Label set {manifest.name}, whole")
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


def _require_same_cache(
    plan: Plan, manifest: LabelManifest, repo: HubRepo, revision: str, there: Mapping[str, RemoteFile]
) -> None:
    """Check that what the repository holds, if anything, is of the same plan, and the set of that name the same.

    Raises:
        ManifestMismatchError: names the fields that differ.
    """
    names = CacheLayout(Path(), plan.dataset)
    if str(names.plan) in there:
        found = repo.record(Plan, str(names.plan), revision)
        if found.fingerprint != plan.fingerprint:
            remedy = "One repository is for one plan: name another"
            require_same(Path(f"{repo.name}/{names.plan}"), found, plan, ignore=Plan.not_identifying, remedy=remedy)
    path = names.label_set(manifest.name).manifest
    if str(path) in there:
        spec = repo.record(LabelManifest, str(path), revision).spec
        remedy = "Delete the set in the repository, or push to another"
        require_same(Path(f"{repo.name}/{path}"), spec, manifest.spec, remedy=remedy)


def _file(path: Place, out: Place, expected: FileHash | None = None) -> Upload:
    """A file of the cache under the name that it has there."""
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
    """Everything of a label set but its manifest."""
    out, layout = cache.labels_layout.out, cache.labels_layout.label_set(manifest.name)
    yield _file(layout.spec, out)
    yield _file(layout.text, out, manifest.text)
    yield _file(layout.text_features, out, TextManifest.read(layout.text).features)
    for summary in manifest.shards:
        receipt = layout.receipt(summary.shard)
        if LabelsReceipt.read(receipt).summary != summary:
            raise CorruptCacheError(f"{receipt} is not what {layout.manifest} says; see `richsem-prep verify`")
        yield _file(layout.tar(summary.shard), out, summary.tar)
        yield _file(layout.index(summary.shard), out, summary.index)
        yield _file(receipt, out)


def _picture_files(cache: Cache, licence: str) -> Iterator[Upload]:
    layout, out = cache.layout, cache.layout.out
    yield Upload(PICTURES_LICENCE, f"{licence.strip()}\n".encode())
    for summary in cache.manifest.shards:
        shard, receipt = summary.shard, PicturesReceipt.read(layout.pictures_receipt(summary.shard))
        yield _file(layout.pictures_tar(shard), out, summary.tar)
        yield _file(layout.pictures_index(shard), out, summary.index)
        if receipt.quarantine is not None:
            yield _file(layout.quarantine(shard), out, receipt.quarantine)
        yield _file(layout.pictures_receipt(shard), out)


def _size(upload: Upload) -> int:
    if upload.expected is not None:
        return upload.expected.bytes
    return len(upload.content) if isinstance(upload.content, bytes) else upload.content.stat().st_size


def _is_there(upload: Upload, there: Mapping[str, RemoteFile]) -> bool:
    """Whether the repository is known to have a file; of small ones the hub finds out when they come."""
    found = there.get(upload.name)
    return found is not None and upload.expected is not None and found.sha256 == upload.expected.sha256


def _batches(uploads: Iterable[Upload]) -> Iterator[list[Upload]]:
    batch: list[Upload] = []
    for upload in uploads:
        if batch and (len(batch) == BATCH_FILES or sum(map(_size, [*batch, upload])) > BATCH_BYTES):
            yield batch
            batch = []
        batch.append(upload)
    if batch:
        yield batch


def _licence_there(repo: HubRepo, revision: str, there: Mapping[str, RemoteFile]) -> str | None:
    """The licence of pictures that an earlier push brought."""
    if PICTURES_LICENCE not in there:
        return None
    return repo.read(PICTURES_LICENCE, revision).decode(errors="replace").strip()
