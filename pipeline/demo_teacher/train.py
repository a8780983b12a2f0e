"""Trains the demo's teacher: a small CLIP, for real, on pictures and captions of the demo's world.

    python -m pipeline.demo_teacher.train --out DIR

A pool of pictures and scenes is drawn first; every batch cuts fresh views from it. First contrastive training on
squashed regions, as CLIP is trained on whole pictures; then the same on squashed regions and on regions pooled by
RoIAlign and the model's own attention pool, since both are used as region encoders and a CLIP never shown the second
is unusable there. Beside the contrastive loss, a linear layer that is thrown away afterwards reads the words of a name
off the embeddings of both towers. Takes about ten minutes on two cores.
"""

import hashlib
import json
import math
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import torch
import typer
from numpy.typing import NDArray
from open_clip.modified_resnet import Bottleneck
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align

from pipeline.demo_teacher import views
from pipeline.demo_teacher.losses import FIRST_LOGIT_SCALE, WORDS, captions_loss, trained_names
from pipeline.demo_teacher.measure import measure
from richsem_prep.demo import TEACHER_SIZE, world
from richsem_prep.teacher.clip_trunk import TRUNK_STRIDE, trunk
from richsem_prep.teacher.region_encoder import scaled_to, size_ratio, whole_pixels
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

IMAGE_SIZE = 64
MODEL_CFG: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": IMAGE_SIZE},
    # 20 tokens hold the longest of OpenAI's prompts with the longest name. The token table is half of all weights.
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}
PREPROCESS_CFG: dict[str, Any] = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "open_clip_model.safetensors"
RECIPE_FILE = "recipe.json"

# CLIP's own bound on the logit scale.
_MAX_LOGIT_SCALE = 100.0


@dataclass(frozen=True)
class TrainingRecipe:
    """How long and on what the teacher is trained. The second phase is the one that sees RoIAlign."""

    seed: int = 0
    pool_pictures: int = 6000
    pool_scenes: int = 900
    squash_steps: int = 380
    region_steps: int = 320
    squashed_pictures: int = 36
    squashed_crops: int = 18
    squashed_mosaics: int = 8
    squashed_windows: int = 6
    region_crops: int = 10
    region_mosaics: int = 8
    region_scenes: int = 6
    none_share: float = 0.04
    """Of the pictures, how many show background only and are called "none"."""
    lr: float = 3e-3
    region_lr: float = 1.5e-3
    weight_decay: float = 0.02
    words_weight: float = 0.5
    """Of the loss that reads texture, colour and shape off an embedding, of either tower, by one linear layer."""


def train(recipe: TrainingRecipe, *, on_step: Callable[[int, float], None]) -> nn.Module:
    """Train a fresh model.

    Args:
        recipe: how long and on what; the same recipe on the same machine gives the same weights.
        on_step: called with the number of the step and its loss.

    Returns:
        An open_clip CLIP, in eval mode.
    """
    torch.manual_seed(recipe.seed)
    model = _new_model().to(memory_format=torch.channels_last)
    words = nn.Linear(MODEL_CFG["embed_dim"], len(WORDS))
    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CFG["text_cfg"]["context_length"])
    rng = np.random.default_rng([recipe.seed, 0xC11B])
    pool = draw_pool(rng, recipe)
    model.train()
    for step, optimizer in _schedule(nn.ModuleList([model, words]), recipe):
        pool_regions = step >= recipe.squash_steps
        if pool_regions:
            # Statistics of squashed pictures and of whole canvases differ; both are used with the former.
            _freeze_batch_norm(model)
        squashed = _some_squashed(rng, pool, recipe, fewer=pool_regions)
        image_features = model.encode_image(_normalised([_squash(view) for view in squashed]))  # type: ignore[operator]
        shown = [name for view in squashed for name in view.names]
        if pool_regions:
            canvases = _some_canvases(rng, pool, recipe)
            image_features = torch.cat([image_features, _pool_regions(model, canvases)])
            shown += [name for view in canvases for name in view.names]
        loss = captions_loss(model, words, image_features, shown, tokenizer, rng, words_weight=recipe.words_weight)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(_MAX_LOGIT_SCALE))  # type: ignore[operator]
        on_step(step, loss.item())
    return model.eval()


@dataclass(frozen=True, eq=False)
class Pool:
    """Pictures and scenes drawn beforehand, since drawing takes longer than learning from them; views vary them."""

    pictures: Sequence[views.NamedView]
    scenes: Sequence[views.NamedView]


def draw_pool(rng: np.random.Generator, recipe: TrainingRecipe) -> Pool:
    """Draw what training shows: every trained name about equally often, and background."""
    names = trained_names()
    shown = [names[index] for index in rng.integers(0, len(names), recipe.pool_pictures).tolist()]
    for index in np.flatnonzero(rng.random(recipe.pool_pictures) < recipe.none_share).tolist():
        shown[index] = NONE_NAME
    pictures = [views.whole_picture(rng, name) for name in shown]
    scenes = [views.scene(rng, _scene_names(rng, names)) for _ in range(recipe.pool_scenes)]
    return Pool(pictures, scenes)


def save_teacher(model: nn.Module, folder: Path) -> str:
    """Write config and half-precision weights in open_clip's `local-dir:` layout; returns the weights' SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": MODEL_CFG, "preprocess_cfg": PREPROCESS_CFG}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS_FILE)
    # safetensors writes files that only their owner can read.
    (folder / WEIGHTS_FILE).chmod(0o644)
    return hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()


def _new_model() -> nn.Module:
    """Through open_clip's own registry, so that nothing is built here that it could not load."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "richsem-demo.json"
        path.write_text(json.dumps(MODEL_CFG), encoding="utf-8")
        open_clip.add_model_config(path)
        model = open_clip.create_model("richsem-demo", load_weights=False, init_logit_scale=math.log(FIRST_LOGIT_SCALE))
    # open_clip starts residual branches at zero, which deep networks need and short training can't afford: with so
    # few blocks the branches alone see shapes.
    for module in model.visual.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.bn3.weight)
    return model


def _schedule(model: nn.Module, recipe: TrainingRecipe) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Steps of both phases, each with warm-up and cosine decay of the learning rate."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    step = 0
    for steps, lr in ((recipe.squash_steps, recipe.lr), (recipe.region_steps, recipe.region_lr)):
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=lr,
            betas=(0.9, 0.98),
        )
        for phase_step in range(steps):
            warm_up = min(1.0, (phase_step + 1) / 20)
            for group in optimizer.param_groups:
                group["lr"] = lr * warm_up * (0.01 + 0.99 * (1 + np.cos(np.pi * phase_step / steps)) / 2)
            yield step, optimizer
            step += 1


def _freeze_batch_norm(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _some_squashed(
    rng: np.random.Generator, pool: Pool, recipe: TrainingRecipe, *, fewer: bool
) -> list[views.NamedView]:
    share = 2 if fewer else 1
    pictures = _some(rng, pool.pictures, recipe.squashed_pictures // share)
    crops = [views.crop_of(rng, view) for view in _some(rng, pool.pictures, recipe.squashed_crops // share)]
    mosaics = _some_mosaics(rng, pool, recipe.squashed_mosaics // share)
    windows = [views.window_of(rng, view) for view in _some(rng, pool.scenes, recipe.squashed_windows // share)]
    return [*pictures, *crops, *mosaics, *windows]


def _some_canvases(rng: np.random.Generator, pool: Pool, recipe: TrainingRecipe) -> list[views.NamedView]:
    crops = [views.crop_of(rng, view) for view in _some(rng, pool.pictures, recipe.region_crops)]
    mosaics = _some_mosaics(rng, pool, recipe.region_mosaics)
    scenes = _some(rng, pool.scenes, recipe.region_scenes)
    # Whole scenes and windows by turns.
    return [*crops, *mosaics, *(views.window_of(rng, view) for view in scenes[::2]), *scenes[1::2]]


def _some(rng: np.random.Generator, items: Sequence[views.NamedView], count: int) -> list[views.NamedView]:
    return [items[index] for index in rng.integers(0, len(items), count).tolist()]


def _some_mosaics(rng: np.random.Generator, pool: Pool, count: int) -> list[views.NamedView]:
    return [views.mosaic_of(rng, _some(rng, pool.pictures, 4)) for _ in range(count)]


def _scene_names(rng: np.random.Generator, names: Sequence[str]) -> list[str]:
    count = int(rng.integers(2, world.MAX_OBJECTS + 1))
    return [names[index] for index in rng.integers(0, len(names), count).tolist()]


def _squash(view: views.NamedView) -> NDArray[np.uint8]:
    """The regions of a view at the model's own resolution: [R, H, W, 3]."""
    regions = [
        view.picture.crop(whole_pixels(box, view.picture.size)).resize(
            (IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BILINEAR
        )
        for box in view.boxes_xyxy_px
    ]
    return np.stack([np.asarray(region) for region in regions]) if regions else np.empty((0, 64, 64, 3), np.uint8)


def _pool_regions(model: nn.Module, canvases: Sequence[views.NamedView]) -> Tensor:
    """Raw embeddings of all regions: the trunk over padded canvases, RoIAlign, the attention pool."""
    images, rows = [], []
    for index, view in enumerate(canvases):
        pixels_HW3 = np.asarray(view.picture)
        seen_HW3 = scaled_to(pixels_HW3, TEACHER_SIZE)
        image = np.full((TEACHER_SIZE, TEACHER_SIZE, 3), 127, np.uint8)
        image[: seen_HW3.shape[0], : seen_HW3.shape[1]] = seen_HW3
        images.append(image[None])
        boxes = torch.from_numpy(view.boxes_xyxy_px * size_ratio(seen_HW3, pixels_HW3))
        rows.append(functional.pad(boxes, (1, 0), value=index))
    visual: Any = model.visual
    pooled = roi_align(
        trunk(visual, _normalised(images)),
        torch.cat(rows),
        IMAGE_SIZE // TRUNK_STRIDE,
        spatial_scale=1 / TRUNK_STRIDE,
        sampling_ratio=0,
        aligned=True,
    )
    return visual.attnpool(pooled)


def _normalised(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    pixels = torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(PREPROCESS_CFG[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the teacher to.")],
    seed: Annotated[int, typer.Option(help="Seed of weights, pictures and captions.")] = 0,
    threads: Annotated[int, typer.Option(help="Torch threads.")] = 2,
    measured_regions: Annotated[int, typer.Option(help="Held-out regions of each kind to measure on.")] = 960,
) -> None:
    """Train the demo's teacher, measure it on held-out pictures, and write it with its recipe."""
    torch.set_num_threads(threads)
    recipe = TrainingRecipe(seed=seed)
    start = time.monotonic()

    def report(step: int, loss: float) -> None:
        if step % 20 == 0:
            typer.echo(f"step {step:4d}  loss {loss:.3f}  {time.monotonic() - start:.0f} s")

    model = train(recipe, on_step=report)
    seconds = time.monotonic() - start
    weights_sha256 = save_teacher(model, out)
    # As users load it: from half precision, through open_clip.
    teacher = load_teacher(parse_teacher(f"local-dir:{out}"), device=torch.device("cpu"))
    accuracies = measure(teacher, teacher_size=TEACHER_SIZE, regions=measured_regions, seed=seed)
    content = {
        "command": shlex.join(["python", "-m", "pipeline.demo_teacher.train", *sys.argv[1:]]),
        "recipe": asdict(recipe),
        "seconds": round(seconds),
        "torch_threads": threads,
        "versions": {"open_clip": open_clip.__version__, "torch": torch.__version__, "numpy": np.__version__},
        "teacher_size": TEACHER_SIZE,
        "logit_scale": round(teacher.identity.logit_scale, 3),
        "weights_sha256": weights_sha256,
        "weights_bytes": (out / WEIGHTS_FILE).stat().st_size,
        "top_1": {kind: {"top_1": found.top_1, "regions": found.regions} for kind, found in accuracies.items()},
    }
    (out / RECIPE_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for kind, found in accuracies.items():
        typer.echo(f"{found.top_1:.3f}  {kind} ({found.regions} regions)")


if __name__ == "__main__":
    typer.run(main)
