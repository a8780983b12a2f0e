"""A cache opened for training: its manifests are checked to fit each other and the run, before a shard is read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.layout import BLOCK_SAMPLES, CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, Plan
from richsem_schemas.cache.reader import Cache, open_cache
from richsem_schemas.cache.recipes import PICTURES_PER_MOSAIC
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.view import ViewKind
from richsem_schemas.errors import CorruptCacheError, ManifestMismatchError, RichSemError
from richsem_schemas.io.places import Place, open_place
from richsem_train.choices import LabelForm, Supervision, ViewForm
from richsem_train.data.cache.local import Store, default_folder, with_store
from richsem_train.data.cache.views import ViewSource, packed_summaries

DETECTION = "detection"
"""The section of the config whose cache has the windows of the detection pictures."""

_KINDS: dict[ViewForm, ViewKind] = {"mosaics": "mosaic", "crops": "crop", "windows": "window", "free-mosaics": "crop"}


@dataclass(frozen=True)
class ExpectedCache:
    """The label set that a run needs; None is anything.

    Attributes:
        section: of the config that names the cache, for messages.
        views: which ones are shown.
        labels: what is learnt of them.
        supervision: of their classes.
        text: the bank that the model's classifier has; its names are the detection vocabulary.
        is_other_text: `text` is no label set's own (text.folder): embeddings are scored with it, whatever bank they
            came with.
        teacher: its name.
        teacher_weights: their SHA-256.
        temperature: that the teacher's logits are divided by; stored labels have theirs built in.
    """

    section: str = "extra"
    views: ViewForm = "mosaics"
    labels: LabelForm = "embedding"
    supervision: Supervision = "labelled"
    text: TextBank | None = None
    is_other_text: bool = False
    teacher: str | None = None
    teacher_weights: str | None = None
    temperature: float = 1.0

    @property
    def labels_key(self) -> str:
        """The config's key for `labels`."""
        return "detection.label_form" if self.section == DETECTION else f"{self.section}.labels"

    @property
    def takes_own_labels(self) -> bool:
        """Whether the labels of its pictures are learnt."""
        return self.supervision in ("labelled", "image")

    def check_teachable(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            RichSemError: hard labels are asked for where labels are not to be used.
        """
        if self.labels == "hard" and not self.takes_own_labels:
            key = self.labels_key
            raise RichSemError(
                f"{key}=hard learns the labels of the pictures, {self.section}.supervision={self.supervision} does "
                f"without them; choose {key}=topk or embedding, or {self.section}.supervision=labelled"
            )

    @property
    def needs_own_text(self) -> bool:
        """Whether the set's own bank must be the model's: top-k labels are rows of it, and can't be scored anew."""
        return self.labels == "topk" or not self.is_other_text


@dataclass(frozen=True, eq=False)
class TrainingCache:
    """A cache that fits.

    Attributes:
        source: where its views are read from.
        expected: what it was checked against.
        text: the bank that its labels are learnt with.
        rows: int64 [P], row of `text` of each class of the plan; 0 for those that it has not.
        fingerprint: of the label set.
    """

    source: ViewSource
    expected: ExpectedCache
    text: TextBank
    rows: NDArray[np.int64]
    fingerprint: str

    @property
    def views_per_pass(self) -> int:
        """How many views a pass has."""
        return int(self.source.pass_views.sum())

    @property
    def blocks(self) -> int:
        """How many blocks there are, at most."""
        return int((-(-self.source.picture_summaries["samples"] // BLOCK_SAMPLES)).sum())

    @property
    def mean_block_bytes(self) -> float:
        """Bytes of pictures in a block, on average."""
        return float(self.source.picture_summaries["tar_bytes"].sum()) / max(self.blocks, 1)

    @property
    def mean_label_bytes(self) -> float:
        """Bytes of the labels of a block in memory, all passes together, on average: twice those that are stored."""
        return 2 * float(self.source.label_summaries["tar_bytes"].sum()) / max(self.blocks, 1)

    @property
    def classes_without_row(self) -> tuple[str, ...]:
        """Classes of its pictures that the text has not: they count as no label."""
        names = self.source.plan.vocabulary.class_names
        return tuple(names[row] for row in np.flatnonzero(self.rows == 0).tolist() if row)


def open_training_cache(
    out: Place,
    *,
    label_set: str | None = None,
    expected: ExpectedCache,
    root: Place | None = None,
    labels_from: Place | None = None,
) -> TrainingCache:
    """Open a cache for training and refuse it where it doesn't fit.

    Reads the manifests and the text bank, no shard and no index, so it takes the same time for any number of pictures
    a shard.

    Args:
        out: the cache's folder.
        label_set: its name; None where there is one only.
        expected: what the run needs.
        root: where the originals lie, for a cache that refers to them; None is where they lay when it was made.
        labels_from: another folder that holds its label sets, for the same pictures.

    Raises:
        ManifestMismatchError: it is another cache than the run needs; names every field that differs.
        CorruptCacheError: its manifests contradict each other.
        RichSemError: there is no such cache or label set, it isn't finished, or hard labels are to be learnt without
            labels.
    """
    expected.check_teachable()
    cache = open_cache(out, only=label_set, labels_from=labels_from)
    labels = cache.label_set(label_set)
    path = cache.labels_layout.label_set(labels.name).manifest
    _check_manifests(path, cache.manifest, labels)
    text = _read_text(cache, labels)
    plan, section = cache.manifest.plan, expected.section
    problems = list(_mismatches(plan, labels, text, expected))
    if problems:
        raise ManifestMismatchError(
            f"{path} doesn't fit this run: {'; '.join(problems)}. Choose another cache or label set "
            f"({section}.cache, {section}.label_set), change the config, or make the labels with `richsem-prep shard`"
        )
    source = _view_source(cache, labels, root=_find_root(cache, root, section), expected=expected)
    if not int(source.pass_views.sum()):
        raise RichSemError(f"{out}: holds no pictures, all were left out; see its quarantine folder")
    used_text = expected.text if expected.is_other_text and expected.text is not None else text
    rows = _rows_by_name(plan.vocabulary.class_names, used_text.class_names)
    return TrainingCache(source, expected, used_text, rows, labels.fingerprint)


def read_through(cache: TrainingCache, *, gigabytes: float, folder: Path | None = None) -> TrainingCache:
    """The same cache, its files at URLs read through the local disk, up to `gigabytes` of 10^9 bytes; 0 keeps nothing.

    A local one stays as it is.
    """
    if not gigabytes:
        return cache
    store, source = Store(folder or default_folder(), int(gigabytes * 1e9)), cache.source
    # Files of a cache that was made anew since are another cache's.
    digest = hashlib.sha256(cache.fingerprint.encode())
    digest.update(source.picture_summaries.tobytes() + source.label_summaries.tobytes())
    version = digest.hexdigest()
    layout, labels_layout = (
        CacheLayout(with_store(layout.out, store, version=version), layout.name)
        for layout in (source.layout, source.labels_layout)
    )
    root = None if source.root is None else with_store(source.root, store, version=version)
    return replace(cache, source=replace(source, layout=layout, labels_layout=labels_layout, root=root))


def _rows_by_name(names: tuple[str, ...], class_names: tuple[str, ...]) -> NDArray[np.int64]:
    if names == class_names:
        return np.arange(len(names))
    row_of = {name: row for row, name in reversed(list(enumerate(class_names)))}
    return np.array([0, *(row_of.get(name, 0) for name in names[1:])], np.int64)


def _check_manifests(path: Place, cache: CacheManifest, labels: LabelManifest) -> None:
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
    layout = cache.labels_layout.label_set(labels.name)
    try:
        bank = cache.text_bank(labels.name)
    except FileNotFoundError as error:
        raise CorruptCacheError(f"{error.filename} is missing; restore it, or make the label set anew") from None
    if len(bank.class_names) != labels.spec.text.classes or bank.features.shape[1] != labels.spec.teacher.embed_dim:
        raise CorruptCacheError(f"{layout.text}: not the text bank of {layout.manifest}; make the label set anew")
    return bank


def _mismatches(plan: Plan, labels: LabelManifest, text: TextBank, expected: ExpectedCache) -> Iterator[str]:
    """One sentence for each field that differs."""
    spec, section = labels.spec, expected.section
    for field, found, wanted in (
        ("teacher.name", spec.teacher.name, expected.teacher),
        ("teacher.weights_sha256", spec.teacher.weights_sha256, expected.teacher_weights),
    ):
        if wanted is not None and found != wanted:
            yield f"{field} is {found!r} there, {wanted!r} here"
    if expected.labels == "embedding" and spec.embeddings == "none":
        key = expected.labels_key
        yield f"embeddings is 'none' there, {key}=embedding needs them; {key}=topk does without"
    kind = _KINDS[expected.views]
    if not spec.views.passes[kind]:
        asked = "detection.labels=cache" if section == DETECTION else f"{section}.views={expected.views}"
        yield f"views.{kind}s is 0 there, {asked} needs a pass of them"
    if expected.labels == "topk" and spec.temperature != expected.temperature:
        yield (
            f"temperature is {spec.temperature!r} there, loss.temperature is {expected.temperature!r} here, and stored "
            f"labels have theirs built in; {expected.labels_key}=embedding takes any"
        )
    if expected.needs_own_text:
        yield from _own_text_mismatches(plan, text, expected)
    elif expected.takes_own_labels and section != DETECTION and expected.text is not None:
        yield from _nothing_in_common(plan.vocabulary.class_names, expected)


def _own_text_mismatches(plan: Plan, text: TextBank, expected: ExpectedCache) -> Iterator[str]:
    wanted = text if expected.text is None else expected.text
    yield from _name_mismatch("text.class_names", text.class_names, wanted.class_names)
    # The boxes of detection pictures are compared category by category, once the annotations are read.
    if expected.takes_own_labels and expected.section != DETECTION:
        yield from _name_mismatch("plan.vocabulary.class_names", plan.vocabulary.class_names, wanted.class_names)
    yield from _text_mismatches(text, wanted)


def _nothing_in_common(names: tuple[str, ...], expected: ExpectedCache) -> Iterator[str]:
    assert expected.text is not None
    if not set(names[1:]) & set(expected.text.class_names[1:]):
        yield (
            f"plan.vocabulary.class_names are {len(names)} there and none of them is in the text, so no picture keeps "
            f"its label; {expected.section}.supervision=unlabelled does without"
        )


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


def _find_root(cache: Cache, root: Place | None, section: str) -> Place | None:
    plan = cache.manifest.plan
    if plan.pictures == "copy":
        return None
    found = root or (open_place(plan.root) if plan.root else None)
    if found is None or not found.is_dir():
        where = "which is not known" if found is None else f"{found} is no folder"
        raise RichSemError(
            f"{cache.layout.out} refers to pictures outside of it (pictures=reference): {where}; say where they lie "
            f"with {section}.root"
        )
    return found


def _view_source(cache: Cache, labels: LabelManifest, *, root: Place | None, expected: ExpectedCache) -> ViewSource:
    kind = _KINDS[expected.views]
    pictures, of_labels = packed_summaries(cache.manifest.shards), packed_summaries(labels.shards)
    path = cache.labels_layout.label_set(labels.name).manifest
    samples = pictures["samples"]
    return ViewSource(
        layout=cache.layout,
        labels_layout=cache.labels_layout,
        label_set=labels.name,
        kind=kind,
        passes=labels.spec.views.passes[kind],
        plan=cache.manifest.plan,
        spec=labels.spec,
        picture_summaries=pictures,
        label_summaries=of_labels,
        pass_views=_mosaics_a_pass(path, samples, of_labels["views"], labels) if kind == "mosaic" else samples.copy(),
        root=root,
        section=expected.section,
    )


def _mosaics_a_pass(
    path: Place, samples: NDArray[np.int64], total: NDArray[np.int64], labels: LabelManifest
) -> NDArray[np.int64]:
    """How many mosaics one pass has in each shard, without opening an index.

    They depend on how many pictures each block has left, but every pass has the same number, so it is what the others,
    with a view a sample, leave of the total. Readers check it against the indexes.

    Raises:
        CorruptCacheError: the total doesn't come out even.
    """
    views = labels.spec.views
    others = sum(views.passes.values()) - views.mosaics
    mosaics, rest = np.divmod(total - others * samples, views.mosaics)
    wrong = (rest != 0) | (mosaics < -(-samples // PICTURES_PER_MOSAIC)) | (mosaics > samples)
    if wrong.any():
        shard = int(np.argmax(wrong))
        raise CorruptCacheError(
            f"{path}: shard {shard} has {total[shard]} views of {samples[shard]} samples, which {others} passes "
            f"of other views and {views.mosaics} of mosaics can't make; make the label set anew"
        )
    return np.asarray(mosaics)
