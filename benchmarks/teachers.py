"""A teacher for benchmarks where trained weights are not at hand: seeded random ones cost the same."""

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file


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


def small_clip(folder: Path, *, embed_dim: int) -> str:
    """Save a tiny random CLIP ResNet, for what depends on the width of embeddings alone; returns its `--teacher`."""
    config = {
        "embed_dim": embed_dim,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**json.loads(json.dumps(config)))
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    preprocessing = {"model_cfg": config, "preprocess_cfg": {"mean": mean, "std": std}}
    (folder / "open_clip_config.json").write_text(json.dumps(preprocessing))
    return f"local-dir:{folder}"
