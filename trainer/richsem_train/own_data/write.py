"""A folder with all that training needs, which appears whole or not at all."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_train.config import TrainConfig, load_config
from richsem_train.config.read import apply_changes, merged
from richsem_train.own_data.found import Found, FoundClass
from richsem_train.own_data.own_pictures import OwnPicture

HARD_LABELS: dict[str, Any] = {
    "detection": {"labels": "none"},
    "model": {
        "classifier": "linear",
        "encoder_classifier": "linear",
        "label_embedding": "embedding",
        "semantic_branch": False,
    },
}
"""Of a config without a teacher: nothing but the labels is learnt."""

_SOFT_MODEL = {
    "classifier": "text",
    "encoder_classifier": "text",
    "label_embedding": "classifier",
    "semantic_branch": True,
}


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder under another name, which gets its own when the block ends well, and is gone when it doesn't.

    Raises:
        RichSemError: there is something at `out` that isn't an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise RichSemError(f"--out {out} is there already; name another folder, or delete it")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        if out.is_dir():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def annotations_json(pictures: Sequence[OwnPicture], found: Found, images: Path) -> bytes:
    """A split in COCO's format, ids from 1, with `frequency` and the training counts of each category, as LVIS's have.

    Args:
        pictures: of the split.
        found: the classes.
        images: the folder that `file_name` starts from.
    """
    number, start = 0, len(str(images).rstrip(os.sep)) + 1
    records, annotations = [], []
    for image_id, picture in enumerate(pictures, 1):
        height, width = picture.hw
        record: dict[str, Any] = {
            "id": image_id,
            "file_name": str(picture.file)[start:],
            "height": height,
            "width": width,
        }
        if found.data.is_federated:
            record["neg_category_ids"] = [row + 1 for row in picture.negatives]
            record["not_exhaustive_category_ids"] = [row + 1 for row in picture.not_exhaustive]
        records.append(record)
        for label, box in zip(picture.labels.tolist(), picture.boxes_xywh_px.tolist(), strict=True):
            number += 1
            annotations.append(
                {
                    "id": number,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": round(box[2] * box[3], 3),
                    "iscrowd": 0,
                }
            )
    categories = [_category(each) for each in found.classes]
    content = {"images": records, "annotations": annotations, "categories": categories}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _category(each: FoundClass) -> dict[str, Any]:
    return {
        "id": each.id,
        "name": each.name,
        "frequency": each.frequency,
        "image_count": each.train_pictures,
        "instance_count": each.train_boxes,
    }


def config_values(
    name: str,
    base: str,
    found: Found,
    *,
    folder: Path,
    images: Path,
    training: Mapping[str, Any],
    with_cache: bool,
) -> dict[str, Any]:
    """The values of a config over its base.

    Args:
        name: of the config.
        base: the config that comes with the package.
        found: the data.
        folder: where it will be, absolute.
        images: of the pictures, absolute.
        training: values of the training plan.
        with_cache: learn the soft labels of the cache in `folder`.
    """
    is_federated = found.data.is_federated
    detection = {
        "format": "lvis" if is_federated else "coco",
        "train": {"annotations": str(folder / "annotations" / "train.json"), "images": str(images)},
        "val": {"annotations": str(folder / "annotations" / "val.json"), "images": str(images)},
        "repeat_threshold": "auto",
    }
    values: dict[str, Any] = {"base": base, "name": name, "detection": detection}
    values["loss"] = {"federated": 50 if is_federated else None}
    # The base's are of other classes.
    values |= dict.fromkeys(("extra", "text", "classifier_text"))
    values = merged(merged(training, values), HARD_LABELS)
    if with_cache:
        soft = {"detection": {"labels": "cache", "cache": str(folder / "cache")}, "model": _SOFT_MODEL}
        values = merged(values, soft)
    return {key: values[key] for key in ("base", "name", *sorted(values.keys() - {"base", "name"}))}


def write_config(path: Path, about: Sequence[str], values: dict[str, Any], changes: Sequence[str]) -> TrainConfig:
    """Write a config with `--set` changes, and check that the trainer takes it.

    Raises:
        RichSemError: the changes don't fit.
    """
    values = apply_changes(values, changes)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    write_atomically(path, ("".join(f"# {line}\n" for line in about) + text).encode())
    return load_config(path)
