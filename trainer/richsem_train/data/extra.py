"""The extra data: a cache opened for training, and its views as samples."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.layout import BLOCK_SAMPLES
from richsem_schemas.manifest import CacheManifest, FileHash, LabelManifest, Plan, ShardSummary, ViewsSpec
from richsem_schemas.reader import Cache, open_cache
from richsem_schemas.render import render_view
from richsem_schemas.text_bank import TextBank
from richsem_schemas.view import ViewKind
from richsem_train.config import Supervision
from richsem_train.data.cache_views import DamagedViewError, ReadView, ShardFiles, ViewReader, ViewSource
from richsem_train.data.collate import Sample
from richsem_train.data.free_mosaics import CROPS_PER_MOSAIC, MOSAIC_STREAM, free_mosaic, require_whole_crop
from richsem_train.data.lanes import LaneOrder, ViewPlace
from richsem_train.data.soft_labels import LabelForm, check_teachable, view_target

ViewForm = Literal["mosaics", "crops", "free-mosaics"]
OnDamage = Literal["stop", "skip"]

BLOCK_BYTES = 512 * 2**20
"""Most bytes of blocks that a worker keeps; 64 lanes of ImageNet pictures take 450 MiB."""

_KINDS: dict[ViewForm, ViewKind] = {"mosaics": "mosaic", "crops": "crop", "free-mosaics": "crop"}


@dataclass(frozen=True)
class ExpectedCache:
    """What a run needs a label set to be; None is anything.

    Attributes:
        views: which ones are shown.
        labels: what is learnt of them.
        supervision: of their classes.
        class_names: rows of the detection vocabulary.
        text: the bank that the model's classifier has.
        teacher: its name.
        teacher_weights: their SHA-256.
        top_k: classes kept in a label.
        fingerprint: of the whole label set, such as a checkpoint remembers it.
    """

    views: ViewForm = "mosaics"
    labels: LabelForm = "embedding"
    supervision: Supervision = "labelled"
    class_names: tuple[str, ...] | None = None
    text: TextBank | None = None
    teacher: str | None = None
    teacher_weights: str | None = None
    top_k: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, eq=False)
class ExtraCache:
    """A cache that fits.

    Attributes:
        source: where its views are read from.
        expected: what it was checked against.
        text: its text bank.
        fingerprint: of the label set.
    """

    source: ViewSource
    expected: ExpectedCache
    text: TextBank
    fingerprint: str

    @property
    def views_per_pass(self) -> int:
        """How many views a pass has."""
        return int(self.source.files.pass_views.sum())

    @property
    def blocks(self) -> int:
        """How many blocks there are, at most."""
        return int((-(-self.source.files.samples // BLOCK_SAMPLES)).sum())

    @property
    def mean_block_bytes(self) -> float:
        """Bytes of pictures in a block, on average."""
        return float(self.source.files.sizes["pictures"].sum()) / max(self.blocks, 1)


def open_extra(
    out: Path, *, label_set: str | None = None, expected: ExpectedCache, root: Path | None = None
) -> ExtraCache:
    """Open a cache for training and refuse it where it doesn't fit.

    Reads the manifests and the text bank, no shard and no index, so it takes the same time for any number of pictures
    a shard.

    Args:
        out: the cache's folder.
        label_set: its name; None where there is one only.
        expected: what the run needs.
        root: where the originals lie, for a cache that refers to them; None is where they lay when it was made.

    Raises:
        ManifestMismatchError: it is another cache than the run needs; names every field that differs.
        CorruptCacheError: its manifests contradict each other.
        RichSemError: there is no such cache or label set, or it isn't finished.
    """
    check_teachable(expected.labels, expected.supervision)
    cache = open_cache(out, only=label_set)
    labels = cache.label_set(label_set)
    path = cache.layout.label_set(labels.name).manifest
    _check_manifests(path, cache.manifest, labels)
    text = _read_text(cache, labels)
    problems = list(_mismatches(cache.manifest.plan, labels, text, expected))
    if problems:
        raise ManifestMismatchError(
            f"{path} doesn't fit this run: {'; '.join(problems)}. Choose another cache or label set "
            "(extra.cache, extra.label_set), change the config, or make the labels with `richsem-prep shard`"
        )
    files = _shard_files(path, cache.manifest, labels, _KINDS[expected.views])
    if not int(files.pass_views.sum()):
        raise RichSemError(f"{out}: holds no pictures, all were left out; see its quarantine folder")
    source = ViewSource(
        layout=cache.layout,
        labels=labels.name,
        kind=_KINDS[expected.views],
        passes=_passes(labels.spec.views, _KINDS[expected.views]),
        plan=cache.manifest.plan,
        spec=labels.spec,
        files=files,
        root=_find_root(cache, root),
    )
    return ExtraCache(source, expected, text, labels.fingerprint)


def _passes(views: ViewsSpec, kind: ViewKind) -> int:
    return {"crop": views.crops, "mosaic": views.mosaics, "window": views.windows}[kind]


def _check_manifests(path: Path, cache: CacheManifest, labels: LabelManifest) -> None:
    """Pictures and labels belong together, shard by shard."""
    plan, spec = cache.plan, labels.spec
    numbers = list(range(plan.shards))
    contradictions = {
        "the plan's fingerprint": (cache.fingerprint, plan.fingerprint),
        "the label set's fingerprint": (labels.fingerprint, spec.fingerprint),
        "the plan of its labels": (spec.plan_fingerprint, plan.fingerprint),
        "the shards of pictures": ([summary.shard for summary in cache.shards], numbers),
        "the shards of labels": ([summary.shard for summary in labels.shards], numbers),
        "the samples of its shards": (
            [summary.samples for summary in labels.shards], [summary.samples for summary in cache.shards]
        ),
    }  # fmt: skip
    wrong = [what for what, (found, wanted) in contradictions.items() if found != wanted]
    if wrong:
        raise CorruptCacheError(f"{path}: {', '.join(wrong)} don't match the rest; make the label set anew")


def _read_text(cache: Cache, labels: LabelManifest) -> TextBank:
    layout = cache.layout.label_set(labels.name)
    try:
        bank = cache.text_bank(labels.name)
    except FileNotFoundError as error:
        raise CorruptCacheError(f"{error.filename} is missing; restore it, or make the label set anew") from None
    if len(bank.class_names) != labels.spec.text.classes or bank.features.shape[1] != labels.spec.teacher.embed_dim:
        raise CorruptCacheError(f"{layout.text}: not the text bank of {layout.manifest}; make the label set anew")
    return bank


def _mismatches(plan: Plan, labels: LabelManifest, text: TextBank, expected: ExpectedCache) -> Iterator[str]:
    """One sentence for each field that differs."""
    spec = labels.spec
    for field, found, wanted in (
        ("teacher.name", spec.teacher.name, expected.teacher),
        ("teacher.weights_sha256", spec.teacher.weights_sha256, expected.teacher_weights),
        ("top_k", spec.top_k, expected.top_k),
        ("fingerprint", labels.fingerprint, expected.fingerprint),
    ):
        if wanted is not None and found != wanted:
            yield f"{field} is {found!r} there, {wanted!r} here"
    if expected.labels == "embedding" and spec.embeddings == "none":
        yield "embeddings is 'none' there, extra.labels=embedding needs them; extra.labels=topk does without"
    kind = _KINDS[expected.views]
    if not _passes(spec.views, kind):
        yield f"views.{kind}s is 0 there, extra.views={expected.views} needs a pass of them"
    if expected.class_names is not None:
        yield from _name_mismatch("text.class_names", text.class_names, expected.class_names)
    if expected.supervision == "labelled":
        yield from _name_mismatch(
            "plan.vocabulary.class_names", plan.vocabulary.class_names, expected.class_names or text.class_names
        )
    if expected.text is not None:
        yield from _text_mismatches(text, expected.text)


def _name_mismatch(field: str, found: tuple[str, ...], wanted: tuple[str, ...]) -> Iterator[str]:
    if found == wanted:
        return
    row = next(
        (row for row, (one, other) in enumerate(zip(found, wanted, strict=False)) if one != other),
        min(len(found), len(wanted)),
    )
    there, here = (repr(names[row]) if row < len(names) else "nothing" for names in (found, wanted))
    yield f"{field} has {len(found)} names there, {len(wanted)} here, first differing in row {row}: {there}, {here}"


def _text_mismatches(found: TextBank, wanted: TextBank) -> Iterator[str]:
    yield from _name_mismatch("text.prompted_names", found.prompted_names, wanted.prompted_names)
    if found.templates != wanted.templates:
        yield f"text.templates are {len(found.templates)} there, {len(wanted.templates)} others here"
    if found.logit_scale != wanted.logit_scale:
        yield f"text.logit_scale is {found.logit_scale!r} there, {wanted.logit_scale!r} here"
    if not np.array_equal(found.features, wanted.features):
        yield "text.features are others there than the model's"


def _find_root(cache: Cache, root: Path | None) -> Path | None:
    plan = cache.manifest.plan
    if plan.pictures == "copy":
        return None
    found = root or (Path(plan.root) if plan.root else None)
    if found is None or not found.is_dir():
        where = "which is not known" if found is None else f"{found} is no folder"
        raise RichSemError(
            f"{cache.layout.out} refers to pictures outside of it (pictures=reference): {where}; say where they lie "
            "with extra.root"
        )
    return found


def _shard_files(path: Path, cache: CacheManifest, labels: LabelManifest, kind: ViewKind) -> ShardFiles:
    samples = np.array([summary.samples for summary in cache.shards], np.int64)
    files: dict[str, list[FileHash]] = {
        "pictures": [summary.tar for summary in cache.shards],
        "pictures_index": [summary.index for summary in cache.shards],
        "labels": [summary.tar for summary in labels.shards],
        "labels_index": [summary.index for summary in labels.shards],
    }
    return ShardFiles(
        samples,
        _pass_views(path, samples, labels.shards, labels.spec.views, kind),
        {family: _digests(hashes) for family, hashes in files.items()},
        {family: np.array([item.bytes for item in hashes], np.int64) for family, hashes in files.items()},
    )


def _digests(hashes: list[FileHash]) -> NDArray[np.uint8]:
    joined = b"".join(bytes.fromhex(item.sha256) for item in hashes)
    return np.frombuffer(joined, np.uint8).reshape(-1, 32)


def _pass_views(
    path: Path, samples: NDArray[np.int64], shards: Iterable[ShardSummary], views: ViewsSpec, kind: ViewKind
) -> NDArray[np.int64]:
    """How many views of a kind one pass has in each shard, without opening an index.

    A pass of crops or windows has a view a sample. Mosaics depend on how many pictures each block has left, but every
    pass has the same number, so it is what the others leave of the total. Readers check it against the indexes.

    Raises:
        CorruptCacheError: the total doesn't come out even.
    """
    if kind != "mosaic":
        return samples
    total = np.array([summary.views for summary in shards], np.int64)
    mosaics, rest = np.divmod(total - (views.crops + views.windows) * samples, views.mosaics)
    wrong = (rest != 0) | (mosaics < -(-samples // CROPS_PER_MOSAIC)) | (mosaics > samples)
    if wrong.any():
        shard = int(np.argmax(wrong))
        raise CorruptCacheError(
            f"{path}: shard {shard} has {total[shard]} views of {samples[shard]} samples, which {views.crops} passes "
            f"of crops and {views.mosaics} of mosaics can't make; make the label set anew"
        )
    return np.asarray(mosaics)


class ExtraDataset(Dataset[Sample]):
    """Views of a cache as samples, by their counter over the whole run.

    What a sample shows is a function of the seed and the counter, whoever asks for it and whenever; where the cache is
    damaged and `on_damage` is "skip", of the damage as well.

    Args:
        cache: an opened one.
        seed: of the run.
        lanes: blocks that samples are drawn from in turn.
        on_damage: "stop" raises, "skip" takes another view and says so.
        world_size: ranks; each keeps the blocks of its own lanes.
        block_bytes: most bytes of blocks that a worker keeps.
    """

    def __init__(
        self,
        cache: ExtraCache,
        *,
        seed: int,
        lanes: int = 64,
        on_damage: OnDamage = "stop",
        world_size: int = 1,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.cache = cache
        self._is_free = cache.expected.views == "free-mosaics"
        self.order = LaneOrder(
            cache.source.files.pass_views, cache.source.passes, lanes, seed, CROPS_PER_MOSAIC if self._is_free else 1
        )
        self._seed = seed
        self._on_damage = on_damage
        lanes_held = -(-lanes // world_size)
        self.reader = ViewReader(
            cache.source,
            seed=seed,
            lanes=lanes_held,
            block_bytes=block_bytes,
            whole_blocks=lanes_held * cache.mean_block_bytes <= block_bytes,
        )

    def __getitem__(self, counter: int) -> Sample:
        """Render one view.

        Raises:
            DamagedViewError: it can't be read, or no view can be read in its place.
        """
        damage: list[str] = []
        views = [self._read(place, damage) for place in self.order.places(counter)]
        view = self._composed(views, counter) if self._is_free else views[0]
        picture = render_view(view.labelled.view, view.pictures)
        expected = self.cache.expected
        target = view_target(view.labelled, expected.labels, expected.supervision, image_id=-1 - counter)
        # NumPy's copy to planes: a third of the time that a copy of torch's view takes.
        pixels_3HW = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())
        return Sample(pixels_3HW, target, view.name, tuple(damage))

    def _composed(self, crops: list[ReadView], counter: int) -> ReadView:
        rng = np.random.default_rng([self._seed, MOSAIC_STREAM, counter])
        return free_mosaic(crops, tile_side=self.cache.source.spec.views.geometry.mosaic_tile, rng=rng)

    def _read(self, place: ViewPlace, damage: list[str]) -> ReadView:
        """The view at a place, or one that takes its place; damage is appended to."""
        try:
            return self._read_usable(place)
        except DamagedViewError as error:
            if self._on_damage == "stop":
                raise
            damage.append(str(error))
        attempt = 0
        while (other := self.order.substitute(place, attempt)) is not None:
            attempt += 1
            try:
                return self._read_usable(other)
            except DamagedViewError:
                continue
        raise DamagedViewError(f"{damage[-1]}; {attempt} other views were tried in its place, all are damaged")

    def _read_usable(self, place: ViewPlace) -> ReadView:
        view = self.reader.read(place)
        if self._is_free:
            require_whole_crop(view)
        return view


def sharing_notes(dataset: ExtraDataset, *, world_size: int, workers: int) -> tuple[str, ...]:
    """What a user should know about how ranks and workers share the blocks; usually nothing.

    Args:
        dataset: the extra data.
        world_size: ranks.
        workers: loader processes a rank; 0 is the rank itself.
    """
    blocks, lanes = dataset.cache.blocks, dataset.order.lanes
    readers = world_size * max(workers, 1)
    notes = []
    if blocks < readers:
        notes.append(
            f"extra data: {blocks} blocks for {world_size} ranks x {max(workers, 1)} workers; blocks are read more "
            "than once"
        )
    if lanes % world_size:
        notes.append(f"extra data: {lanes} lanes are no multiple of {world_size} ranks; blocks are read more than once")
    return tuple(notes)
