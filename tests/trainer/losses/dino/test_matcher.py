from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher

from richsem_train.losses.dino.matcher import HungarianMatcher, Match, NonFiniteError
from richsem_train.targets import Target
from tests.trainer.losses.batches import CLASSES, QUERIES, FakeOutputs, make_outputs, make_target, match


def theirs(logits_BQC: Tensor, boxes_BQ4: Tensor, targets: list[Target]) -> list[Match]:
    matcher = DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2)
    as_dicts = [{"class_labels": target.labels, "boxes": target.boxes_cxcywh_norm} for target in targets]
    return matcher({"logits": logits_BQC, "pred_boxes": boxes_BQ4}, as_dicts)


def assert_same(matches: list[Match], expected: list[Match]) -> None:
    for (queries, objects), (other_queries, other_objects) in zip(matches, expected, strict=True):
        assert queries.tolist() == other_queries.tolist()
        assert objects.tolist() == other_objects.tolist()


def encoder_matches(outputs: FakeOutputs, targets: list[Target], **costs: float) -> list[Match]:
    return match(outputs.encoder_logits, outputs.encoder_boxes, targets, **costs)


@pytest.mark.parametrize("seed", range(10))
def test_matches_equal_deformable_detrs(seed: int):
    outputs = make_outputs(3, seed=seed, scale=3.0)
    targets = [make_target(count, seed=seed + place) for place, count in enumerate((4, 0, 7))]

    assert_same(
        encoder_matches(outputs, targets),
        theirs(outputs.encoder_logits.detach(), outputs.encoder_boxes.detach(), targets),
    )


def test_all_layers_at_once_equal_layer_by_layer():
    outputs = make_outputs(2)
    targets = [make_target(5), make_target(2, seed=1)]

    matches = HungarianMatcher().match_stages(
        {
            "decoder": (outputs.pred_logits, outputs.pred_boxes),
            "encoder": (outputs.encoder_logits[None], outputs.encoder_boxes[None]),
        },
        targets,
    )

    for layer, of_layer in enumerate(matches["decoder"]):
        assert_same(of_layer, match(outputs.pred_logits[layer], outputs.pred_boxes[layer], targets))
    assert_same(matches["encoder"][0], encoder_matches(outputs, targets))


def test_a_batch_is_matched_as_its_pictures_alone():
    outputs = make_outputs(2)
    targets = [make_target(6), make_target(1, seed=1)]

    together = encoder_matches(outputs, targets)

    for place, target in enumerate(targets):
        one = slice(place, place + 1)
        assert_same(together[one], encoder_matches(outputs.of(one), [target]))


def test_classes_of_unlabelled_pictures_dont_count():
    outputs = make_outputs(2)
    targets = [make_target(4, supervision="unlabelled"), make_target(4, seed=1)]

    blind = encoder_matches(outputs, targets, class_cost=0.0)
    seeing = encoder_matches(outputs, targets, class_cost=50.0)
    labelled = [replace(target, labels=torch.full((4,), 3), supervision="labelled") for target in targets]
    otherwise = encoder_matches(outputs, labelled, class_cost=50.0)

    assert_same(blind[:1], seeing[:1])
    assert [match[0].tolist() for match in seeing] != [match[0].tolist() for match in otherwise]


def test_more_objects_than_queries_match_each_query_once():
    outputs = make_outputs(1)
    ((queries, objects),) = encoder_matches(outputs, [make_target(15)])

    assert queries.tolist() == list(range(QUERIES))
    assert len(set(objects.tolist())) == QUERIES


def test_no_objects_at_all_match_nothing():
    outputs = make_outputs(2)
    matches = encoder_matches(outputs, [make_target(0), make_target(0)])

    assert [(len(queries), len(objects)) for queries, objects in matches] == [(0, 0), (0, 0)]


def test_half_precision_is_matched_in_float32():
    outputs = make_outputs(1)
    logits, boxes = outputs.encoder_logits.bfloat16(), outputs.encoder_boxes.bfloat16()
    costs = HungarianMatcher().costs(logits[None], boxes[None], [make_target(3)])

    assert costs.dtype == torch.float32
    assert torch.equal(costs, HungarianMatcher().costs(logits[None].float(), boxes[None].float(), [make_target(3)]))


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_have_finite_costs(logit: float):
    outputs = make_outputs(1)
    logits = torch.full_like(outputs.encoder_logits, logit)

    costs = HungarianMatcher().costs(logits[None], outputs.encoder_boxes[None], [make_target(3)])
    assert np.isfinite(costs.numpy()).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named(bad: float):
    outputs = make_outputs(2)
    boxes = outputs.pred_boxes.detach().clone()
    boxes[1, 1, 4] = bad
    targets = [make_target(3), make_target(2, seed=41)]

    with pytest.raises(NonFiniteError, match=r"predicted boxes of picture 41, number 1 of the batch \(decoder, lay.*1"):
        HungarianMatcher().match_stages({"decoder": (outputs.pred_logits, boxes)}, targets)


def test_logits_and_true_boxes_that_are_not_finite_are_named():
    outputs = make_outputs(1)
    logits = torch.full((1, QUERIES, CLASSES), float("nan"))
    target = make_target(2, seed=5)

    with pytest.raises(NonFiniteError, match="class logits of picture 5"):
        match(logits, outputs.encoder_boxes, [target])
    broken = replace(target, boxes_cxcywh_norm=target.boxes_cxcywh_norm * float("nan"))
    with pytest.raises(NonFiniteError, match=r"true boxes of picture 5, number 0 of the batch$"):
        encoder_matches(outputs, [broken])
    assert issubclass(NonFiniteError, FloatingPointError)
