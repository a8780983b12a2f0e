"""A training step with cached labels over plain DINO's, and with the teacher inside of it over one with cached labels.

    python benchmarks/step.py --json benchmarks/results/step-roi-align.json
    python benchmarks/step.py --teacher ViT-L-14-quickgelu --rounds 5 --json benchmarks/results/step-crop.json

The student is that of the config `richsem_r50_inet_lvis` with random weights, taking the engine's own steps on the
same mosaics of four tiles; teachers are open_clip's with random weights. Arms take turns, in another order each round,
and a ratio is the median over rounds of the two arms' ratios in a round: neighbours' noise hits both. Processor
seconds stand beside wall seconds, since cores may be shared. `plain` has neither semantic branch nor soft labels.
`online` runs the teacher on the batch's own pixels before the step, and its step is that of `embedding`. What makes the
difference, the teacher's forward and the branch with its loss, is measured alone as well (`parts`); `by_parts` is the
ratio with that added to the step's median, which noise hurts far less than the difference of two steps. The branch is
counted forward and backward.

On a GPU at the paper's size, 1280x1280; on a CPU at a reduced one. The smaller the pictures, the larger the share of
the semantic branch, whose work depends on the queries alone: a reduced size flatters nothing there. With the online
teacher it is for `gigaflops_at_1280` to tell what a reduced size means: those of convolutions and matrix products for
one picture of the paper's size, counted without running anything. A CLIP ResNet's grow with the picture as the
student's do, a crop teacher's don't.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from common import report
from evidence.online_teacher import OnlineTeacher
from flops import forward_flops, training_flops
from numpy.typing import NDArray
from teachers import random_teacher
from torch import Tensor, nn

from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.cache.soft_labels import class_log_probs, top_k_soft_labels
from richsem_schemas.cache.text_bank import TextBank
from richsem_train.choices import Precision
from richsem_train.config import ModelConfig, ScheduleConfig, TrainConfig, load_config
from richsem_train.models.dino.denoising import draw_denoising
from richsem_train.models.dino.dino import Dino
from richsem_train.outputs.dino import DenoisingQueries
from richsem_train.run.build import build_detector, build_learner, text_tensor
from richsem_train.run.distributed import Ranks
from richsem_train.run.engine import Trainer
from richsem_train.run.optimiser import make_optimiser
from richsem_train.targets import Batch, SoftLabels, Target

CLASSES = 1204
TOP_K = 64
LOGIT_SCALE = 100.0
PAPER_SIDE = 1280
RN50 = "RN50-quickgelu"
# More than any arm takes; a cosine wants to know.
_TOTAL_STEPS = 10**6


@dataclass(frozen=True)
class Setting:
    """Where, at which size, and of which config."""

    device: torch.device
    side: int
    batch_size: int
    precision: Precision
    name: str = "richsem_r50_inet_lvis"

    @property
    def config(self) -> TrainConfig:
        changes = ["model.backbone.weights=null", f"schedule.precision={self.precision}"]
        return load_config(self.name, changes)


def main(
    teacher: Annotated[str, typer.Option(help="open_clip's name; a ResNet pools its map, others see tiles.")] = RN50,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    side: Annotated[int | None, typer.Option(help="Of the mosaics, pixels. [default: 1280, on a CPU 320]")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures a step. [default: 4, on a CPU 1]")] = None,
    precision: Annotated[Precision | None, typer.Option(help="fp32 or bf16. [default: bf16, on a CPU fp32]")] = None,
    rounds: Annotated[int, typer.Option(help="In which each arm takes a step.")] = 15,
    threads: Annotated[int, typer.Option(help="Of PyTorch, on a CPU.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure one teacher."""
    chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.set_num_threads(threads)
    is_gpu = chosen.type == "cuda"
    setting = Setting(
        chosen, side or (PAPER_SIDE if is_gpu else 320), batch_size or (4 if is_gpu else 1),
        precision or ("bf16" if is_gpu else "fp32"),
    )  # fmt: skip
    load_before = os.getloadavg()
    figures = measure(teacher, setting, rounds=rounds)
    report(
        f"step-{figures['region_encoder']}",
        {
            "teacher": f"{teacher}, randomly initialised",
            "device": chosen.type,
            "threads": threads,
            "picture_hw": [setting.side, setting.side],
            "batch_size": setting.batch_size,
            "precision": setting.precision,
            "classes": CLASSES,
            "top_k": TOP_K,
            "load_average_of_1_minute": [load_before[0], os.getloadavg()[0]],
            **figures,
        },
        json,
    )


def measure(model: str, setting: Setting, *, rounds: int) -> dict[str, Any]:
    """All arms; those without a teacher beside the RN50, which is the cheaper one."""
    with tempfile.TemporaryDirectory() as folder:
        teacher = load_teacher(parse_teacher(random_teacher(model, Path(folder))), device=setting.device)
    text = random_text(teacher.identity.embed_dim)
    soft = make_trainer(setting, text, semantic_branch=True)
    encoder = make_region_encoder(teacher, kind=None, teacher_size=None, precision=setting.precision)
    batches = cached_batches(random_mosaics(setting), encoder, text)
    online = OnlineTeacher(teacher, soft.learner.normalise, precision=setting.precision)
    ready = {name: batch.to(setting.device) for name, batch in batches.items()}
    figures: dict[str, Any] = {
        "region_encoder": encoder.spec.kind,
        "gigaflops_at_1280": count_flops(online, setting, text),
        "online_and_cached_embeddings_least_cosine": least_cosine(online, ready),
        "rounds": rounds,
    }
    arms: dict[str, Callable[[int], object]] = {
        "embedding": lambda number: take_step(soft, number, batches["embedding"]),
        "online": lambda number: take_step(soft, number, batches["plain"], online),
    }
    if model == RN50:
        plain = make_trainer(setting, text, semantic_branch=False)
        arms["plain"] = lambda number: take_step(plain, number, batches["plain"])
        arms["topk"] = lambda number: take_step(soft, number, batches["topk"])
    measured = take_turns(arms, rounds, setting.device)
    hidden_dim = setting.config.model.hidden_dim
    parts: dict[str, Callable[[int], object]] = {
        "teacher_forward": lambda _: online.labelled(ready["plain"]),
        "branch_embedding": lambda _: branch_alone(soft, ready["embedding"], hidden_dim),
        "branch_topk": lambda _: branch_alone(soft, ready["topk"], hidden_dim),
    }
    alone = take_turns(parts, rounds, setting.device)
    figures |= {
        "arms": {name: seconds_of(steps) for name, steps in measured.items()},
        "parts": {name: seconds_of(runs) for name, runs in alone.items()},
        "online_over_embedding": ratio(measured["online"], measured["embedding"], alone["teacher_forward"]),
    }
    if "plain" in measured:
        for form in ("embedding", "topk"):
            figures[f"{form}_over_plain"] = ratio(measured[form], measured["plain"], alone[f"branch_{form}"])
    return figures


def random_text(width: int) -> TextBank:
    rng = np.random.default_rng(0)
    names = ("none", *(f"class {row}" for row in range(1, CLASSES)))
    features = rng.standard_normal((CLASSES, width)).astype(np.float32)
    return TextBank(names, names, ("{}",), LOGIT_SCALE, features)


def make_trainer(
    setting: Setting,
    text: TextBank,
    *,
    semantic_branch: bool,
    classifier: TextBank | None = None,
    learns_images: bool = False,
) -> Trainer:
    """The engine's, with the same first weights for every arm; `text` is the classifier's as well if that is None."""
    config = setting.config
    model: ModelConfig = config.model.model_copy(update={"semantic_branch": semantic_branch})
    torch.manual_seed(0)
    detector = build_detector(
        model,
        num_classes=len(text.class_names),
        text_features_CD=text_tensor(classifier or text),
        logit_scale=text.logit_scale,
        weights=None,
        device=setting.device,
        semantic_branch=semantic_branch,
        semantic_dim=text.features.shape[1] if classifier else None,
    )
    learner = build_learner(
        detector,
        model,
        config.loss,
        text=text,
        image_counts_C=torch.arange(len(text.class_names)),
        learns_images=learns_images,
        precision=setting.precision,
        device=setting.device,
    )
    schedule: ScheduleConfig = config.schedule
    if setting.batch_size % schedule.pictures_a_draw:
        schedule = schedule.model_copy(update={"pictures_a_draw": 1})
    return Trainer(
        learner,
        make_optimiser(detector, lr=schedule.lr, backbone_lr=schedule.backbone_lr, weight_decay=schedule.weight_decay),
        None,
        schedule=schedule,
        pseudo_threshold=config.loss.pseudo_threshold,
        ranks=Ranks(0, 1, setting.device),
        seed=0,
        total_steps=_TOTAL_STEPS,
    )


def random_mosaics(setting: Setting) -> Batch:
    """Noise in four tiles around a centre drawn in the middle half, as the cache's mosaics have it; no soft labels."""
    rng = np.random.default_rng(0)
    side = setting.side
    # Coarse noise, so that regions differ for a teacher.
    coarse = torch.from_numpy(rng.integers(0, 256, (setting.batch_size, 3, 20, 20), np.uint8)).float()
    pixels = nn.functional.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)
    targets = []
    for number in range(setting.batch_size):
        x, y = rng.integers(side // 4, 3 * side // 4, 2)
        corners = [(0, 0, x, y), (x, 0, side, y), (0, y, x, side), (x, y, side, side)]
        boxes = torch.tensor([[(a + c) / 2, (b + d) / 2, c - a, d - b] for a, b, c, d in corners], dtype=torch.float32)
        labels = torch.from_numpy(rng.integers(1, CLASSES, 4))
        targets.append(Target(boxes / side, labels, -1 - number, (side, side), (side, side)))
    return Batch(pixels, tuple(targets), tuple(f"mosaic {n}" for n in range(setting.batch_size)))


def cached_batches(batch: Batch, encoder: Any, text: TextBank) -> dict[str, Batch]:
    """The batch without soft labels, and with those that the pipeline makes of its pixels."""
    side = batch.pixels.shape[-1]
    views = []
    for pixels_3HW, target in zip(batch.pixels, batch.targets, strict=True):
        boxes = target.boxes_cxcywh_norm * side
        corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], dim=1)
        views.append(encoder.prepare(pixels_3HW.permute(1, 2, 0).numpy(), corners.numpy()))
    embeddings = [features for _, features in encoder.encode(enumerate(views))]
    return {
        "plain": batch,
        "embedding": with_labels(batch, [SoftLabels(embeddings=torch.from_numpy(each)) for each in embeddings]),
        "topk": with_labels(batch, [top_k(each, text) for each in embeddings]),
    }


def top_k(embeddings_RD: NDArray[np.float32], text: TextBank) -> SoftLabels:
    kept = top_k_soft_labels(class_log_probs(embeddings_RD, text.features, logit_scale=text.logit_scale), top_k=TOP_K)
    return SoftLabels(
        class_ids=torch.from_numpy(kept.class_ids.astype(np.int64)),
        log_probs=torch.from_numpy(kept.log_probs.astype(np.float32)),
        log_rest=torch.from_numpy(kept.log_rest),
    )


def with_labels(batch: Batch, labels: Sequence[SoftLabels]) -> Batch:
    targets = [replace(target, soft_labels=each) for target, each in zip(batch.targets, labels, strict=True)]
    return replace(batch, targets=tuple(targets))


def take_step(trainer: Trainer, number: int, batch: Batch, online: OnlineTeacher | None = None) -> None:
    if online is not None:
        batch = online.labelled(batch.to(online.teacher.device))
    trainer.step(number, 0, batch)


def branch_alone(trainer: Trainer, batch: Batch, hidden_dim: int) -> None:
    """The semantic branch and its loss, forward and backward, for as many queries as a step has."""
    detector, soft_loss = trainer.learner.detector, trainer.learner.soft_loss
    assert isinstance(detector, Dino)
    assert soft_loss is not None
    rows_N = torch.arange(sum(len(target.labels) for target in batch.targets), device=batch.pixels.device)
    # A match each, and a positive query a group.
    rows_N = rows_N.repeat(1 + denoising_of(batch).groups[0])
    hidden_NE = torch.ones(len(rows_N), hidden_dim, device=rows_N.device, requires_grad=True)
    soft_loss(detector.semantic_logits(hidden_NE), batch.targets, rows_N).sum().backward()


def denoising_of(batch: Batch) -> DenoisingQueries:
    queries = draw_denoising(
        batch.targets,
        dn_queries=100,
        label_noise=0.5,
        box_noise=1.0,
        num_classes=CLASSES,
        generators=[torch.Generator()],
    )
    assert queries is not None
    return queries


def take_turns(
    arms: dict[str, Callable[[int], object]], rounds: int, device: torch.device
) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of each arm in each round, after a round that doesn't count."""
    names = list(arms)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for number in range(rounds + 1):
        # Each arm comes after each other as often.
        names = names[1:] + names[:1]
        for name in names if number % 2 else reversed(names):
            start = now(device)
            arms[name](number)
            end = now(device)
            if number:
                measured[name].append((end[0] - start[0], end[1] - start[1]))
    return measured


def now(device: torch.device) -> tuple[float, float]:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


def seconds_of(steps: Sequence[tuple[float, float]]) -> dict[str, float]:
    wall, processor = zip(*steps, strict=True)
    return {"seconds": statistics.median(wall), "processor_seconds": statistics.median(processor)}


def ratio(
    above: Sequence[tuple[float, float]],
    below: Sequence[tuple[float, float]],
    part: Sequence[tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Of two arms: median and quartiles over rounds; and by the part that only the first has, if it has one."""
    figures: dict[str, Any] = {}
    for place, name in enumerate(("seconds", "processor_seconds")):
        ratios = [one[place] / other[place] for one, other in zip(above, below, strict=True)]
        first, _, third = statistics.quantiles(ratios, n=4)
        figures[name] = {"ratio": statistics.median(ratios), "quartiles": [first, third]}
        if part is not None:
            figures[name]["by_parts"] = 1 + seconds_of(part)[name] / seconds_of(below)[name]
    return figures


def least_cosine(online: OnlineTeacher, batches: dict[str, Batch]) -> float:
    """How alike the online teacher's labels are to the pipeline's; 1 is the same."""
    both = [
        torch.cat([target.soft_labels.embeddings for target in batch.targets])  # type: ignore[union-attr,misc]
        for batch in (online.labelled(batches["plain"]), batches["embedding"])
    ]
    return float((both[0] * both[1]).sum(-1).min())


def count_flops(online: OnlineTeacher, setting: Setting, text: TextBank) -> dict[str, float]:
    """Of one picture at the paper's size, in units of 1e9."""
    picture = random_mosaics(replace(setting, side=PAPER_SIDE, batch_size=1, device=torch.device("cpu")))
    denoising = denoising_of(picture)
    taught = 4 * (1 + denoising.groups[0])
    model = setting.config.model.model_copy(update={"deformable_attention": "torch"})

    def outputs_and_branch(detector: nn.Module) -> Tensor:
        assert isinstance(detector, Dino)
        outputs = detector(torch.zeros(1, 3, PAPER_SIDE, PAPER_SIDE), picture.padding_mask, denoising)
        parts = [part for part in vars(outputs).values() if part.requires_grad]
        if detector.has_semantic_branch:
            parts.append(detector.semantic_logits(outputs.hidden[0, :taught]))
        return torch.stack([part.mean() for part in parts]).sum()

    steps = {}
    for branch in (False, True):
        detector = build_detector(
            model, num_classes=CLASSES, text_features_CD=text_tensor(text), logit_scale=text.logit_scale, weights=None,
            device=torch.device("cpu"), semantic_branch=branch,
        )  # fmt: skip
        steps[branch] = training_flops(detector.train(), outputs_and_branch) / 1e9
    teacher = teacher_flops(online, picture) / 1e9
    return {
        "plain_step": steps[False],
        "step_with_branch": steps[True],
        "teacher_forward": teacher,
        "branch_over_plain": steps[True] / steps[False],
        "online_over_cached": (steps[True] + teacher) / steps[True],
    }


def teacher_flops(online: OnlineTeacher, picture: Batch) -> int:
    teacher = online.teacher
    if teacher.clip_resnet is None:
        return forward_flops(teacher, teacher.encode_image, (4, 3, *teacher.identity.input_hw))
    boxes = picture.targets[0].boxes_cxcywh_norm.to(teacher.device)
    return forward_flops(teacher, lambda pixels: online.embed(pixels, [boxes]), (1, 3, PAPER_SIDE, PAPER_SIDE))


if __name__ == "__main__":
    typer.run(main)
