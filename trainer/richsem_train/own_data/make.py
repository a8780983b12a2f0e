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
        plan: of the training; None where it goes by another config, of which no figures are known.
        steps: the commands that come next.
        hard_steps: the same without a teacher.
        images: the folder that the names of pictures start from.
    """

    found: Found
    plan: TrainingPlan | None
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
        pictures = listing.picture_root
        images = out / pictures.relative_to(folder) if pictures.is_relative_to(folder) else pictures
        _write_data(folder, found, pictures)
        plan = None
        if request.base is None:
            plan = plan_training(len(split.train), found.showings, device=request.device, hours=request.hours)
        made = _with_configs(folder, found, plan, request, out, images)
        write_atomically(folder / "commands.sh", script(made.steps).encode())
        (folder / "commands.sh").chmod(0o755)
        content = json.dumps(found_content(made), indent=1, ensure_ascii=False) + "\n"
        write_atomically(folder / "found.json", content.encode())
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


def _write_data(folder: Path, found: Found, pictures: Path) -> None:
    """Write both splits and the names of the classes."""
    for name, part in (("train", found.split.train), ("val", found.split.val)):
        write_atomically(folder / "annotations" / f"{name}.json", annotations_json(part, found, pictures))
    names = "".join(f"{each.name}\n" for each in found.classes)
    write_atomically(folder / "names.txt", names.encode())


def _with_configs(
    folder: Path, found: Found, plan: TrainingPlan | None, request: NewRequest, out: Path, images: Path
) -> Made:
    """Write the configs, and make the commands that go by them."""

    def steps(file: str, teacher: str | None) -> tuple[Step, ...]:
        values = config_values(
            out.name if teacher is not None else f"{out.name}_hard_labels",
            request.base or BASE_CONFIG,
            found,
            folder=out,
            images=images,
            training={} if plan is None else training_values(plan),
            with_cache=teacher is not None,
        )
        about = f"{'Hard labels' if teacher is None else 'Soft labels of a teacher'}, on one's own pictures"
        config = write_config(folder / file, [f"{about}; made by `richsem-train new`."], values, request.changes)
        return tuple(
            steps_of(
                out,
                images,
                teacher=teacher,
                config=out / file,
                augmentation=config.detection.augmentation,
                train_pictures=len(found.split.train),
                hours=None if plan is None else (plan.teacher_hours, plan.train_hours),
            )
        )

    hard = steps(HARD_CONFIG, None)
    soft = hard if request.teacher is None else steps(SOFT_CONFIG, request.teacher)
    return Made(found, plan, soft, hard, out, images)


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
        "training": None if made.plan is None else asdict(made.plan),
        "commands": [step.line() for step in made.steps],
    }
