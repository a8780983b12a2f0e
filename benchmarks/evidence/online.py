"""Training with the teacher inside of it: what `richsem-train` does, but that steps label their batch first.

    python -m benchmarks.evidence.online --config FILE --teacher demo --teacher-size 192 --label both --out DIR

Batches of the chosen kind lose the labels that the config gives them, and get embeddings of their own pixels by the
live teacher, as in the reference. The order of the data, draws, checkpoints, log, evaluation and results are those of
`richsem-train` with this config; `--resume` is as exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from benchmarks.evidence.online_teacher import OnlineTeacher
from richsem_prep.teacher.teacher import Teacher, load_teacher, parse_teacher
from richsem_schemas.cache.manifest import TeacherIdentity
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.cache.text_folder import read_text_folder
from richsem_schemas.command_line import new_program, run_program
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_train.commands.options import Changes, Device
from richsem_train.commands.train import STOPPED
from richsem_train.config import TrainConfig, load_config
from richsem_train.console import ConsoleReporter, Reporter
from richsem_train.data.loaders import LoadedStep
from richsem_train.data.order import DataKind
from richsem_train.run.assemble import AssembledRun, assemble
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import memory_limit_explained
from richsem_train.run.open_data import RunData
from richsem_train.run.outcome import TrainedRun
from richsem_train.run.training import train_assembled_by

Label = Literal["detection", "extra", "both"]

KINDS: dict[Label, tuple[DataKind, ...]] = {
    "detection": ("detection",),
    "extra": ("extra",),
    "both": ("detection", "extra"),
}

_SMALLER_TEACHER = "lower --teacher-size or schedule.global_batch_size, or take a smaller --teacher"


@dataclass(frozen=True)
class OnlineLabels:
    """What the live teacher labels.

    Attributes:
        teacher: as `richsem-prep shard --teacher` takes it.
        teacher_size: longer side of a picture as the teacher sees it, pixels; None is the student's padded batch.
        label: steps of which data.
    """

    teacher: str
    teacher_size: int | None
    label: Label


@dataclass(frozen=True, eq=False)
class OnlineRun(AssembledRun):
    """A run whose batches of some kinds are labelled by a live teacher before their step."""

    online: OnlineTeacher
    kinds: tuple[DataKind, ...]

    def batches(self, start_step: int, end_step: int) -> Iterator[LoadedStep]:
        """This rank's batches of steps `start_step` to `end_step - 1`, labelled."""
        for loaded in super().batches(start_step, end_step):
            yield self._labelled(loaded) if loaded.kind in self.kinds else loaded

    def _labelled(self, loaded: LoadedStep) -> LoadedStep:
        with memory_limit_explained(f"the teacher at step {loaded.step}", _SMALLER_TEACHER):
            return replace(loaded, batch=self.online.labelled(loaded.batch.to(self.ranks.device)))


def train_online(
    config: TrainConfig,
    out: Path,
    labels: OnlineLabels,
    *,
    resume: bool = False,
    device: str | None = None,
    reporter: Reporter,
) -> TrainedRun:
    """`richsem_train.train` with labels by the live teacher.

    Raises:
        RichSemError: the config has nothing to be labelled or nobody to learn it, the teacher can't be loaded, or the
            text bank is another teacher's; and what `train` raises.
    """
    _require_pupil(config, labels.label)

    def assemble_online(config: TrainConfig, data: RunData, ranks: Ranks) -> OnlineRun:
        teacher = load_teacher(parse_teacher(labels.teacher), device=ranks.device)
        _require_own_text(text_teacher(config, data), teacher.identity)
        if ranks.is_first:
            reporter.say(_note(labels, teacher))
        return assembled(assemble(config, data, ranks), teacher, labels)

    return train_assembled_by(assemble_online, config, out, resume=resume, device=device, reporter=reporter)


def assembled(run: AssembledRun, teacher: Teacher, labels: OnlineLabels) -> OnlineRun:
    """A run with the teacher inside.

    Its checkpoints say so, among the fingerprints of what it learns from: it goes on with the same teacher alone.
    """
    online = OnlineTeacher(
        teacher,
        run.trainer.learner.normalise,
        precision=run.config.schedule.precision,
        teacher_size=labels.teacher_size,
    )
    fingerprints = run.data.fingerprints | {"the online teacher": _fingerprint(labels, teacher.identity)}
    parts = vars(run) | {"data": replace(run.data, fingerprints=fingerprints)}
    return OnlineRun(**parts, online=online, kinds=KINDS[labels.label])


def text_teacher(config: TrainConfig, data: RunData) -> TeacherIdentity:
    """Whose text bank a config with a semantic branch has."""
    text = config.text
    if text is not None and text.folder is not None:
        return read_text_folder(text.folder).teacher
    if text is not None and text.cache is not None:
        return open_cache(text.cache).label_set(text.label_set).spec.teacher
    caches = list(data.extras.values()) + ([] if data.windows is None else [data.windows.cache])
    return caches[0].source.spec.teacher


def _require_pupil(config: TrainConfig, label: Label) -> None:
    if not config.model.semantic_branch:
        raise RichSemError(
            "model.semantic_branch is false, so nothing would learn what the teacher says; --set "
            "model.semantic_branch=true, or train by richsem-train"
        )
    if "extra" in KINDS[label] and not config.extras:
        raise RichSemError(f"--label {label}: the config has no extra data (extra is null); use --label detection")


def _require_own_text(found: TeacherIdentity, teacher: TeacherIdentity) -> None:
    fields = ("weights_sha256", "model_config_sha256")
    if any(getattr(found, field) != getattr(teacher, field) for field in fields):
        raise RichSemError(
            f"--teacher {teacher.name} (weights {teacher.weights_sha256[:12]}) isn't that of the config's text bank, "
            f"{found.name} (weights {found.weights_sha256[:12]}), and embeddings mean something beside names by the "
            "same teacher alone; give that one, or name as text.folder what `richsem-prep text` makes with this one"
        )


def _fingerprint(labels: OnlineLabels, teacher: TeacherIdentity) -> str:
    size = "" if labels.teacher_size is None else f", {labels.teacher_size} px"
    return f"{teacher.name} (weights {teacher.weights_sha256}){size}, on {labels.label}"


def _note(labels: OnlineLabels, teacher: Teacher) -> str:
    kinds = " and ".join(KINDS[labels.label])
    seen = "the padded batch" if labels.teacher_size is None else f"each picture at {labels.teacher_size} px"
    how = "regions cut out of it" if teacher.clip_resnet is None else "regions pooled from its map"
    return f"{kinds} steps are labelled by {teacher.identity.name}, which sees {seen}, {how}, before each step"


def main(
    config: Annotated[str, typer.Option(help="One that comes with the package, or a YAML file.")],
    teacher: Annotated[str, typer.Option(help="As richsem-prep shard takes it; the one of the config's text bank.")],
    label: Annotated[Label, typer.Option(help="Steps of which data it labels.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder of the run.", parser=local_path)],
    teacher_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Longer side of a picture as the teacher sees it, pixels. \\[default: the padded batch]"
        ),
    ] = None,
    changes: Changes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in OUT.")] = False,
    device: Device = None,
) -> None:
    """Train as richsem-train does, with labels by a live teacher."""
    labels = OnlineLabels(teacher, teacher_size, label)
    with ConsoleReporter(Console(stderr=True)) as reporter:
        run = train_online(
            load_config(config, changes or []), out, labels, resume=resume, device=device, reporter=reporter
        )
    if run.stopped_by is not None:
        raise typer.Exit(130 if run.stopped_by == "SIGINT" else STOPPED)
    if run.table is not None:
        Console().print(run.table)


app = new_program("online")
app.command()(main)

if __name__ == "__main__":
    run_program(app)
