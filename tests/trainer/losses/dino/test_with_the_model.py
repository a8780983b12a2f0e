from dataclasses import replace

import pytest
import torch

from richsem_train.losses.dino.criterion import Criterion
from richsem_train.losses.soft_labels import SoftLoss
from tests.trainer.losses.batches import generator, top_k_labels, total_of
from tests.trainer.models.dino.tiny_dino import CLASSES, denoising, pictures, shaken, targets, tiny_dino


def soft_targets(*counts: int, supervision: str = "labelled"):
    return [
        replace(target, soft_labels=top_k_labels(count, classes=CLASSES), supervision=supervision)
        for target, count in zip(targets(*counts), counts, strict=True)
    ]


def criterion() -> Criterion:
    return Criterion(decoder_layers=3, soft_loss=SoftLoss(), federated_weights_C=torch.ones(CLASSES), federated_total=4)


@pytest.mark.parametrize("supervision", ["labelled", "unlabelled"])
@pytest.mark.parametrize("counts", [(3, 1), (0, 2), (0, 0)])
def test_every_parameter_gets_a_finite_gradient(counts: tuple[int, int], supervision: str):
    model, losses_of = shaken(tiny_dino()).train(), criterion()
    queries = denoising(*counts) if any(counts) else None

    losses = losses_of(
        model(*pictures(2), queries),
        soft_targets(*counts, supervision=supervision),
        queries,
        num_boxes=max(1.0, sum(counts)),
        generators=[generator()],
        semantic_logits=model.semantic_logits,
    )
    total_of(losses_of, losses).backward()

    assert losses.keys() == losses_of.weights.keys()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_batch_is_learnt():
    model, losses_of = tiny_dino().train(), criterion()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    batch, queries, truth = pictures(2), denoising(3, 1), soft_targets(3, 1)
    totals, soft = [], []
    for step in range(60):
        losses = losses_of(
            model(*batch, queries),
            truth,
            queries,
            num_boxes=4.0,
            generators=[generator(step)],
            semantic_logits=model.semantic_logits,
        )
        total = total_of(losses_of, losses)
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
        totals.append(total.item())
        soft.append(losses["loss_soft"].item())
    assert totals[-1] < 0.5 * totals[0]
    assert soft[-1] < 0.5 * soft[0]
