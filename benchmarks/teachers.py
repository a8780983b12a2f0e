"""A teacher for benchmarks where trained weights are not at hand: seeded random ones cost the same."""

from pathlib import Path

import open_clip
import torch


def random_rn50(folder: Path) -> str:
    """Save a randomly initialised RN50 with a fixed seed; returns the `--teacher` that names it."""
    return random_teacher("RN50-quickgelu", folder)


def random_teacher(model: str, folder: Path) -> str:
    """Save a randomly initialised model with a fixed seed; returns the `--teacher` that names it.

    Args:
        model: open_clip's name, with `-quickgelu` where it has such a variant.
        folder: where the file goes.
    """
    path = folder / f"{model}-random.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model(model).state_dict(), path)
    return f"{model}:{path}"
