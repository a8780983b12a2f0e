"""A trained detector for users: loaded from a file, shown pictures."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_train.config import load_config, with_changes
from richsem_train.results.inference import BatchDetector
from richsem_train.results.prediction import ClassTable, Prediction
from richsem_train.results.read_picture import Picture, to_rgb
from richsem_train.run.build import batch_detector
from richsem_train.run.checkpoint import ModelInfo, load_checkpoint
from richsem_train.run.distributed import choose_device
from richsem_train.run.folder import RunFolder
from richsem_train.run.rebuilding import published_detector, rebuilt_detector

_READ_AHEAD = 32
"""Pictures that are resized before the first of them is detected, so that those of one size share batches."""


@dataclass(frozen=True, eq=False)
class Detector:
    """A trained detector.

    Attributes:
        batches: the model, and what its pictures go through.
        info: how it was made, and its classes.
    """

    batches: BatchDetector
    info: ModelInfo

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device | None = None) -> "Detector":
        """Load a detector of `richsem-train`.

        Args:
            path: a checkpoint, exported weights, or the folder of a run, of which the best checkpoint is taken, or the
                last one where none is the best.
            device: `cpu`, `cuda`, `cuda:1`, `mps`; None is CUDA where there is one, else MPS, else the CPU.

        Raises:
            RichSemError: no such file, damaged, or something else; or the device isn't there.
        """
        return open_detector(
            _checkpoint_in(local_path(path)),
            config=None,
            changes=(),
            device=choose_device(None if device is None else str(device)),
        )

    @property
    def classes(self) -> ClassTable:
        """Its vocabulary, row by row."""
        return ClassTable(self.info.class_names, self.info.frequencies, self.info.category_ids)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a path is an iterable of its letters, too
        self, images: Picture, *, score_threshold: float = ..., top_k: int | None = ...
    ) -> Prediction: ...

    @overload
    def predict(
        self, images: Iterable[Picture], *, score_threshold: float = ..., top_k: int | None = ...
    ) -> list[Prediction]: ...

    def predict(
        self, images: Picture | Iterable[Picture], *, score_threshold: float = 0.0, top_k: int | None = None
    ) -> Prediction | list[Prediction]:
        """Find the objects of pictures; those of one don't depend on the others.

        Args:
            images: one picture or several: paths, PIL pictures, or arrays uint8 [height, width, 3], RGB.
            score_threshold: worse detections are left out, from 0 to 1.
            top_k: detections a picture at most; None is as many as are scored (`evaluation.detections`).

        Returns:
            Of one picture its prediction, of several a list in their order.

        Raises:
            PictureError: one is no picture.
            RichSemError: a threshold or a number that can't be, or the weights give no numbers.
        """
        if not isinstance(score_threshold, Real) or not 0 <= score_threshold <= 1:
            raise RichSemError(f"score_threshold is {score_threshold!r}; scores run from 0 to 1")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 1):
            raise RichSemError(f"top_k is {top_k!r}; give a whole number from 1 on, or None")
        find = partial(self._predictions, score_threshold=score_threshold, top_k=top_k)
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray) or not isinstance(images, Iterable):
            return find([("images", images)])[0]
        named = ((f"images[{index}]", image) for index, image in enumerate(images))
        predictions: list[Prediction] = []
        while ahead := list(islice(named, _READ_AHEAD)):
            predictions += find(ahead)
        return predictions

    def _predictions(
        self, images: Sequence[tuple[str, Picture]], *, score_threshold: float, top_k: int | None
    ) -> list[Prediction]:
        pictures = [to_rgb(image, name) for name, image in images]
        batch_size = self.info.config.evaluation.batch_size
        found_in_all = self.batches.detect_pictures(pictures, batch_size=batch_size, keep=top_k)
        for (name, _), found in zip(images, found_in_all, strict=True):
            found.require_finite(name)
        return [Prediction.of(found[found.scores >= score_threshold], self.classes) for found in found_in_all]


def _checkpoint_in(path: Path) -> Path:
    if not path.is_dir():
        return path
    folder = RunFolder(path)
    for checkpoint in (folder.best, folder.last):
        if checkpoint.is_file():
            return checkpoint
    raise RichSemError(f"{path}: no run with a checkpoint ({folder.last} is missing); name a file, or OUT of a run")


def open_detector(checkpoint: Path, *, config: str | None, changes: Sequence[str], device: torch.device) -> Detector:
    """A detector from any checkpoint, ready to be shown pictures.

    It is built by its own config with `changes`, or for one of another program by `config`.

    Raises:
        RichSemError: no such file, damaged, or something else.
    """
    if config is None:
        saved = load_checkpoint(checkpoint)
        info = replace(saved.info, config=with_changes(saved.info.config, changes, source=str(checkpoint)))
        model = rebuilt_detector(replace(saved, info=info), checkpoint, device)
    else:
        model, info = published_detector(checkpoint, load_config(config, changes), config, device)
    return Detector(batch_detector(model, info.config, info.class_names, device), info)
