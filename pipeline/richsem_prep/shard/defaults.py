"""Options of `richsem-prep shard` that aren't given: from the dataset, the environment, or the cache that is reused."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from richsem_prep.shard.from_cache import options_of_plan
from richsem_prep.sources.dataset import PictureDataset
from richsem_prep.sources.datasets import find_dataset
from richsem_prep.sources.detection_dataset import DetectionDataset
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import open_place

_OF_DETECTION = ("windows", "whole", "jitters", "noise", "annotations", "images")
_OF_CLASSIFICATION = ("crops", "mosaics")
_NONE_WHERE_EMPTY = ("root", "out", "teacher", "label_set")


def filled_in(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the defaults of the dataset, places made absolute.

    Raises:
        RichSemError: there is no such dataset, or its kind of data doesn't take what is given.
    """
    # An unset variable of a script, as in --out "$OUT", never means the folder that it runs in.
    options = {name: value for name, value in given.items() if value != "" or name not in _NONE_WHERE_EMPTY}
    if options.get("from_cache") is not None:
        options["from_cache"] = open_place(options["from_cache"]).absolute()
        options |= options_of_plan(options["from_cache"], options.get("dataset"), options.get("root"))
        if options.get("out") is None:
            raise RichSemError("--from-cache needs --out, the folder for the labels")
    if options.get("dataset") is None:
        raise typer.BadParameter(
            "missing; name one, or take the pictures of a cache with --from-cache OUT1", param_hint="--dataset"
        )
    chosen = find_dataset(options["dataset"])
    _require_views_of(chosen, options)
    data = open_place(os.environ.get("RICHSEM_DATA") or "data")
    defaults = {
        "root": data / (chosen.folder or options["dataset"]),
        "out": Path("caches") / options["dataset"],
        **{name: getattr(chosen, name) for name in ("teacher", "crops", "mosaics", "windows", "pictures")},
    }
    options = defaults | options
    for name in ("root", "out"):
        options[name] = open_place(options[name]).absolute()
    if options["teacher"] == chosen.teacher:
        options.setdefault("teacher_size", chosen.teacher_size)
    options.setdefault("label_set", default_label_set(options["teacher"]))
    return options


def _require_views_of(chosen: PictureDataset | DetectionDataset, options: Mapping[str, Any]) -> None:
    """Detection data takes windows, wholes and jitters, classification data crops and mosaics."""
    asked = [
        f"--{name.replace('_', '-')}" + ("" if options[name] is True else f" {options[name]}")
        for name in (_OF_CLASSIFICATION if chosen.has_boxes else _OF_DETECTION)
        if options.get(name)
    ]
    if asked:
        kind, views = (
            ("detection", "--windows and --whole") if chosen.has_boxes else ("classification", "--crops and --mosaics")
        )
        raise RichSemError(
            f"{' '.join(asked)} with --dataset {options['dataset']}: it is {kind} data, which takes {views}; drop it"
        )
    if options.get("noise") and not options.get("jitters"):
        raise RichSemError(f"--noise {options['noise']} is that of jittered boxes, and there are none; add --jitters")


def default_label_set(teacher: str) -> str:
    """The label set's name where none is given: the teacher's, as a folder can be called."""
    model, colon, pretrained = teacher.removeprefix("hf-hub:").removeprefix("local-dir:").partition(":")
    text = f"{model}-{Path(pretrained).stem}" if colon else Path(model).name
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+").replace("..", ".")[:100] or "labels"
