"""`richsem-train`: from a config to a trained detector in OUT."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import RenderableType
from torch import nn
from torch.utils.data import Dataset

from richsem_schemas.annotations import DetectionData
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.output_files import FullDiskError
from richsem_train.config import AugmentationConfig, DetectionConfig, ScheduleConfig, TrainConfig
from richsem_train.console import Reporter, SilentReporter, step_note
from richsem_train.data.cache.alignment import WindowCache
from richsem_train.data.cache.source import TrainingCache
from richsem_train.data.collate import Sample
from richsem_train.data.detection import DetectionDataset
from richsem_train.data.extra import BLOCK_BYTES, ExtraDataset, sharing_notes
from richsem_train.data.extra_mix import ExtraMix
from richsem_train.data.fresh_windows import FreshWindowDataset
from richsem_train.data.loaders import DetectionFeed, LoadedStep, TrainingLoaders
from richsem_train.data.order import RankShare, epoch_batches
from richsem_train.data.repeat_factor import epoch_indices, repeat_factors
from richsem_train.data.showings import Showings
from richsem_train.data.transforms import Augmentation
from richsem_train.data.windows import WindowDataset
from richsem_train.models.dino import Dino
from richsem_train.models.inputs import Normalise
from richsem_train.models.published import load_published
from richsem_train.results.evaluation import truth_of
from richsem_train.results.tables import AP_UNDEFINED, is_defined, results_table, run_content
from richsem_train.run.build import (
    attention_backend,
    attention_note,
    batch_detector,
    build_criterion,
    build_detector,
    text_tensor,
)
from richsem_train.run.checkpoint import Checkpoint, ModelInfo, load_checkpoint, save_checkpoint
from richsem_train.run.distributed import Ranks, join_ranks
from richsem_train.run.engine import DetectorLosses, StepResult, Trainer, mean_over_ranks
from richsem_train.run.evaluate import evaluate_split
from richsem_train.run.folder import RunFolder
from richsem_train.run.log import LOG_NAME, RunLogWriter, forget_after, read_log
from richsem_train.run.open_data import RunData, data_file, open_data
from richsem_train.run.optimiser import make_optimiser
from richsem_train.run.picture_check import Pictures, require_pictures
from richsem_train.run.signals import StopRequest, stop_requests

_SHOWN = 5
"""Classes that a line names."""

_LABELS_OF = {
    "extra": "the extra data",
    "detection": "the cache of the detection pictures",
    "text": "text.folder",
}

_SMALLER_DETECTOR = "make it smaller: model.ffn_dim, model.queries, model.hidden_dim, or its layers"

_SMALLER_STEP = (
    "cut its batch into more parts by schedule.accumulate, or keep less of it by "
    "model.deformable_attention=torch-checkpoint, and go on with --resume; or begin anew with schedule.precision=bf16"
)


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        stopped_by: the signal that asked it to; None where it is through.
        table: its results; None where it was stopped, and on all ranks but the first.
    """

    stopped_by: str | None
    table: RenderableType | None


def train(config: TrainConfig, out: Path, *, resume: bool, device: str | None, reporter: Reporter) -> Ended:
    """Train, or go on with a run.

    Raises:
        RichSemError: something that the user can mend.
    """
    with join_ranks(device) as ranks, stop_requests() as stop:
        if not ranks.is_first:
            reporter = SilentReporter()
        # Before anything is read.
        rank_share(config.schedule, ranks)
        folder = RunFolder(out)
        with folder.held(config, ranks, resume=resume):
            saved = load_checkpoint(folder.last) if resume and folder.last.is_file() else None
            data = open_data(config)
            _require_pictures(config, data, ranks, reporter)
            run = _Run(config, data, folder, ranks, stop, reporter)
            # Where any rank is refused the first one writes nothing.
            ranks.wait()
            if ranks.is_first:
                folder.claim(config)
            try:
                return run.train(saved)
            except FullDiskError as error:
                raise RichSemError(
                    f"{error.filename}: {error.strerror}; free some, then go on from the last checkpoint with the same "
                    "command and --resume"
                ) from None


def _require_pictures(config: TrainConfig, data: RunData, ranks: Ranks, reporter: Reporter) -> None:
    """Look for the pictures that will be read from a local folder: windows show those that their cache refers to."""
    train: Pictures | None = data.train if data.windows is None else data.windows.originals
    val = {"val": data.val.data}
    require_pictures(
        val if train is None else {"train": train, **val},
        skipping={"train"} if config.detection.on_damage == "skip" else (),
        ranks=ranks,
        reporter=reporter,
    )


def rank_share(schedule: ScheduleConfig, ranks: Ranks) -> RankShare:
    """This rank's part of each batch.

    Raises:
        RichSemError: a batch can't be shared out and cut into parts in whole draws.
    """
    return RankShare(
        schedule.global_batch_size,
        ranks.rank,
        ranks.world_size,
        pictures_a_draw=schedule.pictures_a_draw,
        accumulate=schedule.accumulate,
    )


class _Run:
    """A run in the making: the parts that its steps and evaluations share."""

    def __init__(
        self,
        config: TrainConfig,
        data: RunData,
        folder: RunFolder,
        ranks: Ranks,
        stop: StopRequest,
        reporter: Reporter,
    ) -> None:
        self.config = config
        self.data = data
        self.folder = folder
        self.ranks = ranks
        self.share = rank_share(config.schedule, ranks)
        self.stop = stop
        self.reporter = reporter
        self.extra = self._extra_mix()
        self.feed = self._detection_feed()
        self.steps_per_epoch = self.feed.epoch_batches * (1 if self.extra is None else 2)
        self.total_steps = self.steps_per_epoch * config.schedule.epochs
        self.trainer = self._make_trainer()
        self.truth = truth_of(data.val.data, config.detection.format)
        self.best_ap = -1.0
        self.damaged = 0
        self.borrowed = _Borrowed()

    def _extra_mix(self) -> ExtraMix | None:
        extras = self.config.extras
        if not extras:
            return None
        sources = [
            ExtraDataset(
                self.data.extras[section],
                seed=self.config.seed,
                lanes=extra.lanes,
                on_damage=extra.on_damage,
                world_size=self.ranks.world_size,
                block_bytes=BLOCK_BYTES // len(extras),
            )
            for section, extra in extras.items()
        ]
        return ExtraMix(sources, [extra.weight for extra in extras.values()])

    def _detection_dataset(
        self, epoch_list: Callable[[int], NDArray[np.int64]], *, epoch_length: int
    ) -> Dataset[Sample]:
        detection, train, windows = self.config.detection, self.data.train, self.data.windows
        if windows is not None and detection.views == "stored":
            showings = Showings(epoch_list, epoch_length=epoch_length, pictures=len(train))
            return WindowDataset(train, windows, showings, on_damage=detection.on_damage)
        augmentation = Augmentation(**detection.augmentation.model_dump())
        if windows is not None:
            return FreshWindowDataset(
                train, windows, augmentation, seed=self.config.seed, on_damage=detection.on_damage
            )
        return DetectionDataset(
            train,
            augmentation,
            seed=self.config.seed,
            on_damage=detection.on_damage,
            is_hard=detection.labels == "hard",
        )

    def _detection_feed(self) -> DetectionFeed:
        detection, global_batch = self.config.detection, self.config.schedule.global_batch_size
        factors = repeat_factors(
            self.data.train.category_ids, self.data.train.offsets, threshold=detection.repeat_threshold or 0.0
        )
        epoch_list = partial(epoch_indices, factors, self.config.seed)
        batches = epoch_batches(int(factors.sum()), global_batch)
        dataset = self._detection_dataset(epoch_list, epoch_length=batches * global_batch)
        return DetectionFeed(dataset, epoch_list, batches)

    def _make_trainer(self) -> Trainer:
        config, ranks = self.config, self.ranks
        # Every rank starts from the same weights.
        torch.manual_seed(config.seed)
        text = self.data.vocabulary.text
        with _memory_named("the config's detector", _SMALLER_DETECTOR):
            detector = build_detector(
                config.model,
                num_classes=len(self.data.vocabulary.class_names),
                text_features_CD=None if text is None else text_tensor(text),
                logit_scale=None if text is None else text.logit_scale,
                weights=_backbone_weights(config),
                device=ranks.device,
                semantic_branch=config.model.semantic_branch,
            )
        if config.start_from is not None:
            report = load_published(
                detector,
                data_file(config, config.start_from),
                fresh_heads=True,
                class_names=self.data.vocabulary.class_names,
            )
            self.reporter.say(f"{config.start_from}: {report.summary()}")
        if config.schedule.compile:
            detector.backbone.compile(dynamic=True)
        criterion = build_criterion(config.loss, config.model, text=text, image_counts_C=self.data.image_counts).to(
            ranks.device
        )
        backbone = config.model.backbone
        losses = DetectorLosses(
            detector,
            criterion,
            precision=config.schedule.precision,
            normalise=Normalise(backbone.pixel_mean, backbone.pixel_std).to(ranks.device),
        )
        schedule = config.schedule
        return Trainer(
            losses,
            make_optimiser(
                detector, lr=schedule.lr, backbone_lr=schedule.backbone_lr, weight_decay=schedule.weight_decay
            ),
            None if schedule.ema is None else deepcopy(detector).eval(),
            schedule=schedule,
            denoising=config.model.denoising,
            pseudo_threshold=config.loss.pseudo_threshold,
            ranks=ranks,
            seed=config.seed,
        )

    @property
    def detector(self) -> Dino:
        return self.trainer.detector_losses.detector

    def train(self, saved: Checkpoint | None) -> Ended:
        first_step = 0 if saved is None else self._restore(saved)
        if self.ranks.is_first:
            forget_after(self.folder.out, first_step)
        self._say_what_is_done(first_step)
        with self._open_log() as log:
            if saved is not None and self._is_evaluation_due(first_step) and not self._was_evaluated(first_step):
                self._evaluate(first_step, log)
            step = self._train_steps(first_step, log)
        if self.stop.signal is not None and not self._is_through(step):
            self.reporter.say(
                f"stopped by {self.stop.signal} after step {step}; the same command with --resume goes on from there"
            )
            return Ended(self.stop.signal, None)
        return Ended(None, self._finish() if self.ranks.is_first else None)

    def _restore(self, saved: Checkpoint) -> int:
        try:
            self.detector.load_state_dict(saved.model)
            if self.trainer.averaged is not None and saved.averaged is not None:
                self.trainer.averaged.load_state_dict(saved.averaged)
            self.trainer.optimiser.load_state_dict(saved.optimiser)
        except (RuntimeError, ValueError, KeyError) as error:
            raise RichSemError(
                f"{self.folder.last}: a checkpoint of another architecture ({' '.join(str(error).split())[:300]})"
            ) from None
        _require_same_labels(saved, self.data.fingerprints)
        self.best_ap = saved.best_ap
        return saved.step

    def _say_what_is_done(self, first_step: int) -> None:
        say = self.reporter.say
        train, extras = self.data.train, self.data.extras
        say(
            f"{self.config.name}: {len(train):,} detection pictures, {len(train.category_ids):,} boxes, "
            f"{len(train.categories):,} categories" + (f"; {_views_note(extras)}" if extras else "; no extra data")
        )
        for note in self._detection_notes():
            say(note)
        for cache in extras.values():
            if cache.expected.supervision == "labelled" and cache.classes_without_row:
                say(_unlabelled_note(cache))
        if self.extra is not None:
            if self.config.detection.labels == "none":
                say("detection pictures have no soft labels (detection.labels=none); extra data alone has them")
            for source in self.extra.sources:
                for note in sharing_notes(
                    source,
                    world_size=self.ranks.world_size,
                    pictures_a_draw=self.share.pictures_a_draw,
                    workers=self.config.workers,
                ):
                    say(note)
        if rows := self.data.vocabulary.rows_note:
            say(rows)
        if not len(self.truth.annotations.boxes):
            say(f"{AP_UNDEFINED}, so no checkpoint is kept as the best")
        parameters = sum(parameter.numel() for parameter in self.detector.parameters() if parameter.requires_grad)
        say(
            f"{parameters:,} trained parameters; {self.ranks.world_size} x {self.ranks.device.type}, "
            f"{self.config.schedule.precision}, deformable attention: "
            f"{attention_backend(self.config.model, self.ranks.device)}; "
            f"{self.total_steps:,} steps of {self.config.schedule.global_batch_size} pictures"
            + (f", from step {first_step:,} on" if first_step else "")
        )
        if fallback := attention_note(self.config.model, self.ranks.device):
            say(fallback)

    def _detection_notes(self) -> Iterator[str]:
        train, val = self.data.train, self.data.val.data
        for line in [*train.problem_lines(), *(f"val: {line}" for line in val.problem_lines())]:
            yield f"annotations: {line}"
        if crowded := _crowded_note(train, self.config.model.queries):
            yield crowded
        if self.data.windows is not None:
            yield from _windows_notes(self.config.detection, self.data.windows)

    def _open_log(self) -> "RunLogWriter | _NoLog":
        if not self.ranks.is_first:
            return _NoLog()
        log = self.config.log
        return RunLogWriter(
            self.folder.out,
            tensorboard=log.tensorboard,
            wandb=log.wandb,
            name=self.config.name,
            config=self.config.model_dump(mode="json"),
        )

    def _train_steps(self, first_step: int, log: "RunLogWriter | _NoLog") -> int:
        """Take the steps that are left; returns the number of steps taken in all."""
        loaders = TrainingLoaders(
            self.feed,
            self.extra,
            share=self.share,
            workers=self.config.workers,
            pin_memory=self.ranks.device.type == "cuda",
        )
        self.reporter.begin("training", self.total_steps, first_step)
        clock = _Clock()
        taken = first_step
        for loaded in self._until_stopped(loaders.batches(first_step, self.total_steps)):
            epoch = loaded.step // self.steps_per_epoch
            with _memory_named(f"step {loaded.step}", _SMALLER_STEP):
                result = self.trainer.step(loaded.step, epoch, loaded.batch)
            taken = loaded.step + 1
            clock.count(loaded.wait_seconds)
            self._count_damage(loaded, log)
            self.borrowed.count(loaded)
            self._record(taken, epoch, loaded, result, clock, log)
            should_stop = self._all_stop()
            is_due = self._is_evaluation_due(taken)
            if should_stop or is_due or taken % self.config.log.checkpoint_every_steps == 0:
                self._save(taken)
            if should_stop:
                break
            if is_due:
                self._evaluate(taken, log)
                self.reporter.begin("training", self.total_steps, taken)
                clock = _Clock()
        self.reporter.end()
        return taken

    def _until_stopped(self, batches: Iterator[LoadedStep]) -> Iterator[LoadedStep]:
        """The batches; a signal to the whole process group ends the loader's processes first, which is no error."""
        try:
            yield from batches
        except RuntimeError:
            if self.stop.signal is None:
                raise

    def _all_stop(self) -> bool:
        """Whether any rank was asked to stop: all end after the same step."""
        if not self.ranks.sum_of(float(self.stop.signal is not None)):
            return False
        self.stop.signal = self.stop.signal or "SIGTERM"
        return True

    def _count_damage(self, loaded: LoadedStep, log: "RunLogWriter | _NoLog") -> None:
        for message in self.ranks.messages(loaded.damage):
            self.damaged += 1
            self.reporter.say(f"replaced ({self.damaged} since the start): {message}")
            log.write("damage", loaded.step + 1, {"message": message})

    def _record(
        self,
        taken: int,
        epoch: int,
        loaded: LoadedStep,
        result: StepResult,
        clock: "_Clock",
        log: "RunLogWriter | _NoLog",
    ) -> None:
        if taken % self.config.log.every_steps == 0 or taken == self.total_steps:
            losses = mean_over_ranks(result.losses, self.ranks)
            log.write(
                "train",
                taken,
                {
                    "epoch": epoch,
                    "data": loaded.kind,
                    "loss": sum(losses.values()),
                    "losses": losses,
                    "grad_norm": result.grad_norm,
                    "lr": result.lr,
                    "seconds": clock.seconds,
                    "data_wait": clock.wait_share,
                    "without_soft_label": self.borrowed.missing_share(self.ranks),
                },
            )
        note = step_note(result.loss, result.losses, result.lr, clock.seconds, clock.wait_share)
        self.reporter.move(taken, note)

    def _is_evaluation_due(self, taken: int) -> bool:
        epochs, rest = divmod(taken, self.steps_per_epoch)
        return rest == 0 and (epochs % self.config.evaluation.every_epochs == 0 or taken == self.total_steps)

    def _is_through(self, taken: int) -> bool:
        """Whether nothing is left to do; a run stopped at its very last step has still to be evaluated."""
        return taken == self.total_steps and self._was_evaluated(taken)

    def _was_evaluated(self, taken: int) -> bool:
        return any(line["step"] == taken for line in read_log(self.folder.out / LOG_NAME).evaluations)

    def _evaluate(self, taken: int, log: "RunLogWriter | _NoLog") -> None:
        scored = self.trainer.averaged if self.trainer.averaged is not None else self.detector
        assert isinstance(scored, Dino)
        metrics = evaluate_split(
            batch_detector(scored.eval(), self.config, self.data.vocabulary.class_names, self.ranks.device),
            self.data.val,
            self.truth,
            self.folder.detections,
            config=self.config.evaluation,
            workers=self.config.workers,
            ranks=self.ranks,
            reporter=self.reporter,
        )
        if metrics is not None:
            log.write("eval", taken, metrics)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items() if is_defined(value))
            self.reporter.say(f"epoch {taken // self.steps_per_epoch}: {shown or AP_UNDEFINED}")
            if metrics["AP"] > self.best_ap:
                self.best_ap = metrics["AP"]
                save_checkpoint(self.folder.best, self._checkpoint(taken, with_optimiser=False))
            # Again, so that a resume knows the best.
            self._save(taken)
        self.ranks.wait()

    def _save(self, taken: int) -> None:
        if self.ranks.is_first:
            save_checkpoint(self.folder.last, self._checkpoint(taken, with_optimiser=True))

    def _checkpoint(self, taken: int, *, with_optimiser: bool) -> Checkpoint:
        text = self.data.vocabulary.text
        averaged = self.trainer.averaged
        return Checkpoint(
            ModelInfo(
                config=self.config,
                class_names=self.data.vocabulary.class_names,
                frequencies=self.data.vocabulary.frequencies,
                text_dim=0 if text is None else text.features.shape[1],
                logit_scale=0.0 if text is None else text.logit_scale,
                category_ids=tuple(self.data.vocabulary.category_ids.tolist()),
            ),
            self.detector.state_dict(),
            averaged.state_dict() if isinstance(averaged, nn.Module) else None,
            self.trainer.optimiser.state_dict() if with_optimiser else {},
            taken,
            self.best_ap,
            self.data.fingerprints,
        )

    def _finish(self) -> RenderableType:
        from richsem_train.results.plots import plot_run  # noqa: PLC0415 - matplotlib takes a second

        log = read_log(self.folder.out / LOG_NAME)
        last = log.evaluations[-1]
        scored = [line for line in log.evaluations if is_defined(line["metrics"]["AP"])]
        best = max(scored, key=lambda line: line["metrics"]["AP"], default=None)
        seconds = [line["seconds"] for line in log.steps]
        waits = [line["data_wait"] for line in log.steps]
        content = run_content(
            step=last["step"],
            metrics=last["metrics"],
            best_step=None if best is None else best["step"],
            best=None if best is None else best["metrics"],
            config=self.config.name,
            seconds_a_step=median(seconds) if seconds else None,
            data_wait=median(waits) if waits else None,
            damaged=log.damaged,
        )
        write_atomically(self.folder.results, (json.dumps(content, indent=2) + "\n").encode())
        plot_run(log.steps, log.evaluations, self.folder.curves, title=self.config.name)
        if log.damaged:
            self.reporter.say(f"{log.damaged} damaged pictures or views were replaced by others")
        if log.steps and (share := log.steps[-1].get("without_soft_label", 0.0)):
            self.reporter.say(
                f"{share:.1%} of the boxes of detection pictures had no soft label since this start: no stored view "
                "showed the same part of them"
            )
        kept = f"best: {self.folder.best}" if best is not None else f"last: {self.folder.last} ({AP_UNDEFINED})"
        self.reporter.say(f"results: {self.folder.results}  curves: {self.folder.curves}  {kept}")
        rows, title = {"last": last["metrics"]}, f"{self.config.name}, step {last['step']}"
        if best is not None and best["step"] != last["step"]:
            rows["best"] = best["metrics"]
            title += f"; best at step {best['step']}"
        return results_table(rows, title=title)


class _NoLog:
    """For all ranks but the first."""

    def __enter__(self) -> "_NoLog":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def write(self, event: str, step: int, values: dict[str, Any]) -> None:
        """Write nothing."""


class _Borrowed:
    """How many boxes of detection pictures could have borrowed a soft label, and how many found none."""

    def __init__(self) -> None:
        self._boxes = 0
        self._missing = 0

    def count(self, loaded: LoadedStep) -> None:
        """A batch was shown."""
        # Boxes of extra data have the labels that came with them.
        if loaded.kind != "detection":
            return
        for target in loaded.batch.targets:
            if target.soft_labels is not None:
                self._boxes += len(target.labels)
                if target.soft_labels.is_known is not None:
                    self._missing += int((~target.soft_labels.is_known).sum())

    def missing_share(self, ranks: Ranks) -> float:
        """Of these boxes, on all ranks since this process began, 0 to 1."""
        return ranks.sum_of(float(self._missing)) / max(ranks.sum_of(float(self._boxes)), 1.0)


class _Clock:
    """Seconds a step, and the share of them that it waited for data; the first step, which warms up, counts little."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.seconds = 0.0
        self._wait = 0.0

    def count(self, wait_seconds: float) -> None:
        """A step has ended."""
        now = time.perf_counter()
        elapsed, self._last = now - self._last, now
        # A running mean over about twenty steps.
        rate = 0.05 if self.seconds else 1.0
        self.seconds += rate * (elapsed - self.seconds)
        self._wait += rate * (wait_seconds - self._wait)

    @property
    def wait_share(self) -> float:
        """0 to 1."""
        return min(self._wait / max(self.seconds, 1e-9), 1.0)


@contextmanager
def _memory_named(what: str, remedy: str) -> Iterator[None]:
    """Say what to do where something doesn't fit into the memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of the CPU's allocator there is only the text.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RichSemError(f"{what} doesn't fit into the memory ({reason}); {remedy}") from None


def _backbone_weights(config: TrainConfig) -> str | None:
    weights = config.model.backbone.weights
    return weights if weights is None else str(data_file(config, Path(weights)))


def _views_note(extras: Mapping[str, TrainingCache]) -> str:
    if len(extras) == 1:
        return f"{next(iter(extras.values())).views_per_pass:,} extra views a pass"
    counted = [f"{cache.views_per_pass:,} of {cache.source.layout.out}" for cache in extras.values()]
    return f"extra views a pass: {', '.join(counted)}"


def _unlabelled_note(cache: TrainingCache) -> str:
    lost = cache.classes_without_row
    shown = ", ".join(lost[:_SHOWN]) + (", ..." if len(lost) > _SHOWN else "")
    return f"{cache.source.layout.out}: {len(lost):,} classes are not in the text, so they are unlabelled: {shown}"


def _crowded_note(data: DetectionData, queries: int) -> str | None:
    """Where pictures have more boxes than there are queries to learn them."""
    counts = np.diff(data.offsets)
    crowded = np.flatnonzero(counts > queries)
    if not len(crowded):
        return None
    first, most = crowded[0], int(counts.max())
    return (
        f"{len(crowded):,} detection pictures have more boxes than the detector has queries ({queries:,}), so some of "
        f"their boxes are never learnt: first {data.files[first]} with {counts[first]:,}; --set model.queries={most} "
        "gives each box one"
    )


def _windows_notes(detection: DetectionConfig, windows: WindowCache) -> Iterator[str]:
    source = windows.cache.source
    labels = f"({source.label_set}, {windows.cache.expected.labels})"
    otherwise = _drawn_otherwise(detection.augmentation, windows)
    if detection.views == "stored":
        yield (
            f"detection pictures are shown as {source.layout.out} has them: windows of {source.passes} passes with "
            f"soft labels {labels}"
        )
        if otherwise:
            yield f"detection.augmentation is not used; the windows were drawn {otherwise}"
    else:
        yield (
            f"detection pictures are augmented anew; their boxes have soft labels of the nearest of {source.passes} "
            f"windows in {source.layout.out} {labels}"
        )
        if otherwise:
            yield f"detection.augmentation draws what the windows don't show; they were drawn {otherwise}"


def _drawn_otherwise(asked: AugmentationConfig, windows: WindowCache) -> str | None:
    """How the windows were drawn, where the config says something else of augmentation."""
    drawn = windows.cache.source.spec.views.geometry
    if drawn.scale_jitter is not None:
        low, high = drawn.scale_jitter.factors
        return f"by scale jitter, {low:g} to {high:g} of what fits into {drawn.scale_jitter.side} px"
    fields = ["short_sides", "longest_side", "first_short_sides", *(["crop_sides"] if drawn.first_short_sides else [])]
    differing = [field for field in fields if getattr(asked, field) != getattr(drawn, field)]
    if not differing:
        return None
    return f"with other sizes: {', '.join(f'{field} {getattr(drawn, field)}' for field in differing)}"


def _require_same_labels(saved: Checkpoint, fingerprints: dict[str, str]) -> None:
    for section in sorted(saved.fingerprints.keys() | fingerprints.keys()):
        before, now = saved.fingerprints.get(section), fingerprints.get(section)
        if before != now:
            raise RichSemError(
                f"{_LABELS_OF.get(section, section)} is another label set than the run began with: its fingerprint is "
                f"{now}, it was {before}; give the cache it began with, or name another --out"
            )
