"""How far each cached form of a label is from the exact one, without training: the first tier of the evidence.

    python -m benchmarks.evidence.labels --checkpoint runs/demo/checkpoints/last.pt \
        --json benchmarks/results/evidence/labels.json --figure docs/images/evidence-labels.svg \
        --annotations coco128/annotations/instances_train2017.json --images coco128/train2017

The exact label of a region is what the demo's teacher says of the very view that the student sees. Beside it: the same
where the view stands in a padded batch, as in the reference; the stored forms of that view (embeddings in float16 and
int8, top-k classes with each tail); what is borrowed from the nearest of K other views, by fresh windows and by free
mosaics; and the hard label. Of each form KL in both directions, total variation, the cosine of the embeddings and
whether the same class comes first; then the trainer's own losses, of a trained and of an untrained detector, say how
far the form turns a batch's gradient. For a bucket the distributions are compared over the stored classes and one of
all the others, which is a lower bound; its gradients are what they are. Stored views in any number of passes are exact
each, so V has no row of its own.

Both worlds of `views`. What stands in the JSON isn't measured again.
"""

import json as json_format
import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer

from benchmarks.common import as_json
from benchmarks.evidence.distances import Logs, entropy, kl, spread, total_variation
from benchmarks.evidence.forms import EXACT, Form, Kind, Lesson, Taught, forms_of, taught_by
from benchmarks.evidence.gradients import BATCH, compared_gradients
from benchmarks.evidence.labels_figure import draw
from benchmarks.evidence.lessons import lessons_of
from benchmarks.evidence.students import students
from benchmarks.evidence.views import Sees, World, annotated_world, demo_world
from richsem_prep.teacher.teacher import Teacher, load_teacher, parse_teacher
from richsem_schemas.cache.soft_labels import class_log_probs
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.command_line import new_program, run_program
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import hash_file, write_atomically

NAME = "evidence-labels"
KINDS: tuple[Kind, ...] = get_args(Kind)
WITH_GRADIENTS: tuple[Kind, ...] = ("windows", "mosaics")
"""Crops have the forms of mosaics, and are learnt from in their place."""

STUDENTS = ("trained", "untrained")


def main(
    json: Annotated[Path, typer.Option(help="Figures; those that are there are kept, the others added.")],
    checkpoint: Annotated[Path, typer.Option(help="Of a trained detector of the demo.")] = Path(
        "runs/demo/checkpoints/last.pt"
    ),
    annotations: Annotated[Path | None, typer.Option(help="In COCO's format; none: the demo's world alone.")] = None,
    images: Annotated[Path | None, typer.Option(help="Their pictures.")] = None,
    views: Annotated[int, typer.Option(help="Of each kind, at most.")] = 128,
    batches: Annotated[int, typer.Option(help="For gradients, at most; of eight views.")] = 12,
    figure: Annotated[Path | None, typer.Option(help="Draw them here.")] = None,
) -> None:
    """Measure what isn't measured yet."""
    torch.set_num_threads(1)
    if (annotations is None) != (images is None):
        raise RichSemError("--annotations and --images belong together: a file and the folder of its pictures")
    if not checkpoint.is_file():
        raise RichSemError(f"{checkpoint}: there is no such checkpoint; `make demo` trains one, or name another")
    settings = {"views": views, "batches": batches, "student_sha256": hash_file(checkpoint).sha256}
    record = Record(json, settings)
    worlds = {"demo": demo_world(views)}
    if annotations is not None and images is not None:
        worlds["pictures"] = annotated_world(annotations, images)
    teacher = load_teacher(parse_teacher("demo"), device=torch.device("cpu"))
    for name, each in worlds.items():
        measure_world(record, name, each, teacher, checkpoint)
    if figure is not None:
        draw(record.figures, figure)


class Record:
    """Figures in a file, written as they come.

    Raises:
        RichSemError: those in the file are of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.figures: dict[str, Any] = {"settings": settings, "worlds": {}}
        if path.is_file():
            self.figures = json_format.loads(path.read_bytes())
            if self.figures.get("settings") != settings:
                raise RichSemError(
                    f"{path}: its figures are of {self.figures.get('settings')}, this run is of {settings}; name "
                    "another file, or the same settings"
                )

    def kind(self, world: str, kind: Kind) -> dict[str, Any]:
        """What is known of a kind of views, to be added to."""
        kinds: dict[str, Any] = self.figures["worlds"].setdefault(world, {})
        return kinds.setdefault(kind, {"forms": {}, "gradients": {}, "measured": []})

    def save(self, node: dict[str, Any], what: str) -> None:
        """Write all figures; note when and from which commit those of `what` came."""
        node["measured"].append(
            {"what": what, "date": datetime.now(UTC).date().isoformat(), "commit": commit(), "load": os.getloadavg()}
        )
        figures = {name: value for name, value in self.figures.items() if name not in ("benchmark", "machine")}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (as_json(NAME, figures) + "\n").encode())


def commit() -> str | None:
    """Of the checkout that this file lies in; None where it is none."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def measure_world(record: "Record", name: str, each: World, teacher: Teacher, checkpoint: Path) -> None:
    sees = Sees.for_world(teacher, each)
    for kind in KINDS:
        node = record.kind(name, kind)
        forms = forms_of(kind, len(sees.text.class_names))
        lacking = [form for form in forms if form.name not in node["forms"]]
        unturned = {
            student: [form for form in forms if form.name not in (EXACT, *node["gradients"].get(student, ()))]
            for student in (STUDENTS if kind in WITH_GRADIENTS else ())
        }
        if not lacking and not any(unturned.values()):
            continue
        lessons = lessons_of(each, kind, sees, record.settings["views"])
        if lacking:
            node |= described(lessons, sees.text)
            node["forms"] |= distances(lessons, lacking, sees.text)
            record.save(node, "distances")
        taught = lessons[: BATCH * record.settings["batches"]]
        measure_gradients(record, node, taught, unturned, checkpoint, sees.text)


def measure_gradients(
    record: "Record",
    node: dict[str, Any],
    lessons: Sequence[Lesson],
    lacking: dict[str, list[Form]],
    checkpoint: Path,
    text: TextBank,
) -> None:
    exact = forms_of("crops", len(text.class_names))[0]
    for name, forms in lacking.items():
        if forms:
            found = compared_gradients(students(checkpoint, text)[name], lessons, [exact, *forms], text)
            node["gradients"].setdefault(name, {}).update(found)
            record.save(node, f"gradients, {name}")


def described(lessons: Sequence[Lesson], text: TextBank) -> dict[str, Any]:
    exact_RC = np.concatenate([exact_log_probs(lesson, text) for lesson in lessons])
    return {
        "views": len(lessons),
        "regions": len(exact_RC),
        "classes": len(text.class_names),
        "entropy": spread(entropy(exact_RC)),
    }


def exact_log_probs(lesson: Lesson, text: TextBank) -> Logs:
    return class_log_probs(lesson.exact, text.features, logit_scale=text.logit_scale)


def distances(lessons: Sequence[Lesson], forms: Sequence[Form], text: TextBank) -> dict[str, Any]:
    exact = [exact_log_probs(lesson, text) for lesson in lessons]
    return {
        form.name: form_distances(
            [taught_by(form, lesson, text, log_probs) for lesson, log_probs in zip(lessons, exact, strict=True)],
            np.concatenate([log_probs.argmax(-1) for log_probs in exact]),
            np.concatenate([lesson.exact for lesson in lessons]),
        )
        for form in forms
    }


def form_distances(taught: Sequence[Taught], top_R: np.ndarray, exact_RD: np.ndarray) -> dict[str, Any]:
    """Over all regions whose label is known; KL is None where it is infinite."""
    is_known_R = np.concatenate([each.is_known for each in taught])
    exact, cached = (
        np.concatenate([getattr(each, part) for each in taught])[is_known_R] for part in ("exact", "taught")
    )
    cosine = None
    if all(each.embeddings is not None for each in taught):
        embeddings_RD = np.concatenate([each.embeddings for each in taught if each.embeddings is not None])
        cosine = spread((exact_RD * embeddings_RD).sum(-1)[is_known_R])
    agrees = np.concatenate([each.top for each in taught])[is_known_R] == top_R[is_known_R]
    return {
        "without_label": float(1 - is_known_R.mean()),
        "kl": spread(kl(exact, cached)),
        "kl_reversed": spread(kl(cached, exact)),
        "total_variation": spread(total_variation(exact, cached)),
        "cosine": cosine,
        "top_1_agrees": float(agrees.mean()) if len(agrees) else None,
    }


if __name__ == "__main__":
    app = new_program("labels")
    app.command()(main)
    run_program(app)
