"""Small randomly initialised open_clip models on disk, in open_clip's `local-dir:` layout."""

import json

import torch
from open_clip import CLIP
from safetensors.torch import save_file

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
RESNET = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": TEXT,
}
VIT = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": TEXT,
}


def save_random_clip(folder, config, *, seed=0):
    """Save a seeded random model; returns the `--teacher` that names it."""
    torch.manual_seed(seed)
    model = CLIP(**json.loads(json.dumps(config)))
    for name, parameter in model.visual.named_parameters():
        if name.endswith("bn3.weight"):  # open_clip zeroes them, which would make every residual branch idle
            torch.nn.init.uniform_(parameter, 0.5, 1.0)
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}})
    )
    return f"local-dir:{folder}"
