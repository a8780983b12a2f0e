"""What the weights of another program must be to be taken, whichever detector takes them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone_weights import first_few

UNKNOWN = "unknown"
"""The reason of names that no pattern knows."""


def by_reason(names: Iterable[str], reasons: Mapping[str, re.Pattern[str]]) -> dict[str, tuple[str, ...]]:
    """Names of a file by why they are left out: by the first pattern that they begin with, else `UNKNOWN`."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        reason = next((reason for reason, pattern in reasons.items() if pattern.match(name)), UNKNOWN)
        groups.setdefault(reason, []).append(name)
    return {reason: tuple(group) for reason, group in groups.items()}


def check_architecture(unknown: Iterable[str], lacking: Iterable[str], path: Path) -> None:
    """Every weight of the file has a place, and every weight that only the file can give is there.

    Raises:
        RichSemError: else.
    """
    problems = []
    if lacking:
        problems.append(f"it lacks {first_few(lacking)}")
    if unknown:
        problems.append(f"the detector has no place for {first_few(unknown)}")
    if problems:
        raise RichSemError(
            f"{path}: of another architecture: {'; '.join(problems)}; choose a config of its model.detector, with its "
            "backbone, levels and numbers of layers"
        )


def check_shapes(chosen: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    """The weights of the file are as large as the detector's.

    Raises:
        RichSemError: else.
    """
    other = [
        f"{name} is {tuple(tensor.shape)} instead of {tuple(wanted[name].shape)}"
        for name, tensor in chosen.items()
        if tensor.shape != wanted[name].shape
    ]
    if other:
        raise RichSemError(
            f"{path}: of another width or number of classes: {first_few(other)}; choose the config that it was "
            "trained with"
        )
