"""The report of a run: read, diagnosed, and written as a page and a JSON file."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.output_files import require_folder, require_no_inputs
from richsem_schemas.scoring.class_scores import class_aps
from richsem_schemas.scoring.diagnosis import diagnose
from richsem_schemas.scoring.evaluation import evaluated, numbered
from richsem_train.console import Reporter
from richsem_train.results.class_aps import ClassAps, aps_of_truth
from richsem_train.results.report_page import report_page
from richsem_train.results.run_report import Reported, report_content, rows_of
from richsem_train.run.named_files import data_folder
from richsem_train.run.reported_run import (
    EvaluatedRun,
    count_classes,
    other_evaluation_note,
    read_detections,
    read_scored_split,
)

PAGE, CONTENT = "report.html", "report.json"


@dataclass(frozen=True)
class WrittenReport:
    """Where a report is, and what it says.

    Attributes:
        page: the HTML page.
        file: the JSON file.
        content: of the JSON file.
    """

    page: Path
    file: Path
    content: dict[str, Any]


def require_report_folder(run: EvaluatedRun, out: Path) -> None:
    """Check that a report can be written there.

    Raises:
        RichSemError: it is no folder, or something that is read would be written over.
    """
    require_folder(out)
    detection, data = run.config.detection, data_folder(run.config)
    read = [run.folder.config, run.folder.log, data / detection.val.annotations, data / detection.train.annotations]
    require_no_inputs([out / PAGE, out / CONTENT], read, remedy="name another --out")


def write_report(run: EvaluatedRun, against: EvaluatedRun | None, out: Path, reporter: Reporter) -> WrittenReport:
    """Write the report of the detections that a run keeps, compared with another run or its own first evaluation.

    Raises:
        RichSemError: files of the run are missing, damaged, or of other pictures.
        FullDiskError: there is no space for it.
    """
    reported = _reported(run, against, reporter)
    rows = rows_of(reported)
    content = report_content(reported, rows)
    page, problems = report_page(reported, rows)
    if problems:
        reporter.say(f"{len(problems):,} pictures can't be shown; the first: {problems[0]}")
    # Names may hold what UTF-8 has no bytes for.
    write_atomically(out / CONTENT, (json.dumps(content, indent=1) + "\n").encode())
    write_atomically(out / PAGE, page.encode("utf-8", "replace"))
    return WrittenReport(out / PAGE, out / CONTENT, content)


def _reported(run: EvaluatedRun, against: EvaluatedRun | None, reporter: Reporter) -> Reported:
    reporter.begin("comparing with the annotations", 3)
    data, truth = read_scored_split(run)
    reporter.move(1)
    counts = count_classes(run, truth)
    truth = replace(truth, trained=counts.frequencies)
    reporter.move(2)
    diagnosis = diagnose(truth, read_detections(run, truth), max_detections=run.config.evaluation.detections)
    reporter.end()
    before, before_title = _before(run, against)
    notes = [note for note in (other_evaluation_note(run, diagnosis), counts.note) if note is not None]
    for note in notes:
        reporter.say(note)
    return Reported(
        name=run.config.name,
        step=run.log.evaluations[-1]["step"],
        data=data,
        truth=truth,
        diagnosis=diagnosis,
        train_pictures=counts.train_pictures,
        before=before,
        before_title=before_title,
        log_steps=run.log.steps,
        log_evaluations=run.log.evaluations,
        notes=tuple(notes),
    )


def _before(run: EvaluatedRun, against: EvaluatedRun | None) -> tuple[ClassAps | None, str]:
    """What the classes are compared with, and how it is called."""
    if against is not None:
        aps = against.class_aps(-1) or _scored_again(against)
        return aps, f"{against.title}, after {aps.step:,} steps"
    aps_of_first = run.class_aps(0)
    if aps_of_first is None or len(run.log.class_aps) < 2:
        return None, ""
    return aps_of_first, f"its own first evaluation, after {aps_of_first.step:,} steps"


def _scored_again(run: EvaluatedRun) -> ClassAps:
    """Of a run that was trained before logs had the APs of classes."""
    _, truth = read_scored_split(run)
    limit = run.config.evaluation.detections
    kept = numbered(truth, read_detections(run, truth), max_detections=limit)
    aps = class_aps(evaluated(truth, kept, max_detections=limit))
    return aps_of_truth(run.log.evaluations[-1]["step"], truth, aps)
