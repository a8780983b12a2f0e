"""A teacher for benchmarks where trained weights are not at hand: seeded random ones cost the same."""

from pathlib import Path

import open_clip
import torch


def random_rn50(folder: Path) -> str:
    """Save a randomly initialised RN50 with a fixed seed; returns the `--teacher` that names it."""
    path = folder / "rn50-random.pt"
    torch.manual_seed(0)
    torch.save(open_clip.create_model("RN50-quickgelu").state_dict(), path)
    return f"RN50-quickgelu:{path}"
