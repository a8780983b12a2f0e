"""From somebody's folder, file or archive to a new folder with all that training needs."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_train.console import Reporter
from richsem_train.own_data.clean import clean_data
from richsem_train.own_data.commands_file import Step, script, steps_of
from richsem_train.own_data.formats import READ_FORMATS, read_export
from richsem_train.own_data.found import Found, find_classes
from richsem_train.own_data.listing import Listing, list_files
from richsem_train.own_data.records import Export
from richsem_train.own_data.split import split_pictures
from richsem_train.own_data.training_plan import BASE_CONFIG, DeviceKind, TrainingPlan, plan_training, training_values
from richsem_train.own_data.unzip import unzip_export
from richsem_train.own_data.write import annotations_json, config_values, new_folder, write_config

HARD_CONFIG, SOFT_CONFIG = "hard_labels.yaml", "config.yaml"
_ANNOTATION_FOLDERS = ("annot", "label", "json")
"""How folders of annotations are called whose pictures lie beside them."""


@dataclass(frozen=True)
class NewRequest:
    """What is asked for.

    Attributes:
        data: a folder, a file of annotations, or an archive.
        out: the folder to be made.
        images: where the pictures lie, if not below `data`.
        teacher: of soft labels; None trains with hard labels.
        base: the config to build on; None is the small one.
        changes: of the config, as `--set` has them.
        near_copies: look for pictures that look the same.
        seed: of the split.
        hours: that training may take.
        device: that trains.
    """

    data: Path
    out: Path
    images: Path | None
    teacher: str | None
    base: str | None
    changes: Sequence[str]
    near_copies: bool
    seed: int
    hours: float
    device: DeviceKind


@dataclass(frozen=True, eq=False)
class Made:
    """What was found and written.

    Attributes:
        found: the data.
        plan: of the training; its figures are of the small config.
        steps: the commands that come next.
        hard_steps: the same without a teacher.
        images: the folder that the names of pictures start from.
    """

    found: Found
    plan: TrainingPlan
    steps: tuple[Step, ...]
    hard_steps: tuple[Step, ...]
    out: Path
    images: Path


def make_new(request: NewRequest, reporter: Reporter) -> Made:
    """Look at the data, and write annotations, names, configs and commands.

    Raises:
        RichSemError: the data can't be used, or `out` is there already.
    """
    data, out = request.data.absolute(), Path(os.path.normpath(request.out.absolute()))
    if not data.exists():
        raise RichSemError(f"{request.data}: there is nothing; name a folder of labelled pictures, or its annotations")
    if data.is_dir() and out.is_relative_to(os.path.normpath(data)):
        raise RichSemError(
            f"--out {request.out} lies in {request.data}, and would be taken for a part of it next time; name a folder "
            "beside it"
        )
    with new_folder(out) as folder:
        listing, export = _read(data, request, folder, reporter)
        cleaned = clean_data(export, listing, near_copies=request.near_copies, reporter=reporter)
        split = split_pictures(cleaned.pictures, seed=request.seed)
        found = find_classes(cleaned, split)
        plan = plan_training(len(split.train), device=request.device, hours=request.hours)
        pictures = listing.picture_root
        images = out / pictures.relative_to(folder) if pictures.is_relative_to(folder) else pictures
        made = _planned(found, plan, request, out, images)
        _write(folder, made, request, pictures)
    return made


def _read(data: Path, request: NewRequest, folder: Path, reporter: Reporter) -> tuple[Listing, Export]:
    file = None if data.is_dir() else data
    if file is not None and file.suffix.lower() == ".zip":
        unpacked = folder / "unpacked"
        unpacked.mkdir()
        unzip_export(file, unpacked, reporter)
        data, file = unpacked, None
    listing = _listing(data, file, request.images, reporter)
    return listing, read_export(listing, file, reporter)


def _listing(data: Path, file: Path | None, images: Path | None, reporter: Reporter) -> Listing:
    root = data if file is None else file.parent
    if images is not None:
        images = images.absolute()
        if not images.is_dir():
            raise RichSemError(f"--images {images} is no folder; name the one that holds the pictures")
        pictures = list_files(images, reporter).pictures
        others = list_files(root, reporter).others if file is None else {}
        return Listing(root, images, pictures, others)
    listing = list_files(root, reporter)
    if file is not None and not listing.pictures and root.name.lower().startswith(_ANNOTATION_FOLDERS):
        listing = list_files(root.parent, reporter)
    if not listing.pictures:
        raise RichSemError(
            f"{listing.root}: no pictures below it; name their folder with --images"
            if listing.others
            else f"{listing.root}: neither pictures nor annotations; read are {READ_FORMATS}"
        )
    return listing


def _planned(found: Found, plan: TrainingPlan, request: NewRequest, out: Path, images: Path) -> Made:
    def steps(teacher: str | None, config: str) -> tuple[Step, ...]:
        return tuple(
            steps_of(
                out,
                images,
                teacher=teacher,
                config=out / config,
                train_pictures=len(found.split.train),
                hours=(plan.teacher_hours, plan.train_hours),
            )
        )

    hard = steps(None, HARD_CONFIG)
    soft = hard if request.teacher is None else steps(request.teacher, SOFT_CONFIG)
    return Made(found, plan, soft, hard, out, images)


def _write(folder: Path, made: Made, request: NewRequest, pictures: Path) -> None:
    found, split = made.found, made.found.split
    for name, part in (("train", split.train), ("val", split.val)):
        write_atomically(folder / "annotations" / f"{name}.json", annotations_json(part, found, pictures))
    names = "".join(f"{each.name}\n" for each in found.classes)
    write_atomically(folder / "names.txt", names.encode())
    training = training_values(made.plan) if request.base is None else {}
    for name, with_cache, about in (
        (SOFT_CONFIG, True, "Soft labels of a teacher, on one's own pictures"),
        (HARD_CONFIG, False, "Hard labels, on one's own pictures"),
    ):
        if with_cache and request.teacher is None:
            continue
        values = config_values(
            made.out.name if with_cache else f"{made.out.name}_hard_labels",
            request.base or BASE_CONFIG,
            found,
            folder=made.out,
            images=made.images,
            training=training,
            with_cache=with_cache,
        )
        write_config(folder / name, [f"{about}; made by `richsem-train new`."], values, request.changes)
    commands = folder / "commands.sh"
    write_atomically(commands, script(made.steps).encode())
    commands.chmod(0o755)
    write_atomically(folder / "found.json", json.dumps(found_content(made), indent=1, ensure_ascii=False).encode())


def found_content(made: Made) -> dict[str, Any]:
    """What was found, as JSON has it."""
    found, split, data = made.found, made.found.split, made.found.data
    return {
        "format": data.export.format_name,
        "annotations": [str(path) for path in data.export.annotations],
        "images": str(made.images),
        "pictures": {"train": len(split.train), "val": len(split.val), "test": split.test},
        "boxes": data.boxes,
        "most_boxes": found.most_boxes,
        "split": split.rule,
        "frequency_rule": found.frequency_rule,
        "classes": [asdict(each) for each in found.classes],
        "identical_pictures": data.copies,
        "near_copies": data.near_copies,
        "left_out_of_train": [str(picture.file) for picture in split.leaked],
        "problems": [{"what": what, "count": count, "first": where} for what, count, where in data.export.problems],
        "notes": data.export.notes,
        "warnings": found.warnings(),
        "training": asdict(made.plan),
        "commands": [step.line() for step in made.steps],
    }
