"""A run with all that a report of it is made from: its log, the split it is scored on, the detections it keeps."""

from dataclasses import dataclass
from pathlib import Path

from richsem_schemas.annotations import Category, DetectionData
from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.class_frequencies import ClassFrequencies, frequencies_of
from richsem_schemas.scoring.detections import Detections
from richsem_schemas.scoring.diagnosis import Diagnosis
from richsem_schemas.scoring.evaluation import GroundTruth, truth_of
from richsem_train.config import TrainConfig, load_config
from richsem_train.results.class_aps import ClassAps, aps_of_record
from richsem_train.results.rank_files import merge_detections
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.folder import RunFolder
from richsem_train.run.log import RunLog, read_log
from richsem_train.run.open_data import read_split

_SAME_AP = 1e-6

_ONE_SPLIT_NAMES_ALL = frozenset({"lvis"})
"""Formats that write the counts and letters of the training split into every split."""


@dataclass(frozen=True, eq=False)
class EvaluatedRun:
    """A run that was evaluated at least once.

    Attributes:
        folder: of the run.
        config: of the run.
        log: with one evaluation or more.
    """

    folder: RunFolder
    config: TrainConfig
    log: RunLog

    @property
    def title(self) -> str:
        """How others call it: the name of its config, and its folder."""
        return f"{self.config.name} ({self.folder.out})"

    @property
    def detection_files(self) -> list[Path]:
        """The detections of its last evaluation, a file a rank, those of lower ranks first.

        Files of more ranks than there are now may lie among them; what those hold is in the first ones, too.
        """
        return sorted(self.folder.detections.glob("detections-*.arrow"))

    def class_aps(self, place: int) -> ClassAps | None:
        """The APs of classes of an evaluation, -1 the last; None where the log has none."""
        records = self.log.class_aps
        return aps_of_record(records[place], str(self.folder.log)) if records else None


def read_evaluated_run(out: Path) -> EvaluatedRun:
    """Read the config and the log of a run, finished or not.

    Raises:
        RichSemError: OUT holds no run, one that was never evaluated, or a damaged one.
    """
    folder = RunFolder(out)
    if not folder.config.is_file():
        raise RichSemError(f"{out} holds no run ({folder.config} is missing); name the OUT of a run")
    config = load_config(str(folder.config))
    if not folder.log.is_file():
        raise RichSemError(f"{out}: the run has no log yet ({folder.log} is missing); let it train up to an evaluation")
    log = read_log(folder.log)
    if not log.evaluations:
        raise RichSemError(
            f"{folder.log}: no evaluation in it; the first is made after evaluation.every_epochs "
            f"({config.evaluation.every_epochs}) epochs: go on with the run by --resume"
        )
    return EvaluatedRun(folder, config, log)


def read_scored_split(run: EvaluatedRun) -> tuple[DetectionData, GroundTruth]:
    """The split that a run is scored on."""
    config = run.config
    # Files that don't list their classes are read for those of the detector.
    names = load_checkpoint(run.folder.last).info.class_names if config.detection.format == "visual-genome" else None
    data = read_split(config, config.detection.val, class_names=names, is_scored=True)
    return data, truth_of(data, config.detection.format)


def read_detections(run: EvaluatedRun, truth: GroundTruth) -> Detections:
    """The detections that a run keeps, of all pictures of the split.

    Raises:
        RichSemError: files are damaged, or of other pictures.
    """
    try:
        return merge_detections(run.detection_files, truth.image_ids.tolist())
    except RichSemError as error:
        raise RichSemError(
            f"{error}. Without {run.folder.detections} the detector of {run.folder.last} detects again: delete that "
            "folder and give the same command"
        ) from None


def other_evaluation_note(run: EvaluatedRun, diagnosis: Diagnosis) -> str | None:
    """What is to be said where the detections have another AP than the last evaluation; None where they haven't."""
    logged, found = run.log.evaluations[-1]["metrics"].get("AP"), diagnosis.metrics["AP"]
    if logged is not None and abs(float(logged) - found) <= _SAME_AP:
        return None
    return (
        f"these detections have an AP of {found:.4f} and the last evaluation of {run.folder.log} had "
        f"{-1 if logged is None else float(logged):.4f}: they are of another evaluation, or the annotations or the "
        f"device have changed since; delete {run.folder.detections} to have them detected again"
    )


@dataclass(frozen=True)
class ClassCounts:
    """How often K classes are in training.

    Attributes:
        train_pictures: K; None where that can't be told.
        frequencies: what the training split makes of that, by the scored split's ids; None where it can't be told.
        note: why there are no counts; None where there are.
    """

    train_pictures: tuple[int | None, ...]
    frequencies: ClassFrequencies | None = None
    note: str | None = None


def count_classes(run: EvaluatedRun, truth: GroundTruth) -> ClassCounts:
    """Count the training pictures of the categories of the scored split, joined by name."""
    categories, detection = truth.annotations.categories, run.config.detection
    if detection.format in _ONE_SPLIT_NAMES_ALL and all(category.frequency for category in categories):
        return ClassCounts(tuple(category.image_count for category in categories))
    try:
        train = read_split(run.config, detection.train, class_names=_names_of(categories))
    except (RichSemError, OSError) as error:
        return ClassCounts((None,) * len(categories), note=f"training pictures can't be counted: {error}")
    trained = frequencies_of(train.categories, detection.train.annotations.name)
    known = {category.name: category for category in train.categories}
    shared = {each.id: known[each.name] for each in categories if each.name in known}
    return ClassCounts(
        tuple(shared[each.id].image_count if each.id in shared else 0 for each in categories),
        ClassFrequencies({number: trained.letters[each.id] for number, each in shared.items()}, trained.rule),
    )


def _names_of(categories: tuple[Category, ...]) -> tuple[str, ...]:
    """As rows of a vocabulary, of which the first is no class."""
    return ("", *(category.name for category in categories))
