"""What a run reads: annotations, the vocabulary, and the extra data, all checked to fit each other."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from richsem_schemas.annotations import DetectionData, check_vocabulary, read_annotations
from richsem_schemas.errors import RichSemError
from richsem_schemas.reader import open_cache
from richsem_schemas.text_bank import TextBank
from richsem_train.config import DetectionConfig, ExtraConfig, SplitConfig, TextConfig, TrainConfig
from richsem_train.data.extra import ExpectedCache, ExtraCache, open_extra


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The classes of a run.

    Attributes:
        text: the text bank; None where there is none and the model needs none.
        class_names: row = category_id; rows that are no class are empty.
        frequencies: `r`, `c`, `f`, or empty, a row.
    """

    text: TextBank | None
    class_names: tuple[str, ...]
    frequencies: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class RunData:
    """Opened, and checked to fit each other.

    Attributes:
        train: detection pictures to learn from.
        val: those to be scored on.
        extra: views of a cache; None without extra data.
        vocabulary: the classes of all of them.
    """

    train: DetectionData
    val: DetectionData
    extra: ExtraCache | None
    vocabulary: Vocabulary

    @property
    def image_counts(self) -> Tensor:
        """Training pictures a row of the vocabulary, int64 [C]."""
        return torch.from_numpy(self.train.image_counts(len(self.vocabulary.class_names)))


def data_folder(config: TrainConfig) -> Path:
    """Where relative paths of data start."""
    return config.data or Path(os.environ.get("RICHSEM_DATA") or "data")


def data_file(config: TrainConfig, path: Path) -> Path:
    """A file of weights: where its path says, or below the data folder."""
    below = data_folder(config) / path
    return below if below.exists() and not path.exists() else path


def open_data(config: TrainConfig) -> RunData:
    """Open what a run learns from.

    Raises:
        RichSemError: something is missing, damaged, or doesn't fit the rest.
    """
    _check_detection_labels(config)
    data = data_folder(config)
    text = None if config.text is None else _read_text(config.text)
    extra = None if config.extra is None else _open_extra(config.extra, text=text, data=data)
    if text is None and extra is not None:
        text = extra.text
    train = read_split(config.detection, config.detection.train, data)
    val = read_split(config.detection, config.detection.val, data)
    vocabulary = _vocabulary(text, train)
    check_vocabulary(val, vocabulary.class_names)
    return RunData(train, val, extra, vocabulary)


def open_vocabulary(config: TrainConfig) -> Vocabulary:
    """The classes of a config, for a model that another program trained.

    Raises:
        RichSemError: annotations or the text bank are missing, or don't fit each other.
    """
    text = None if config.text is None else _read_text(config.text)
    if text is None and config.model.needs_text and config.extra is not None:
        text = _read_text(TextConfig(cache=config.extra.cache, labels=config.extra.label_set))
    return _vocabulary(text, read_split(config.detection, config.detection.val, data_folder(config)))


def read_split(detection: DetectionConfig, split: SplitConfig, data: Path) -> DetectionData:
    """Read the annotations of a split."""
    return read_annotations(data / split.annotations, data / split.images, file_format=detection.format)


def _check_detection_labels(config: TrainConfig) -> None:
    if config.detection.labels == "cache":
        raise RichSemError(
            f"config {config.name} wants soft labels on the detection pictures (detection.labels is cache), which "
            "caches don't hold yet; train without them with --set detection.labels=none"
        )


def _open_extra(extra: ExtraConfig, *, text: TextBank | None, data: Path) -> ExtraCache:
    expected = ExpectedCache(
        views=extra.views,
        labels=extra.labels,
        supervision=extra.supervision,
        class_names=None if text is None else text.class_names,
        text=text,
        teacher=extra.teacher,
    )
    root = None if extra.root is None else data / extra.root
    return open_extra(extra.cache, label_set=extra.label_set, expected=expected, root=root)


def _read_text(text: TextConfig) -> TextBank:
    cache = open_cache(text.cache)
    return cache.text_bank(cache.label_set(text.labels).name)


def _vocabulary(text: TextBank | None, data: DetectionData) -> Vocabulary:
    if text is None:
        names = [""] * data.num_rows
        for category in data.categories:
            names[category.id] = category.name
    else:
        check_vocabulary(data, text.class_names)
        names = list(text.class_names)
    frequencies = [""] * len(names)
    for category in data.categories:
        frequencies[category.id] = category.frequency or ""
    return Vocabulary(text, tuple(names), tuple(frequencies))
