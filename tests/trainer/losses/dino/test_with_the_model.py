from dataclasses import replace

import pytest
import torch

from richsem_train.losses.dino.criterion import Criterion, ImageLoss
from richsem_train.losses.soft_labels import SoftLoss
from tests.trainer.losses.batches import generator, make_image_target, top_k_labels, total_of
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


def image_losses_of(model):
    losses_of = Criterion(decoder_layers=3, soft_loss=SoftLoss(), image_loss=ImageLoss())
    truth = [make_image_target([2]), make_image_target([1, 3])]
    losses = losses_of(
        model(*pictures(2), None), truth, None, num_boxes=1.0, num_images=2.0, semantic_logits=model.semantic_logits
    )
    return losses_of, losses


def test_labels_of_whole_images_reach_every_parameter_and_move_no_box():
    model = shaken(tiny_dino(label_embedding="embedding")).train()
    total_of(*image_losses_of(model)).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    # Distributed training waits for each.
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    idle = ("bbox_embed", "transformer.enc_out_bbox_embed", "transformer.enc_out_class_embed", "label_enc")
    for name, gradient in gradients.items():
        assert gradient.isfinite().all()
        if name.startswith(idle):
            assert not gradient.any(), name
    assert any(gradient.any() for name, gradient in gradients.items() if name.startswith("class_embed"))
    assert any(gradient.any() for name, gradient in gradients.items() if name.startswith("backbone"))


def test_labels_of_whole_images_are_learnt():
    model = tiny_dino().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    seen = []
    for _ in range(40):
        losses_of, losses = image_losses_of(model)
        total = total_of(losses_of, losses)
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
        seen.append(total.item())
    # The mean of two labels can't be learnt better than ln 2 for each of them.
    assert seen[-1] < 0.2 * seen[0]


def test_queries_stand_in_the_order_of_the_encoders_scores():
    """So that the first ones are the best candidates for the label of an image."""
    outputs = shaken(tiny_dino()).eval()(*pictures(2))
    scores_BQ = outputs.encoder_logits.amax(-1)
    assert (scores_BQ.diff(dim=1) <= 0).all()
    assert scores_BQ.std() > 0
