import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from richsem_train.losses.centernet_cascade.proposals import (
    CellTargets,
    cell_targets,
    count_positives,
    proposal_losses,
)
from richsem_train.outputs.centernet_cascade import CellPredictions, Grid
from tests.trainer.losses.batches import generator

GRID = Grid.over(128, 128, torch.device("cpu"))
CELLS = sum(GRID.sizes)
NOTHING = -30.0
"""A logit of a probability that is clamped, and whose loss is 1e-12 a cell."""


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def nothing_to_learn() -> CellTargets:
    return CellTargets(
        heatmap=torch.zeros(1, CELLS, dtype=torch.float64),
        positives=torch.zeros(1, CELLS, dtype=torch.float64),
        ltrb=torch.ones(1, CELLS, 4, dtype=torch.float64),
        has_box=torch.zeros(1, CELLS, dtype=torch.bool),
        learns=torch.ones(1, CELLS, dtype=torch.bool),
    )


def heatmap_loss(cells: list[tuple[float, float, int]], *, positives: float = 1.0, learns: bool = True) -> float:
    """Of cells of some probability, heat and number of centres; all others are sure that there is nothing."""
    targets = nothing_to_learn()
    logits = torch.full((1, CELLS), NOTHING, dtype=torch.float64)
    for place, (probability, heat, centres) in enumerate(cells):
        logits[0, place] = logit(probability)
        targets.heatmap[0, place] = heat
        targets.positives[0, place] = centres
    if not learns:
        targets.learns[:] = False
    predictions = CellPredictions(logits, torch.ones(1, CELLS, 4, dtype=torch.float64), GRID)
    return proposal_losses(predictions, targets, positives=positives, cells=1.0)["loss_heatmap"].item()


def box_loss(ltrb: list[float], wanted: list[float]) -> float:
    targets = nothing_to_learn()
    targets.has_box[0, 5] = True
    targets.ltrb[0, 5] = torch.tensor(wanted, dtype=torch.float64)
    sides = torch.full((1, CELLS, 4), 3.0, dtype=torch.float64)
    sides[0, 5] = torch.tensor(ltrb, dtype=torch.float64)
    logits = torch.zeros(1, CELLS, dtype=torch.float64)
    losses = proposal_losses(CellPredictions(logits, sides, GRID), targets, positives=1.0, cells=2.0)
    return 2 * losses["loss_proposal_giou"].item()


def random_case(pictures: int, *, seed: int = 0) -> tuple[CellPredictions, dict[str, Tensor]]:
    rng = generator(seed)
    boxes_BM4 = torch.rand(pictures, 5, 4, generator=rng) * 90
    boxes_BM4[..., 2:] += boxes_BM4[..., :2]
    truth = {
        "boxes_BM4": boxes_BM4,
        "is_object_BM": torch.rand(pictures, 5, generator=rng) < 0.8,
        "image_hw_B2": torch.randint(60, 129, (pictures, 2), generator=rng),
        "teaches_B": torch.ones(pictures, dtype=torch.bool),
    }
    predictions = CellPredictions(
        (2 * torch.randn(pictures, CELLS, generator=rng)).requires_grad_(),
        (4 * torch.rand(pictures, CELLS, 4, generator=rng)).requires_grad_(),
        GRID,
    )
    return predictions, truth


def losses_of(predictions: CellPredictions, truth: dict[str, Tensor], **totals: float) -> dict[str, Tensor]:
    return proposal_losses(predictions, cell_targets(grid=predictions.grid, **truth), **totals)


def test_focal_loss_of_three_cells_by_hand():
    # A centre seen at 0.3; a cell of heat 0.5 at 0.2; background at 0.6.
    seen = 0.25 * 0.7**2 * -math.log(0.3)
    near = 0.75 * 0.5**4 * 0.2**2 * -math.log(0.8)
    background = 0.75 * 0.6**2 * -math.log(0.4)
    cells = [(0.3, 1.0, 1), (0.2, 0.5, 0), (0.6, 0.0, 0)]
    assert heatmap_loss(cells) == pytest.approx(0.5 * (seen + near + background), abs=1e-9)
    assert heatmap_loss(cells, positives=4.0) == pytest.approx(0.125 * (seen + near + background), abs=1e-9)


def test_a_cell_with_two_centres_counts_twice():
    assert heatmap_loss([(0.3, 1.0, 2)]) == pytest.approx(2 * heatmap_loss([(0.3, 1.0, 1)]), abs=1e-9)


def test_background_is_dropped_from_a_probability_of_85_percent():
    assert heatmap_loss([(0.8499, 0.0, 0)]) > 0.4
    assert heatmap_loss([(0.8501, 0.0, 0)]) == pytest.approx(0, abs=1e-9)
    # The centre of an object is not.
    assert heatmap_loss([(0.9, 1.0, 1)]) == pytest.approx(0.125 * 0.1**2 * -math.log(0.9), abs=1e-9)


def test_cells_that_do_not_learn_have_no_background():
    assert heatmap_loss([(0.6, 0.0, 0)], learns=False) == 0


def test_probabilities_are_clamped_before_the_logarithm():
    assert heatmap_loss([(1e-9, 1.0, 1)]) == pytest.approx(0.125 * (1 - 1e-4) ** 2 * -math.log(1e-4), abs=1e-9)


def test_the_box_loss_is_torchvisions_with_one_added_to_overlap_and_union():
    rng = generator(1)
    for _ in range(20):
        ltrb, wanted = (6 * torch.rand(2, 4, generator=rng, dtype=torch.float64)).unbind()
        boxes, others = (torch.cat([-each[:2], each[2:]])[None] for each in (ltrb, wanted))
        union = (boxes[0, 2:] - boxes[0, :2]).prod() + (others[0, 2:] - others[0, :2]).prod()
        iou = box_iou(boxes, others).item()
        overlap = (union * iou / (1 + iou)).item()
        union = union.item() - overlap
        expected = 1 - (generalized_box_iou(boxes, others).item() - iou + (overlap + 1) / (union + 1))
        assert box_loss(ltrb.tolist(), wanted.tolist()) == pytest.approx(expected, rel=1e-9)


def test_giou_of_sides_by_hand():
    # 4x4 in 4x6: overlap 16, union and hull 24.
    assert box_loss([2, 2, 2, 2], [2, 2, 2, 4]) == pytest.approx(1 - 17 / 25)
    # 4x2 and 2x4, crossed: overlap 4, union 12, hull 16.
    assert box_loss([2, 1, 2, 1], [1, 2, 1, 2]) == pytest.approx(1 - (5 / 13 - 4 / 16))
    assert box_loss([2, 1, 2, 1], [2, 1, 2, 1]) == pytest.approx(0)


def test_a_step_in_parts_has_the_losses_and_gradients_of_the_whole():
    predictions, truth = random_case(4)
    totals = {"positives": 7.0, "cells": 30.0}
    whole = losses_of(predictions, truth, **totals)
    sum(whole.values()).backward()
    parts = []
    for part in (slice(0, 1), slice(1, 4)):
        leaves = [each[part].detach().requires_grad_() for each in (predictions.heatmap_logits, predictions.ltrb)]
        of_part = {name: value[part] for name, value in truth.items()}
        losses = losses_of(CellPredictions(*leaves, GRID), of_part, **totals)
        sum(losses.values()).backward()
        parts.append((losses, *(leaf.grad for leaf in leaves)))
    for name, loss in whole.items():
        torch.testing.assert_close(parts[0][0][name] + parts[1][0][name], loss)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), predictions.heatmap_logits.grad)
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), predictions.ltrb.grad)


def test_padding_has_no_loss_and_no_gradient():
    predictions, truth = random_case(3)
    sum(losses_of(predictions, truth, positives=1.0, cells=1.0).values()).backward()
    is_padding_BN = ~GRID.cells_of_pictures(truth["image_hw_B2"])
    assert is_padding_BN.any(1).all()
    for gradient in (predictions.heatmap_logits.grad, predictions.ltrb.grad):
        assert gradient[~is_padding_BN].any()
        assert not gradient[is_padding_BN].any()


def test_pictures_that_do_not_teach_have_no_loss_but_a_gradient_of_zeros():
    predictions, truth = random_case(2)
    silent = truth | {"teaches_B": torch.tensor([False, False])}
    losses = losses_of(predictions, silent, positives=1.0, cells=1.0)
    assert [loss.item() for loss in losses.values()] == [0, 0]
    sum(losses.values()).backward()
    assert not predictions.heatmap_logits.grad.any()
    assert not predictions.ltrb.grad.any()


def test_pictures_without_boxes_learn_their_background_alone():
    predictions, truth = random_case(2)
    empty = truth | {"is_object_BM": torch.zeros(2, 5, dtype=torch.bool)}
    losses = losses_of(predictions, empty, positives=1.0, cells=1.0)
    assert losses["loss_heatmap"] > 0
    assert losses["loss_proposal_giou"] == 0


def test_losses_of_wild_predictions_and_boxes_have_finite_gradients():
    predictions, truth = random_case(2)
    boxes_BM4 = truth["boxes_BM4"].clone()
    boxes_BM4[0, 0] = torch.tensor([50.0, 50, 50, 50])
    boxes_BM4[0, 1] = torch.tensor([-1e5, -1e5, 1e5, 1e5])
    boxes_BM4[0, 2] = torch.tensor([500.0, 500, 600, 600])
    truth |= {"boxes_BM4": boxes_BM4, "is_object_BM": torch.ones(2, 5, dtype=torch.bool)}
    with torch.no_grad():
        predictions.heatmap_logits[0] *= 1e3
        predictions.ltrb[0, ::2] = 0
        predictions.ltrb[0, 1::2] = 1e4
    losses = losses_of(predictions, truth, positives=1.0, cells=1.0)
    sum(losses.values()).backward()
    for each in (*losses.values(), predictions.heatmap_logits.grad, predictions.ltrb.grad):
        assert each.isfinite().all()


def test_losses_of_bfloat16_are_float32():
    predictions, truth = random_case(2)
    rounded = replace(
        predictions, heatmap_logits=predictions.heatmap_logits.bfloat16(), ltrb=predictions.ltrb.bfloat16()
    )
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(rounded, truth, positives=1.0, cells=1.0)
    exact = replace(predictions, heatmap_logits=rounded.heatmap_logits.float(), ltrb=rounded.ltrb.float())
    for name, loss in losses_of(exact, truth, positives=1.0, cells=1.0).items():
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], loss)


def test_nothing_is_read_by_the_host():
    # Tensors of the meta device have no values to read, nor a shape that depends on them.
    predictions, truth = random_case(2)
    meta = {name: value.to("meta") for name, value in truth.items()}
    grid = Grid.over(128, 128, torch.device("meta"))
    leaves = [each.detach().to("meta").requires_grad_() for each in (predictions.heatmap_logits, predictions.ltrb)]
    cells = CellPredictions(*leaves, grid)
    losses = losses_of(cells, meta, positives=1.0, cells=1.0)
    sum(losses.values()).backward()
    assert count_positives(grid=grid, **meta).shape == (2,)
