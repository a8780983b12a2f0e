"""From a config and its data to a run that is ready to take steps."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.words import one_line
from richsem_schemas.scoring.evaluation import GroundTruth, truth_of
from richsem_train.config import DetectionConfig, ScheduleConfig, TrainConfig
from richsem_train.data.collate import Sample
from richsem_train.data.detection import DetectionDataset
from richsem_train.data.extra import BLOCK_BYTES, ExtraDataset, ExtraMix
from richsem_train.data.fresh_windows import FreshWindowDataset
from richsem_train.data.loaders import DetectionFeed, LoadedStep, TrainingLoaders
from richsem_train.data.order import DataKind, RankShare, epoch_batches
from richsem_train.data.repeat_factor import auto_threshold, class_aware_factors, epoch_indices, repeat_factors
from richsem_train.data.showings import Showings
from richsem_train.data.windows import WindowDataset
from richsem_train.models.detector import DetectionModel
from richsem_train.run.build import build_learner, describe, described_detector
from richsem_train.run.checkpoint import Checkpoint, ModelInfo
from richsem_train.run.class_frequencies import frequencies_by_id
from richsem_train.run.detectors import kind_of
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import Trainer, memory_limit_explained
from richsem_train.run.named_files import data_file
from richsem_train.run.open_data import RunData
from richsem_train.run.optimiser import make_optimiser

_LABELS_OF = {
    "extra": "the extra data",
    "detection": "the cache of the detection pictures",
    "text": "text.folder",
    "classifier_text": "classifier_text",
}
"""Sections of the config that have fingerprints, in words."""


@dataclass(frozen=True, eq=False)
class EpochShowings:
    """How often an epoch shows each detection picture.

    Attributes:
        factors: float64 [N], on average.
        threshold: share of pictures below which a category's are repeated; None where they aren't by their categories.
        is_auto: whether the threshold was found from the data.
    """

    factors: NDArray[np.float64]
    threshold: float | None = None
    is_auto: bool = False


@dataclass(frozen=True, eq=False)
class AssembledRun:
    """The parts that the steps and evaluations of a run share.

    Attributes:
        shares: this rank's part of each batch, by the kind of data.
        showings: how often an epoch shows each detection picture.
        feed: detection pictures in the order of the epochs.
        extra: views of caches; None without extra data.
        info: how to build its detector again.
        trainer: takes the steps.
        truth: the annotations that it is scored by.
        start_note: what was loaded from `start_from`; None without.
    """

    config: TrainConfig
    data: RunData
    ranks: Ranks
    shares: dict[DataKind, RankShare]
    showings: EpochShowings
    feed: DetectionFeed
    extra: ExtraMix | None
    info: ModelInfo
    trainer: Trainer
    truth: GroundTruth
    start_note: str | None

    @property
    def detector(self) -> DetectionModel:
        """The detector that is trained."""
        return self.trainer.learner.detector

    @property
    def scored_detector(self) -> DetectionModel:
        """The detector that is scored: with averaged weights where the run keeps them."""
        averaged = self.trainer.averaged
        assert averaged is None or isinstance(averaged, DetectionModel)
        return self.detector if averaged is None else averaged

    @property
    def steps_per_epoch(self) -> int:
        """Batches of detection pictures, and as many of extra data."""
        return _steps_per_epoch(self.feed, self.extra)

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.steps_per_epoch * self.config.schedule.epochs

    def batches(self, start_step: int, end_step: int) -> Iterator[LoadedStep]:
        """This rank's batches of steps `start_step` to `end_step - 1`.

        Raises:
            RichSemError: a picture or a view can't be read and must not be replaced.
        """
        loaders = TrainingLoaders(
            self.feed,
            self.extra,
            share=self.shares["detection"],
            extra_share=self.shares["extra"],
            workers=self.config.workers,
            pin_memory=self.ranks.device.type == "cuda",
        )
        return loaders.batches(start_step, end_step)

    def checkpoint(self, *, step: int, best_ap: float, with_optimiser: bool) -> Checkpoint:
        """Where it stands after `step` steps; without its optimiser it can't go on, and weighs a third."""
        averaged = self.trainer.averaged
        return Checkpoint(
            self.info,
            self.detector.state_dict(),
            None if averaged is None else averaged.state_dict(),
            self.trainer.optimiser.state_dict() if with_optimiser else {},
            step,
            best_ap,
            self.data.fingerprints,
        )

    def restore(self, saved: Checkpoint, path: Path) -> None:
        """Go to where the checkpoint of a run of the same config stands, which was read from `path`.

        Raises:
            RichSemError: it is of another architecture, or of a run that learnt from other labels.
        """
        try:
            self.detector.load_state_dict(saved.model)
            if self.trainer.averaged is not None and saved.averaged is not None:
                self.trainer.averaged.load_state_dict(saved.averaged)
            self.trainer.optimiser.load_state_dict(saved.optimiser)
        except (RuntimeError, ValueError, KeyError) as error:
            raise RichSemError(f"{path}: a checkpoint of another architecture ({one_line(error)})") from None
        _require_same_labels(saved.fingerprints, self.data.fingerprints)


def _require_same_labels(before: dict[str, str], now: dict[str, str]) -> None:
    for section in sorted(before.keys() | now.keys()):
        if before.get(section) != now.get(section):
            raise RichSemError(
                f"{_LABELS_OF.get(section, section)} is another label set than the run began with: its fingerprint is "
                f"{now.get(section)}, it was {before.get(section)}; give the cache it began with, or name another --out"
            )


def assemble(config: TrainConfig, data: RunData, ranks: Ranks) -> AssembledRun:
    """Make the parts of a run; all ranks make the same.

    Raises:
        RichSemError: the detector doesn't fit into the memory, weights to start from don't fit the detector, or a batch
            can't be shared out in whole draws.
    """
    info = describe(config, data.vocabulary)
    shares = rank_shares(config.schedule, ranks)
    extra = _extra_mix(config, data, ranks)
    showings = epoch_showings(config.detection, data.train)
    feed = _detection_feed(config, data, showings.factors)
    detector, start_note = _first_detector(config, data, info, ranks)
    return AssembledRun(
        config=config,
        data=data,
        ranks=ranks,
        shares=shares,
        showings=showings,
        feed=feed,
        extra=extra,
        info=info,
        trainer=_make_trainer(
            config, data, detector, ranks, total_steps=_steps_per_epoch(feed, extra) * config.schedule.epochs
        ),
        truth=truth_of(
            data.val.data,
            config.detection.format,
            trained=frequencies_by_id(info.frequencies, info.frequency_rule, data.val.category_ids),
        ),
        start_note=start_note,
    )


def rank_shares(schedule: ScheduleConfig, ranks: Ranks) -> dict[DataKind, RankShare]:
    """This rank's part of each batch, by the kind of data.

    Raises:
        RichSemError: a batch can't be shared out and cut into parts in whole draws.
    """
    shares = {
        key: RankShare(
            pictures,
            ranks.rank,
            ranks.world_size,
            pictures_a_draw=schedule.pictures_a_draw,
            accumulate=schedule.accumulate,
            key=f"schedule.{key}",
        )
        for key, pictures in schedule.batch_sizes.items()
    }
    detection = shares["global_batch_size"]
    return {"detection": detection, "extra": shares.get("extra_batch_size", detection)}


def _steps_per_epoch(feed: DetectionFeed, extra: ExtraMix | None) -> int:
    return feed.epoch_batches * (1 if extra is None else 2)


def _extra_mix(config: TrainConfig, data: RunData, ranks: Ranks) -> ExtraMix | None:
    extras = config.extras
    if not extras:
        return None
    sources = [
        ExtraDataset(
            data.extras[section],
            seed=config.seed,
            lanes=extra.lanes,
            on_damage=extra.on_damage,
            world_size=ranks.world_size,
            block_bytes=BLOCK_BYTES // len(extras),
        )
        for section, extra in extras.items()
    ]
    return ExtraMix(sources, [extra.weight for extra in extras.values()])


def _detection_feed(config: TrainConfig, data: RunData, factors: NDArray[np.float64]) -> DetectionFeed:
    global_batch = config.schedule.global_batch_size
    epoch_list = partial(epoch_indices, factors, config.seed)
    batches = epoch_batches(int(factors.sum()), global_batch)
    dataset = _detection_dataset(config, data, epoch_list, epoch_length=batches * global_batch)
    return DetectionFeed(dataset, epoch_list, batches)


def epoch_showings(detection: DetectionConfig, train: DetectionData) -> EpochShowings:
    """How often an epoch shows each detection picture, by the config's way of sampling.

    Raises:
        RichSemError: classes are to have the same share, and there are no boxes.
    """
    boxes = train.category_ids, train.offsets
    if detection.class_aware_pictures is not None:
        return EpochShowings(class_aware_factors(*boxes, pictures=detection.class_aware_pictures))
    if detection.repeat_threshold is None:
        return EpochShowings(np.ones(len(train)))
    is_auto = detection.repeat_threshold == "auto"
    threshold = auto_threshold(*boxes) if detection.repeat_threshold == "auto" else detection.repeat_threshold
    return EpochShowings(repeat_factors(*boxes, threshold=threshold), threshold, is_auto=is_auto)


def _detection_dataset(
    config: TrainConfig, data: RunData, epoch_list: Callable[[int], NDArray[np.int64]], *, epoch_length: int
) -> Dataset[Sample]:
    detection, train, windows = config.detection, data.train, data.windows
    if windows is not None and detection.views == "stored":
        showings = Showings(epoch_list, epoch_length=epoch_length, pictures=len(train))
        return WindowDataset(train, windows, showings, on_damage=detection.on_damage)
    if windows is not None:
        return FreshWindowDataset(
            train, windows, detection.augmentation, seed=config.seed, on_damage=detection.on_damage
        )
    return DetectionDataset(
        train,
        detection.augmentation,
        seed=config.seed,
        on_damage=detection.on_damage,
        is_hard=detection.labels == "hard",
    )


def _first_detector(
    config: TrainConfig, data: RunData, info: ModelInfo, ranks: Ranks
) -> tuple[DetectionModel, str | None]:
    """The detector as it is before the first step, and what was loaded from `start_from`."""
    # Every rank starts from the same weights.
    torch.manual_seed(config.seed)
    weights = config.model.backbone.weights
    kind = kind_of(config.model)
    with memory_limit_explained("the config's detector", f"make it smaller: {kind.sizes}"):
        detector = described_detector(
            info,
            text=data.vocabulary.text,
            weights=weights if weights is None else str(data_file(config, Path(weights))),
            device=ranks.device,
            semantic_branch=config.model.semantic_branch,
            semantic_dim=data.vocabulary.semantic_dim,
        )
    start_note = None
    if config.start_from is not None:
        file = data_file(config, config.start_from)
        report = kind.load_published(detector, file, fresh_heads=True, class_names=info.class_names)
        start_note = f"{config.start_from}: {report.summary()}"
    if config.schedule.compile:
        detector.backbone.compile(dynamic=True)
    return detector, start_note


def _make_trainer(
    config: TrainConfig, data: RunData, detector: DetectionModel, ranks: Ranks, *, total_steps: int
) -> Trainer:
    schedule = config.schedule
    return Trainer(
        build_learner(
            detector,
            config.model,
            config.loss,
            text=data.vocabulary.teacher_text,
            image_counts_C=torch.from_numpy(data.image_counts),
            learns_images=config.learns_images,
            precision=schedule.precision,
            device=ranks.device,
        ),
        make_optimiser(detector, lr=schedule.lr, backbone_lr=schedule.backbone_lr, weight_decay=schedule.weight_decay),
        None if schedule.ema is None else deepcopy(detector).eval(),
        schedule=schedule,
        pseudo_threshold=config.loss.pseudo_threshold,
        ranks=ranks,
        seed=config.seed,
        total_steps=total_steps,
    )
