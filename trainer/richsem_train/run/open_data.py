"""The data of a run: annotations, the vocabulary, and labels of caches, all checked to fit each other."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.annotations import AnnotationFormat, DetectionData, read_annotations
from richsem_schemas.cache.manifest import TeacherIdentity
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import read_text_folder
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.scoring.class_frequencies import ClassFrequencies, frequencies_of, given_frequencies
from richsem_train.config import DetectionConfig, ExtraConfig, SplitConfig, TextConfig, TrainConfig
from richsem_train.data.cache.alignment import WindowCache, align_windows
from richsem_train.data.cache.source import (
    DETECTION,
    ExpectedCache,
    TrainingCache,
    open_training_cache,
    read_through,
)
from richsem_train.data.category_rows import (
    ScoredSplit,
    default_rows,
    ids_of_rows,
    rows_of_categories,
    scored_split,
    with_rows,
)
from richsem_train.run.named_files import data_folder


@dataclass(frozen=True, eq=False)
class RunVocabulary:
    """The classes of a run.

    Attributes:
        text: the classifier's text bank; None where there is none and the model needs none.
        class_names: by row; rows that are no class are empty.
        frequencies: `r`, `c`, `f`, or empty, a row.
        frequency_rule: who says so, in words; empty where the training annotations aren't known.
        category_ids: int64 [C], of the training annotations; -1 for rows that they have not (`ids_of_rows`).
        teacher_text: the bank of the soft labels and the semantic branch, of the same names; mostly the same one.
    """

    text: TextBank | None
    class_names: tuple[str, ...]
    frequencies: tuple[str, ...]
    frequency_rule: str
    category_ids: NDArray[np.int64]
    teacher_text: TextBank | None

    @property
    def semantic_dim(self) -> int | None:
        """Width of the teacher's text embeddings; None without a bank."""
        return None if self.teacher_text is None else self.teacher_text.features.shape[1]

    @property
    def rows_note(self) -> str | None:
        """A line for the user where rows are no category ids; None where they are, or a text bank names them."""
        are_ids = self.category_ids[0] == 0
        if self.text is not None or are_ids:
            return None
        known = self.category_ids[self.category_ids >= 0]
        return (
            f"category ids {known[0]:,} to {known[-1]:,} are rows 1 to {len(known):,} of the classifier, in order; "
            "results have the file's ids"
        )


@dataclass(frozen=True, eq=False)
class RunData:
    """Opened, and checked to fit each other.

    Attributes:
        train: detection pictures to learn from; their category ids are rows of the vocabulary.
        val: those to be scored on.
        windows: soft labels of the training pictures; None where they are taught without.
        extras: views of caches, by section of the config; empty without extra data.
        vocabulary: the classes of all of them.
        fingerprints: of what the labels come from, by section of the config.
    """

    train: DetectionData
    val: ScoredSplit
    windows: WindowCache | None
    extras: dict[str, TrainingCache]
    vocabulary: RunVocabulary
    fingerprints: dict[str, str]

    @property
    def image_counts(self) -> NDArray[np.int64]:
        """Training pictures a row of the vocabulary, int64 [C]."""
        return self.train.image_counts(len(self.vocabulary.class_names))


def open_data(config: TrainConfig) -> RunData:
    """Open what a run learns from.

    Raises:
        RichSemError: something is missing, damaged, or doesn't fit the rest.
    """
    text = None if config.text is None else _read_text(config.text)
    extras: dict[str, TrainingCache] = {}
    for section in config.extras:
        extras[section] = _open_extra(config, section, text)
        # What the first one is learnt with, the others must have as well.
        text = text or _RunText(extras[section].text)
    windows = _open_windows(config, text) if config.detection.labels == "cache" else None
    if text is None and windows is not None:
        text = _RunText(windows.text)
    classifier = text if config.classifier_text is None else _read_classifier_text(config.classifier_text, text)
    names = _class_names(classifier, windows)
    annotated = read_split(config, config.detection.train, class_names=names)
    frequencies = frequencies_of(annotated.categories, config.detection.train.annotations.name)
    vocabulary = _vocabulary(classifier, annotated, frequencies, teacher=text)
    train = with_rows(annotated, rows_of_categories(annotated, vocabulary.class_names))
    val = read_split(config, config.detection.val, class_names=names or vocabulary.class_names, is_scored=True)
    return RunData(
        train,
        scored_split(val, vocabulary.class_names),
        None if windows is None else align_windows(windows, train, on_damage=config.detection.on_damage),
        extras,
        vocabulary,
        _fingerprints(extras if windows is None else extras | {DETECTION: windows}, text, classifier),
    )


def _fingerprints(
    caches: dict[str, TrainingCache], text: "_RunText | None", classifier: "_RunText | None"
) -> dict[str, str]:
    fingerprints = {section: cache.fingerprint for section, cache in caches.items()}
    if text is not None and text.is_other:
        fingerprints["text"] = text.fingerprint
    if classifier is not None and classifier is not text:
        fingerprints["classifier_text"] = classifier.fingerprint
    return fingerprints


def _read_classifier_text(config: TextConfig, teacher: "_RunText | None") -> "_RunText":
    """The classifier's own bank, whose rows are the same classes as the teacher's.

    Raises:
        RichSemError: they aren't, or there is no such bank.
    """
    text = _read_text(config)
    names, wanted = text.bank.class_names, text.bank.class_names if teacher is None else teacher.bank.class_names
    if names != wanted:
        row = next((row for row, pair in enumerate(zip(names, wanted, strict=False)) if pair[0] != pair[1]), None)
        where = "" if row is None else f"; row {row} is {names[row]!r} in the one and {wanted[row]!r} in the other"
        raise RichSemError(
            f"classifier_text has {len(names) - 1:,} classes and the text of the soft labels {len(wanted) - 1:,}"
            f"{where}: a row must be one class in both. Make both of the same names (richsem-prep text --names), or "
            "leave classifier_text out"
        )
    return text


def open_vocabulary(config: TrainConfig) -> RunVocabulary:
    """The classes of a config, for a model that another program trained.

    Raises:
        RichSemError: annotations or the text bank are missing, or don't fit each other.
    """
    section = config.classifier_text or config.text
    if section is None and config.model.needs_text:
        section = _text_of_caches(config)
    text = None if section is None else _read_text(section)
    val = read_split(config, config.detection.val, class_names=_class_names(text, None))
    # Of training annotations, which aren't known here.
    return _vocabulary(text, val, given_frequencies(val.categories, config.detection.val.annotations.name))


def _text_of_caches(config: TrainConfig) -> TextConfig:
    for extra in config.extras.values():
        return TextConfig(cache=extra.labels_from or extra.cache, label_set=extra.label_set)
    detection = config.detection
    return TextConfig(cache=detection.labels_from or detection.cache, label_set=detection.label_set)


def read_split(
    config: TrainConfig,
    split: SplitConfig,
    *,
    class_names: Sequence[str] | None,
    is_scored: bool = False,
    file_format: AnnotationFormat | None = None,
) -> DetectionData:
    """Read the annotations of a split, some of whose pictures may be missing.

    Files that don't list their classes (Visual Genome) are read for those of `class_names`, by row; None is the
    frequent ones. With `is_scored` what its metric needs is read, and required. `file_format` is that of the config
    where it is None.
    """
    data = data_folder(config)
    return read_annotations(
        data / split.annotations,
        data / split.images,
        file_format=file_format or config.detection.format,
        class_names=None if class_names is None else class_names[1:],
        is_scored=is_scored,
        # `require_pictures` looks at each of them.
        may_miss=True,
    )


def _class_names(text: "_RunText | None", windows: TrainingCache | None) -> tuple[str, ...] | None:
    """The classes that the run is about, where something names them: the cache of its very boxes first."""
    if windows is not None:
        return windows.source.plan.vocabulary.class_names
    return None if text is None else text.bank.class_names


@dataclass(frozen=True, eq=False)
class _RunText:
    """The text bank of a run.

    Attributes:
        bank: names and features.
        teacher: of a text folder, which embeddings must share; None for the bank of a label set.
    """

    bank: TextBank
    teacher: TeacherIdentity | None = None

    @property
    def is_other(self) -> bool:
        """Whether it is another than those that the caches have."""
        return self.teacher is not None

    @property
    def fingerprint(self) -> str:
        features = hashlib.sha256(np.ascontiguousarray(self.bank.features, "<f4").tobytes()).hexdigest()
        return json_sha256([list(self.bank.class_names), self.bank.logit_scale, features])

    def expected(self, wanted: ExpectedCache) -> ExpectedCache:
        """The same of label sets that are learnt with this bank."""
        return replace(
            wanted,
            text=self.bank,
            is_other_text=self.is_other,
            teacher_weights=None if self.teacher is None else self.teacher.weights_sha256,
        )


def _open_extra(config: TrainConfig, section: str, text: _RunText | None) -> TrainingCache:
    extra = config.extras[section]
    expected = ExpectedCache(
        section=section,
        views=extra.views,
        labels=extra.labels,
        supervision=extra.supervision,
        teacher=extra.teacher,
        temperature=config.loss.temperature,
    )
    return _open_cache(config, extra, expected, text)


def _open_windows(config: TrainConfig, text: _RunText | None) -> TrainingCache:
    detection = config.detection
    expected = ExpectedCache(
        section=DETECTION, views="windows", labels=detection.label_form, temperature=config.loss.temperature
    )
    return _open_cache(config, detection, expected, text)


def _open_cache(
    config: TrainConfig, section: ExtraConfig | DetectionConfig, expected: ExpectedCache, text: _RunText | None
) -> TrainingCache:
    assert section.cache is not None, "the config was checked for it"
    root = section.root
    opened = open_training_cache(
        section.cache,
        label_set=section.label_set,
        expected=expected if text is None else text.expected(expected),
        root=data_folder(config) / root if isinstance(root, Path) else root,
        labels_from=section.labels_from,
    )
    return read_through(opened, gigabytes=config.cache_gb)


def _read_text(text: TextConfig) -> _RunText:
    if text.folder is not None:
        folder = read_text_folder(text.folder)
        return _RunText(folder.bank, folder.teacher)
    assert text.cache is not None, "the config was checked for it"
    cache = open_cache(text.cache)
    return _RunText(cache.text_bank(cache.label_set(text.label_set).name))


def _vocabulary(
    text: _RunText | None, data: DetectionData, known: ClassFrequencies | None, *, teacher: _RunText | None = None
) -> RunVocabulary:
    if text is None:
        own = default_rows(data).tolist()
        names = [""] * (own[-1] + 1)
        for category, row in zip(data.categories, own, strict=True):
            names[row] = category.name
    else:
        names = list(text.bank.class_names)
    rows = rows_of_categories(data, names)
    frequencies = [""] * len(names)
    for category, row in zip(data.categories, rows.tolist(), strict=True):
        frequencies[row] = known.letters[category.id] if known else ""
    teacher = teacher or text
    return RunVocabulary(
        None if text is None else text.bank,
        tuple(names),
        tuple(frequencies),
        known.rule if known else "",
        ids_of_rows(data, rows, len(names)),
        None if teacher is None else teacher.bank,
    )
