"""Draws: what pictures learn by depends on the pictures of their draw, whatever else is in the batch."""

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from richsem_train.losses.dino.criterion import Criterion
from richsem_train.losses.federated import draw_federated
from richsem_train.losses.soft_labels import SoftLoss
from richsem_train.models.dino.denoising import PADDING_BOX, draw_denoising
from tests.trainer.losses.batches import (
    CLASSES,
    LAYERS,
    WIDTH,
    FakeDenoising,
    embedding_labels,
    generator,
    make_outputs,
    make_target,
    mask_of,
)
from tests.trainer.models.dino.tiny_dino import pictures, shaken, targets, tiny_dino

COUNTS = (3, 1, 0, 0, 0, 7, 2, 2)
"""Objects of eight pictures: four draws, the second without any."""


def noise(truth, seeds, **changes):
    options = {"dn_queries": 8, "label_noise": 0.5, "box_noise": 1.0, "num_classes": CLASSES}
    return draw_denoising(truth, generators=[generator(seed) for seed in seeds], **(options | changes))


@pytest.fixture
def together():
    return noise(targets(*COUNTS), range(4))


def test_draws_have_groups_of_their_own(together):
    assert together.groups == (2, 2, 0, 0, 1, 1, 4, 4)
    assert together.count == 16
    drawn = (together.group >= 0).sum(1)
    assert drawn.tolist() == [2 * 6] * 2 + [0] * 2 + [14] * 2 + [4 * 4] * 2
    assert [len(queries) for queries, _ in together.positives] == [6, 2, 0, 0, 0, 7, 8, 8]


@pytest.mark.parametrize("draw", [0, 2, 3])
def test_the_queries_of_a_draw_are_those_that_it_has_alone(together, draw):
    rows = slice(2 * draw, 2 * draw + 2)
    alone = noise(targets(*COUNTS)[rows], [draw])
    count = alone.count
    for name in ("labels", "boxes", "padding", "group"):
        assert torch.equal(getattr(together, name)[rows, :count], getattr(alone, name)), name
    for ours, theirs in zip(together.positives[rows], alone.positives, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_queries_beyond_those_of_a_draw_stand_for_nothing_and_are_seen_by_nobody(together):
    beyond = together.group < 0
    assert together.padding[beyond].all()
    assert (together.labels[beyond] == 0).all()
    assert (together.boxes[beyond] == PADDING_BOX).all()
    hidden_from = together.attention_mask(5)
    for row in range(len(COUNTS)):
        others = ~torch.cat([beyond[row], torch.zeros(5, dtype=torch.bool)])
        assert hidden_from[row][others][:, : together.count][:, beyond[row]].all()
    # Nobody is blind, or attention would be NaN.
    assert not hidden_from.all(-1).any()


def test_a_detector_says_of_a_draw_what_it_says_of_it_alone(together):
    model = shaken(tiny_dino(num_classes=CLASSES, text_features_CD=torch.randn(CLASSES, 20))).double().eval()
    images, mask = pictures(len(COUNTS))
    whole = model(images.double(), mask, together)
    for draw in (0, 2, 3):
        rows = slice(2 * draw, 2 * draw + 2)
        alone = model(images[rows].double(), mask[rows], noise(targets(*COUNTS)[rows], [draw]))
        count = alone.dn_logits.shape[2]
        for name in ("dn_logits", "dn_boxes"):
            assert_close(getattr(whole, name)[:, rows, :count], getattr(alone, name), rtol=1e-9, atol=1e-9)
        for name in ("pred_logits", "pred_boxes"):
            assert_close(getattr(whole, name)[:, rows], getattr(alone, name), rtol=1e-9, atol=1e-9)


def test_federated_classes_of_a_draw_are_those_that_it_has_alone():
    weights = torch.tensor([0.0, *torch.arange(1.0, 40)])
    labels = [torch.tensor([3, 9, 9]), torch.tensor([], dtype=torch.long), torch.tensor([5, 0])]
    draws = torch.tensor([0, 0, 0, 2, 2])
    options = {"total": 6, "losses": 4}
    whole = draw_federated(torch.cat(labels), draws, weights, generators=[generator(s) for s in range(3)], **options)
    masks = mask_of(whole, 40)
    assert masks.shape == (4, 3, 40)
    for draw, own in enumerate(labels):
        alone = draw_federated(own, torch.zeros_like(own), weights, generators=[generator(draw)], **options)
        assert torch.equal(masks[:, draw], mask_of(alone, 40)[:, 0])
    assert masks.sum(-1).tolist() == [[6, 6, 6]] * 4


def test_a_draw_with_many_classes_adds_none_to_another():
    weights = torch.tensor([0.0, *torch.ones(59)])
    many, few = torch.arange(1, 31), torch.tensor([40])
    drawn = draw_federated(
        torch.cat([many, few]),
        torch.tensor([0] * 30 + [1]),
        weights,
        total=10,
        losses=1,
        generators=[generator(0), generator(1)],
    )
    mask = mask_of(drawn, 60)[0]
    assert mask.sum(-1).tolist() == [30, 10]
    assert mask[1, 40]


def labelled(count, seed):
    return make_target(count, seed=seed, soft_labels=embedding_labels(count, seed=seed))


def fake_denoising(counts, groups, size):
    """Of one draw, with queries of no group up to a size."""
    most = max(counts)
    query = torch.arange(size)
    group = torch.where(query < 2 * most * groups, query // (2 * max(most, 1)), -1).expand(len(counts), -1)
    starts = 2 * most * torch.arange(groups)[:, None]
    positives = tuple(((starts + torch.arange(n)).flatten(), torch.arange(n).repeat(groups)) for n in counts)
    return FakeDenoising(group, (groups,) * len(counts), positives)


def test_losses_of_draws_add_up_each_with_its_own_classes_and_groups():
    counts, groups = [(3, 1), (0, 0), (2, 4)], [4, 0, 2]
    truth = [labelled(count, seed) for seed, count in enumerate(n for draw in counts for n in draw)]
    truth[5] = make_target(4, seed=5, supervision="unlabelled", soft_labels=embedding_labels(4, seed=5))
    drawn = [fake_denoising(each, number, 24) for each, number in zip(counts, groups, strict=True)]
    joined = FakeDenoising(
        torch.cat([each.group for each in drawn]),
        tuple(number for each in drawn for number in each.groups),
        tuple(pairs for each in drawn for pairs in each.positives),
    )
    outputs = make_outputs(6, dn=24)
    criterion = Criterion(
        decoder_layers=LAYERS,
        soft_loss=SoftLoss(torch.randn(CLASSES, 5, generator=generator(1)), logit_scale=5.0),
        federated_weights_C=torch.tensor([0.0, *torch.arange(1.0, CLASSES)]),
        federated_total=5,
    )
    branch = torch.nn.Linear(WIDTH, CLASSES, bias=False)

    def losses_of(outputs, truth, denoising, seeds):
        found = criterion(
            outputs,
            truth,
            denoising,
            num_boxes=4.0,
            generators=[generator(seed) for seed in seeds],
            semantic_logits=branch,
        )
        return {name: loss.item() for name, loss in found.items()}

    whole = losses_of(outputs, truth, joined, range(3))
    alone = []
    for draw, (each, number) in enumerate(zip(counts, groups, strict=True)):
        rows = slice(2 * draw, 2 * draw + 2)
        part = outputs.of(rows)
        if number:
            # Without the queries that are of no group.
            own = 2 * max(each) * number
            part = type(part)(
                **{
                    **vars(part),
                    "dn_logits": part.dn_logits[:, :, :own],
                    "dn_boxes": part.dn_boxes[:, :, :own],
                    "dn_hidden": part.dn_hidden[:, :own],
                }
            )
        alone.append(losses_of(part, truth[rows], fake_denoising(each, number, own) if number else None, [draw]))
    for name, loss in whole.items():
        assert loss == pytest.approx(sum(part[name] for part in alone), rel=1e-5, abs=1e-7), name
    assert min(whole.values()) > 0


def test_a_denoising_loss_is_divided_by_the_groups_of_its_draw():
    """By hand: one object each, one group and three; L1 of the positives, and the focal loss of the drawn queries."""
    truth = [make_target(1, seed=seed) for seed in range(2)]
    drawn = [fake_denoising([1], 1, 6), fake_denoising([1], 3, 6)]
    joined = FakeDenoising(
        torch.cat([each.group for each in drawn]), (1, 3), tuple(pairs for each in drawn for pairs in each.positives)
    )
    outputs = make_outputs(2, dn=6)
    losses = Criterion(decoder_layers=LAYERS)(outputs, truth, joined, num_boxes=2.0)
    expected_bbox, expected_class = 0.0, 0.0
    for row, (target, groups) in enumerate(zip(truth, (1, 3), strict=True)):
        positives = 2 * torch.arange(groups)
        boxes, logits = outputs.dn_boxes[-1, row], outputs.dn_logits[-1, row, : 2 * groups]
        expected_bbox += (boxes[positives] - target.boxes_cxcywh_norm).abs().sum() / (2 * groups)
        wanted = torch.zeros_like(logits)
        wanted[positives, target.labels] = 1
        expected_class += sigmoid_focal_loss(logits, wanted, reduction="sum") / (2 * groups)
    assert losses["loss_bbox_dn"].item() == pytest.approx(expected_bbox.item(), rel=1e-5)
    assert losses["loss_class_dn"].item() == pytest.approx(expected_class.item(), rel=1e-5)
