"""What the learner makes of its parts, against torchvision and by hand: stage by stage, total by total."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou, clip_boxes_to_image

from richsem_train.models.centernet_cascade import two_stage
from richsem_train.models.centernet_cascade.centernet import Proposals
from richsem_train.numerics import cxcywh_to_xyxy
from tests.trainer.learners.cascade_steps import batch_of, image_target, make_cascade_trainer
from tests.trainer.steps import CLASSES, SIDE, make_batch

STAGES = (("_0", 0.6, 10.0), ("_1", 0.7, 20.0), ("", 0.8, 30.0))
"""Suffix of losses, least overlap of positives, and weight of deltas, as published."""

TOTALS = {"positives": 3.0, "cells": 5.0, "regions": 7.0, "objects": 11.0, "labelled pictures": 13.0}


def one(objects: int = 2, **changes):
    return replace(make_batch(range(1), objects=objects).targets[0], **changes)


def stages_and_losses(learner, *targets):
    """What each stage was shown, boxes and which are real, and said; and the losses."""
    seen, outputs = [], learner.detector.cascade.outputs

    def spy(number, maps, boxes, is_real, text):
        said = outputs(number, maps, boxes, is_real, text)
        seen.append((boxes, is_real, said))
        return said

    learner.detector.cascade.outputs = spy
    generators = [torch.Generator().manual_seed(number) for number in range(len(targets))]
    return seen, learner(batch_of(*targets), list(TOTALS.values()), generators)


def coder(weight: float) -> BoxCoder:
    return BoxCoder((weight, weight, weight / 2, weight / 2))


def test_each_stage_has_its_overlap_its_weights_and_the_regions_of_the_one_before(monkeypatch):
    target = one(2, boxes_cxcywh_norm=torch.tensor([[0.3, 0.3, 0.3, 0.25], [0.6, 0.7, 0.3, 0.4]], dtype=torch.float64))
    objects = cxcywh_to_xyxy(target.boxes_cxcywh_norm) * SIDE
    learner = make_cascade_trainer(loss={"federated": None}).learner
    # Shares of their width that proposals are to the right of their objects, and that stages move them to the left.
    shares = torch.tensor([0.212, 0.29, 3.0]).repeat_interleave(2)[:, None].double()
    beside = objects.repeat(3, 1) + shares * (objects[:, 2:] - objects[:, :2]).repeat(3, 2) * torch.tensor([1, 0, 1, 0])
    proposals = Proposals(beside[None], torch.ones(1, 6).double(), torch.ones(1, 6, dtype=torch.bool))
    propose = learner.detector.propose
    monkeypatch.setattr(learner.detector, "propose", lambda maps, hw: (propose(maps, hw)[0], proposals))
    for stage, share, (_, _, weight) in zip(learner.detector.cascade.stages, (0.05, 0.02, 0.0), STAGES, strict=True):
        nn.init.constant_(stage.bbox_pred[2].bias[:1], -share * weight)
    seen, losses = stages_and_losses(learner, target)
    overlaps = []
    for number, (suffix, least, weight) in enumerate(STAGES):
        boxes, is_real, said = (seen[number][0][0], seen[number][1][0], seen[number][2])
        overlap, answers_for = box_iou(boxes, objects).max(1)
        is_positive = (overlap >= least) & is_real
        wanted = coder(weight).encode_single(objects[answers_for], boxes)
        of_boxes = (said.deltas[0] - wanted).abs().sum(-1)[is_positive].sum()
        classes = one_hot(target.labels[answers_for].where(is_positive, 0), CLASSES)[:, 1:].double()
        of_classes = binary_cross_entropy_with_logits(said.logits[0][:, 1:], classes, reduction="none")[is_real].sum()
        torch.testing.assert_close(losses[f"loss_bbox{suffix}"], of_boxes / TOTALS["regions"])
        torch.testing.assert_close(losses[f"loss_class{suffix}"], of_classes / TOTALS["regions"])
        overlaps.append({int(10 * value + 1e-6) for value in overlap[is_real].tolist()})
        if number < 2:
            moved = clip_boxes_to_image(coder(weight).decode_single(said.deltas[0], boxes), (SIDE, SIDE))
            torch.testing.assert_close(seen[number + 1][0][0], moved.detach())
            has_area = (moved[:, 2:] > moved[:, :2]).all(-1)
            assert torch.equal(seen[number + 1][1][0], is_real & has_area)
    # In tenths: limits of other stages would be noticed. Far proposals are clipped to nothing, and gone after stage 0.
    assert overlaps == [{0, 5, 6, 10}, {6, 7, 9}, {6, 7, 8}]


def test_the_best_proposals_of_a_whole_image_go_through_all_stages_each_with_a_largest_of_its_own():
    seen, losses = stages_and_losses(make_cascade_trainer(loss={"federated": None}).learner, image_target(one(), 2, 5))
    wanted = torch.zeros(CLASSES - 1, dtype=torch.float64)
    wanted[[1, 4]] = 0.5
    for number, (suffix, _, _) in enumerate(STAGES):
        boxes, is_real, said = (seen[number][0][0], seen[number][1][0], seen[number][2])
        assert len(boxes) == 6
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        real = torch.arange(6)[is_real][:-1]
        sides = boxes[real, 2:] - boxes[real, :2]
        largest = real[sides.prod(-1).argmax()]
        entropy = binary_cross_entropy_with_logits(said.logits[0, largest, 1:], wanted, reduction="sum")
        torch.testing.assert_close(losses[f"loss_image{suffix}"], entropy / TOTALS["labelled pictures"])


@pytest.mark.parametrize(
    ("total", "kinds"),
    [
        ("positives", {"loss_heatmap"}),
        ("cells", {"loss_proposal_giou"}),
        ("regions", {"loss_class", "loss_bbox"}),
        ("objects", {"loss_soft"}),
        ("labelled pictures", {"loss_image"}),
    ],
)
def test_each_loss_is_divided_by_its_own_total(total, kinds):
    learner = make_cascade_trainer().learner
    batch = batch_of(one(2), image_target(one(), 1))

    def losses_over(totals):
        return learner(batch, list(totals.values()), [torch.Generator().manual_seed(number) for number in range(2)])

    before, after = losses_over(TOTALS), losses_over(TOTALS | {total: 2 * TOTALS[total]})
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.rstrip("_012") for name in changed} == kinds
    for name in changed:
        torch.testing.assert_close(after[name], before[name] / 2)


def test_counts_are_of_all_regions_that_a_picture_may_have():
    learner = make_cascade_trainer().learner
    targets = [one(2), one(0), one(3, is_extra=True), image_target(one(), 1, 2), image_target(one())]
    _, _, regions, objects, labelled = learner.counts(targets).tolist()
    assert (regions, objects, labelled) == (16 + 16 + 3, 2 + 3, 1)


def test_weights_are_the_configs_in_every_stage():
    loss = {"class_weight": 2, "bbox_weight": 3, "giou_weight": 5, "soft_weight": 7, "image_weight": 11}
    weights = make_cascade_trainer(loss=loss).learner.weights
    kinds = {"loss_class": 2, "loss_bbox": 3, "loss_soft": 7, "loss_image": 11}
    expected = {kind + suffix: weight for kind, weight in kinds.items() for suffix, _, _ in STAGES}
    assert weights == expected | {"loss_heatmap": 1, "loss_proposal_giou": 5}


def test_names_are_told_apart_by_the_configs_scale_and_by_the_teachers_in_the_branch():
    learner = make_cascade_trainer().learner
    assert learner.detector.text_bank().logit_scale == 50.0
    assert learner.teacher_text.logit_scale == 20.0


def test_more_is_proposed_in_training(monkeypatch):
    asked, decode = [], two_stage.decode

    def spy(predictions, image_hw, **limits):
        asked.append(limits)
        return decode(predictions, image_hw, **limits)

    monkeypatch.setattr(two_stage, "decode", spy)
    detector, hw = make_cascade_trainer().learner.detector, torch.tensor([[SIDE, SIDE]])
    maps = detector.maps(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64))
    for is_training in (True, False):
        detector.train(is_training).propose(maps, hw)
    assert asked == [{"pre_top_k": 4000, "post_top_k": 2000}, {"pre_top_k": 1000, "post_top_k": 256}]
