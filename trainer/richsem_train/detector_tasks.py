"""A trained detector is scored, shown pictures, or exported."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from richsem_schemas.annotations.picture_list import chosen_pictures
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.output_files import require_folder, require_no_inputs
from richsem_schemas.scoring.evaluation import GroundTruth, truth_of
from richsem_train.choices import Protocol, Scorer
from richsem_train.config import builtin_configs
from richsem_train.console import Reporter, SilentReporter
from richsem_train.data.category_rows import ScoredSplit, scored_split
from richsem_train.detector import Detector, open_detector
from richsem_train.results.coco_results import IMAGES, RESULTS, AnnotatedIds, CocoResults
from richsem_train.results.compare_detectors import (
    Compared,
    Contender,
    compare_detectors,
    titles_of,
    unshared_classes_note,
)
from richsem_train.results.gallery import Predicted, output_files
from richsem_train.results.official_lvis import official_cost, require_official
from richsem_train.results.picture_files import picture_files
from richsem_train.results.predict import predict as predict_pictures
from richsem_train.results.protocols import format_for, limits_of, protocol_words
from richsem_train.results.rank_files import rank_file
from richsem_train.run.checkpoint import export_weights, load_checkpoint
from richsem_train.run.class_frequencies import frequencies_by_id
from richsem_train.run.detectors import kind_of
from richsem_train.run.distributed import Ranks, choose_device, join_ranks
from richsem_train.run.evaluate import evaluate_split
from richsem_train.run.named_files import data_folder
from richsem_train.run.open_data import read_split
from richsem_train.run.picture_check import require_pictures
from richsem_train.run.rebuilding import rebuilt_detector
from richsem_train.run.reported_run import EvaluatedRun, read_evaluated_run
from richsem_train.run.write_report import WrittenReport, require_report_folder, write_report


@dataclass(frozen=True)
class Scores:
    """A checkpoint's score on the val split of its config.

    Attributes:
        annotations: file of the split, as the config names it.
        metrics: by name, such as `AP` and `APr`, 0 to 1; -1 where a metric is undefined.
        pictures: that were scored.
        protocol: how, in words.
        frequencies: the rule that APr, APc and APf go by, in words.
    """

    annotations: Path
    metrics: dict[str, float]
    pictures: int
    protocol: str
    frequencies: str


def score_checkpoint(
    checkpoint: Path,
    *,
    config: str | None,
    changes: Sequence[str],
    out: Path | None,
    device: str | None,
    reporter: Reporter,
    scorer: Scorer = "hotcoco",
    protocol: Protocol | None = None,
    pictures: Path | None = None,
) -> Scores | None:
    """Score a checkpoint on the val split of its config.

    Arguments are those of `richsem-train eval`; without `out` no detections are kept, without `protocol` it is that of
    the annotations' format, and without `pictures` all of the split are scored.

    Returns:
        None on all ranks but the first.
    """
    with join_ranks(device) as ranks:
        if not ranks.is_first:
            reporter = SilentReporter()
        detector = open_detector(checkpoint, config=config, changes=changes, device=ranks.device)
        settings = detector.info.config
        if note := kind_of(settings.model).note(settings.model, ranks.device):
            reporter.say(note)
        val, truth = _val_split(detector, reporter, protocol, pictures)
        limits = limits_of(protocol, settings.evaluation.detections)
        words = protocol_words(truth.metric, limits)
        annotations = settings.detection.val.annotations
        if out is not None:
            require_folder(out)
            inputs = [*_files_of(checkpoint, config), data_folder(settings) / annotations, *filter(None, [pictures])]
            require_no_inputs([rank_file(out, ranks.rank)], inputs, remedy="name another --out")
        require_pictures({"val": val.data}, ranks=ranks, reporter=reporter)
        reporter.say(f"{len(val.data):,} pictures of {annotations} are scored by {words}")
        if limits.of_picture is None:
            reporter.say(
                kind_of(settings.model).most_detections(settings.model, sum(map(bool, detector.info.class_names[1:])))
            )
        reporter.say(f"APr, APc and APf are of classes rare, common and frequent {truth.frequencies.rule}")
        if scorer == "lvis":
            require_official(truth)
            cost = official_cost(truth, limits.most(pictures=len(val.data), categories=len(truth.category_ids)))
            reporter.say(f"lvis will take {cost} once all is detected; hotcoco gives the same figures in seconds")
        with _detections_folder(out, checkpoint, ranks) as folder:
            scores = evaluate_split(
                detector.batches,
                val,
                truth,
                folder,
                config=settings.evaluation,
                workers=settings.workers,
                ranks=ranks,
                reporter=reporter,
                scorer=scorer,
                limits=limits,
            )
        if scores is None:
            return None
        return Scores(annotations, scores.metrics, len(val.data), words, truth.frequencies.rule)


def report_run(run: Path, *, against: Path | None, out: Path, device: str | None, reporter: Reporter) -> WrittenReport:
    """Write `report.html` and `report.json` of a run's last evaluation into `out`.

    Arguments are those of `richsem-train report`; where the run's detections are missing, its last checkpoint detects
    again, into its folder.

    Raises:
        RichSemError: there is no such run, or files of it are damaged.
    """
    evaluated_run = read_evaluated_run(run)
    compared_run = None if against is None else read_evaluated_run(against)
    require_report_folder(evaluated_run, out)
    for each in (evaluated_run, compared_run):
        # The APs of another run are in its log, if it isn't an old one.
        if each is not None and not each.detection_files and (each is evaluated_run or not each.log.class_aps):
            _detect_again(each, device, reporter)
    return write_report(evaluated_run, compared_run, out, reporter)


def _detect_again(run: EvaluatedRun, device: str | None, reporter: Reporter) -> None:
    if not run.folder.last.is_file():
        raise RichSemError(
            f"{run.folder.detections}: the detections of the last evaluation are missing, and so is "
            f"{run.folder.last}, which would detect again; bring either back, or go on with the run by --resume"
        )
    reporter.say(f"{run.folder.detections}: no detections; {run.folder.last} detects again")
    score_checkpoint(
        run.folder.last, config=None, changes=[], out=run.folder.detections, device=device, reporter=reporter
    )


def _val_split(
    detector: Detector, reporter: Reporter, protocol: Protocol | None, pictures: Path | None
) -> tuple[ScoredSplit, GroundTruth]:
    info, detection = detector.info, detector.info.config.detection
    file_format = format_for(protocol, detection.format)
    data = read_split(info.config, detection.val, class_names=info.class_names, is_scored=True, file_format=file_format)
    if pictures is not None:
        data = data.of_pictures(chosen_pictures(data, pictures))
    val = scored_split(data, info.class_names)
    truth = truth_of(
        val.data, file_format, trained=frequencies_by_id(info.frequencies, info.frequency_rule, val.category_ids)
    )
    for line in val.data.problem_lines():
        reporter.say(f"annotations: {line}")
    return val, truth


@contextmanager
def _detections_folder(out: Path | None, checkpoint: Path, ranks: Ranks) -> Iterator[Path]:
    """Where all ranks write their detections; without `out` it is gone afterwards."""
    if out is not None:
        yield out
    elif ranks.is_alone:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        # The one place that ranks on several nodes are known to share; a new folder, since this one is taken away.
        name = f".{checkpoint.name}.{os.urandom(4).hex()}.detections"
        beside = checkpoint.with_name(ranks.messages([name] if ranks.is_first else [])[0])
        try:
            yield beside
        finally:
            if ranks.is_first:
                shutil.rmtree(beside, ignore_errors=True)


def _files_of(checkpoint: Path, config: str | None) -> list[Path]:
    """The files that `open_detector` reads."""
    return [checkpoint, *([Path(config)] if config is not None and config not in builtin_configs() else [])]


def show_pictures(
    checkpoint: Path,
    images: Sequence[Path],
    out: Path,
    *,
    threshold: float,
    annotations: Path | None,
    config: str | None,
    changes: Sequence[str],
    device: str | None,
    reporter: Reporter,
) -> Predicted:
    """Detect objects in pictures and write what was found into `out`.

    The arguments are those of `richsem-train predict`; the pictures' files, folders and patterns are found by
    `picture_files`.

    Raises:
        RichSemError: there are no such pictures, something would be written over what is read, or the annotations are
            of other pictures or classes.
    """
    paths = picture_files(*images, leave_out=out)
    read = _files_of(checkpoint, config) if annotations is None else [*_files_of(checkpoint, config), annotations]
    _require_free(paths, out, read, (RESULTS, IMAGES))
    known = None if annotations is None else AnnotatedIds.read(annotations)
    image_ids = {path: place for place, path in enumerate(paths, start=1)} if known is None else known.image_ids(paths)
    if len(image_ids) < len(paths):
        reporter.say(
            f"{annotations} has {len(image_ids):,} of the {len(paths):,} pictures; {RESULTS} is of these alone"
        )
    (detector,) = _opened([(checkpoint, config)], changes, device, reporter)
    classes = detector.classes if known is None else known.classes(detector.classes)
    with _told(reporter, len(paths)) as on_picture:
        return predict_pictures(
            paths,
            detector.batches.detect_picture,
            out,
            classes=detector.classes,
            score_threshold=threshold,
            coco=CocoResults(out, classes, image_ids),
            on_picture=on_picture,
        )


def compare_on_pictures(
    checkpoints: tuple[Path, Path],
    images: Sequence[Path],
    out: Path,
    *,
    threshold: float,
    configs: tuple[str | None, str | None],
    changes: Sequence[str],
    device: str | None,
    reporter: Reporter,
) -> Compared:
    """Detect objects in pictures by two detectors and write what was found by both, and by one, into `out`.

    Raises:
        RichSemError: something would be written over what is read, or the detectors have no class in common.
    """
    sources = list(zip(checkpoints, configs, strict=True))
    paths = picture_files(*images, leave_out=out)
    _require_free(paths, out, [file for source in sources for file in _files_of(*source)])
    detectors = _opened(sources, changes, device, reporter)
    one, other = (detector.info.config.name for detector in detectors)
    a, b = (
        Contender(title, checkpoint, detector.classes, detector.batches.detect_picture)
        for title, checkpoint, detector in zip(
            titles_of((one, other), checkpoints), checkpoints, detectors, strict=True
        )
    )
    if note := unshared_classes_note(a, b):
        reporter.say(note)
    with _told(reporter, len(paths)) as on_picture:
        return compare_detectors(paths, a, b, out, score_threshold=threshold, on_picture=on_picture)


def _require_free(images: Sequence[Path], out: Path, files: Sequence[Path], others: Sequence[str] = ()) -> None:
    require_folder(out)
    require_no_inputs(
        output_files(images, out, others),
        [*files, *images],
        remedy="name another --out than the folder of the pictures",
    )


def _opened(
    sources: Sequence[tuple[Path, str | None]], changes: Sequence[str], device: str | None, reporter: Reporter
) -> list[Detector]:
    """The detectors of checkpoints, those of other programs by a config."""
    chosen = choose_device(device)
    detectors = [
        open_detector(checkpoint, config=config, changes=changes, device=chosen) for checkpoint, config in sources
    ]
    models = [detector.info.config.model for detector in detectors]
    notes = [kind_of(model).note(model, chosen) for model in models]
    for note in dict.fromkeys(filter(None, notes)):
        reporter.say(note)
    return detectors


@contextmanager
def _told(reporter: Reporter, pictures: int) -> Iterator[Callable[[Path, str | None], None]]:
    """What is called after each picture, with its problem if any."""
    done = 0

    def on_picture(path: Path, problem: str | None) -> None:
        nonlocal done
        done += 1
        reporter.move(done)
        if problem is not None:
            reporter.say(f"{path}: {problem}")

    reporter.begin("detecting", pictures)
    yield on_picture
    reporter.end()


@dataclass(frozen=True)
class Exported:
    """How many tensors were exported, and numbers in them."""

    tensors: int
    parameters: int


def export_checkpoint(checkpoint: Path, out: Path) -> Exported:
    """Write inference weights: averaged ones where there are any, without the semantic branch.

    Raises:
        RichSemError: `out` is no name for them, or the checkpoint itself.
    """
    if out.suffix != ".safetensors":
        raise RichSemError(f"--out {out}: exported weights are safetensors; name a file that ends in .safetensors")
    require_no_inputs([out], [checkpoint], remedy="name another --out")
    saved = load_checkpoint(checkpoint)
    detector = rebuilt_detector(saved, checkpoint, torch.device("cpu"))
    weights = detector.inference_state_dict()
    export_weights(out, saved.info, weights)
    return Exported(len(weights), sum(tensor.numel() for tensor in weights.values()))
