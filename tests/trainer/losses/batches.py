"""Made-up outputs and targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from richsem_train.choices import Supervision
from richsem_train.losses.dino.criterion import Criterion
from richsem_train.losses.dino.matcher import HungarianMatcher, Match
from richsem_train.losses.federated import FederatedClasses
from richsem_train.outputs.dino import DinoOutputs
from richsem_train.targets import SoftLabels, Target

CLASSES = 12
LAYERS = 3
QUERIES = 9
WIDTH = 6


class FakeOutputs(DinoOutputs):
    def leaves(self) -> list[Tensor]:
        return [value for value in vars(self).values() if value is not None]

    def of(self, images: slice) -> "FakeOutputs":
        """Some pictures of the batch."""
        parts = {
            name: value[:, images] if name in {"pred_logits", "pred_boxes", "dn_logits", "dn_boxes"} else value[images]
            for name, value in vars(self).items()
            if value is not None
        }
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class FakeDenoising:
    group: Tensor
    groups: tuple[int, ...]
    positives: tuple[tuple[Tensor, Tensor], ...]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def total_of(criterion: Criterion, losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum of losses, as a step adds them."""
    return torch.stack([criterion.weights[name] * loss for name, loss in losses.items()]).sum()


def match(logits_BQC: Tensor, boxes_BQ4: Tensor, targets: Sequence[Target], **costs: float) -> list[Match]:
    """The matches of one layer, one a picture."""
    stages = {"layer": (logits_BQC[None], boxes_BQ4[None])}
    return HungarianMatcher(**costs).match_stages(stages, targets)["layer"][0]


def mask_of(drawn: FederatedClasses, classes: int) -> Tensor:
    """As bool [S, A, C], True where the class takes part."""
    empty = torch.zeros(*drawn.ids.shape[:2], classes, dtype=torch.bool)
    return empty.scatter(-1, drawn.ids, drawn.taught)


def random_boxes(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.rand(*shape, 4, generator=generator(seed))
    return torch.cat([0.2 + 0.6 * draw[..., :2], 0.05 + 0.3 * draw[..., 2:]], -1)


def make_outputs(batch: int, *, dn: int = 0, seed: int = 0, queries: int = QUERIES, scale: float = 1.0) -> FakeOutputs:
    rng = generator(seed)

    def normal(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=rng)).requires_grad_()

    def boxes(*shape: int, offset: int) -> Tensor:
        return random_boxes(*shape, seed=seed + offset).requires_grad_()

    return FakeOutputs(
        pred_logits=normal(LAYERS, batch, queries, CLASSES),
        pred_boxes=boxes(LAYERS, batch, queries, offset=1),
        hidden=normal(batch, queries, WIDTH),
        encoder_logits=normal(batch, queries, CLASSES),
        encoder_boxes=boxes(batch, queries, offset=2),
        dn_logits=normal(LAYERS, batch, dn, CLASSES) if dn else None,
        dn_boxes=boxes(LAYERS, batch, dn, offset=3) if dn else None,
        dn_hidden=normal(batch, dn, WIDTH) if dn else None,
    )


def make_target(
    objects: int, *, seed: int = 0, supervision: Supervision = "labelled", soft_labels: SoftLabels | None = None
) -> Target:
    labels = torch.randint(1, CLASSES, (objects,), generator=generator(seed))
    return Target(
        boxes_cxcywh_norm=random_boxes(objects, seed=seed + 100),
        labels=torch.zeros_like(labels) if supervision == "unlabelled" else labels,
        image_id=seed,
        image_hw=(64, 64),
        original_hw=(64, 64),
        supervision=supervision,
        soft_labels=soft_labels,
    )


def make_image_target(labels: Sequence[int], *, seed: int = 0) -> Target:
    """A picture that is labelled as a whole, and has no boxes."""
    target = make_target(0, seed=seed)
    return replace(target, supervision="image", image_labels=torch.tensor(labels, dtype=torch.long))


def make_denoising(counts: list[int], *, groups: int = 2) -> FakeDenoising:
    """Positives as DINO lays them out: groups of positives, then negatives, for the picture with the most objects."""
    most = max(counts)
    return FakeDenoising(
        (torch.arange(2 * most * groups) // (2 * most)).expand(len(counts), -1),
        (groups,) * len(counts),
        tuple(
            (
                torch.cat([torch.arange(count) + 2 * most * group for group in range(groups)]),
                torch.arange(count).repeat(groups),
            )
            for count in counts
        ),
    )


def embedding_labels(objects: int, *, dim: int = 5, seed: int = 0) -> SoftLabels:
    return SoftLabels(embeddings=torch.randn(objects, dim, generator=generator(seed + 7)))


def top_k_labels(objects: int, *, k: int = 4, seed: int = 0, classes: int = CLASSES) -> SoftLabels:
    log_probs = (2 * torch.randn(objects, classes, generator=generator(seed + 9))).log_softmax(-1)
    kept, ids = log_probs.topk(k, -1)
    rest = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return SoftLabels(class_ids=ids, log_probs=kept, log_rest=rest)
