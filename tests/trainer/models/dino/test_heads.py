import math

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import box_convert
from transformers.models.rt_detr.modeling_rt_detr import inverse_sigmoid as transformers_inverse_sigmoid

from richsem_train.models.dino.heads import (
    BoxHead,
    LinearClassifier,
    TextClassifier,
    TextFeatures,
    detections,
    inverse_sigmoid,
)
from tests.trainer.models.dino.tiny_dino import shaken

CLASSES, TEXT_DIM, WIDTH = 5, 12, 8


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(0)
    return TextFeatures.of(torch.randn(CLASSES, TEXT_DIM, generator=generator), torch.tensor(100.0))


@pytest.fixture
def hidden():
    return torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))


def text_classifier(**changes):
    torch.manual_seed(2)
    return TextClassifier(WIDTH, TEXT_DIM, **({"embeds_labels": True, "semantic_branch": True} | changes))


def test_inverse_sigmoid_undoes_the_sigmoid_and_is_finite_at_the_ends():
    inside = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert_close(inverse_sigmoid(inside), transformers_inverse_sigmoid(inside))
    assert_close(inverse_sigmoid(torch.tensor([0.0, 1.0, -3.0, 2.0])), math.log(1e3) * torch.tensor([-1.0, 1, -1, 1]))


def test_text_logits_are_scaled_cosines(bank, hidden):
    head = text_classifier()
    projected = hidden @ head.dino_visual_proj.weight.T
    cosines = torch.cosine_similarity(projected[..., None, :], bank.raw, dim=-1)
    assert_close(head.logits(hidden, bank), 100 * cosines)


def test_both_projections_start_alike_and_are_not_shared(bank, hidden):
    head = text_classifier()
    assert_close(head.semantic_logits(hidden, bank), head.logits(hidden, bank), rtol=0, atol=0)
    assert head.clip_visual_proj.weight is not head.dino_visual_proj.weight


def test_a_teacher_of_another_width_has_a_projection_of_its_own(bank, hidden):
    torch.manual_seed(2)
    head = TextClassifier(WIDTH, TEXT_DIM, embeds_labels=True, semantic_branch=True, semantic_dim=11)
    raw = torch.randn(CLASSES, 11, generator=torch.Generator().manual_seed(3))
    projected = hidden @ head.clip_visual_proj.weight.T
    assert projected.shape[-1] == 11
    teacher = TextFeatures.of(raw, torch.tensor(7.0))
    expected = 7 * torch.cosine_similarity(projected[..., None, :], raw, dim=-1)
    assert_close(head.semantic_logits(hidden, teacher), expected)
    # What the classifier has is what it has beside a teacher of its own width, but for later draws.
    assert_close(head.dino_visual_proj.weight, text_classifier().dino_visual_proj.weight, rtol=0, atol=0)
    assert float(head.clip_visual_proj.weight.detach().std()) == pytest.approx(11**-0.5, rel=0.2)
    assert head.label_embeddings(torch.tensor([1]), bank).shape == (1, WIDTH)


def test_label_embeddings_project_the_raw_means(bank):
    head = text_classifier()
    labels = torch.tensor([[0, 4], [2, 2]])
    assert_close(head.label_embeddings(labels, bank), (bank.raw @ head.label_proj.weight.T)[labels])


def test_a_linear_classifier_starts_from_the_prior_and_embeds_labels_by_its_rows(hidden):
    head = LinearClassifier(WIDTH, CLASSES)
    assert_close(head.bias.sigmoid(), torch.full((CLASSES,), 0.01))
    assert_close(head.label_embeddings(torch.tensor([3, 1]), None), head.weight[[3, 1]])


def test_a_box_head_starts_by_moving_nothing(hidden):
    boxes = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(3)) * 0.9 + 0.05
    assert_close(BoxHead(WIDTH).refine(hidden, boxes), boxes)


def test_boxes_at_infinity_come_out_as_ones_without_spoiling_gradients(hidden):
    head = shaken(BoxHead(WIDTH))
    boxes = head.propose(hidden, torch.full((2, 3, 4), torch.inf))
    boxes.sum().backward()
    assert (boxes == 1).all()
    assert all((parameter.grad == 0).all() for parameter in head.parameters())


@pytest.mark.parametrize("made", ["cosines", "semantic", "linear", "boxes"])
def test_heads_compute_in_float32_under_autocast(made, bank, hidden):
    heads = {
        "cosines": lambda: text_classifier().logits(hidden, bank),
        "semantic": lambda: text_classifier().semantic_logits(hidden, bank),
        "linear": lambda: LinearClassifier(WIDTH, CLASSES).logits(hidden, None),
        "boxes": lambda: BoxHead(WIDTH).refine(hidden, torch.full((2, 3, 4), 0.3)),
    }
    torch.manual_seed(5)
    exact = heads[made]()
    torch.manual_seed(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = heads[made]()
    assert cast.dtype == torch.float32
    assert_close(cast, exact, rtol=0, atol=0)


def logits_with(best: dict[tuple[int, int], float], queries: int) -> torch.Tensor:
    logits = torch.full((1, queries, CLASSES), -10.0)
    for (query, label), value in best.items():
        logits[0, query, label] = value
    return logits


def test_detections_are_the_best_pairs_in_pixels_of_the_picture():
    logits = logits_with({(1, 3): 2.0, (0, 2): 1.0, (1, 4): 0.5}, queries=2)
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.1, 0.2]]])
    (found,) = detections(logits, boxes, [(100, 200)], keep=3)
    assert_close(found.scores, torch.tensor([2.0, 1.0, 0.5]).sigmoid())
    assert found.labels.tolist() == [3, 2, 4]
    expected = box_convert(boxes[0, [1, 0, 1]], "cxcywh", "xyxy") * torch.tensor([200.0, 100, 200, 100])
    assert_close(found.boxes_xyxy_px, expected)


def test_row_0_is_never_predicted():
    logits = logits_with({(0, 0): 9.0}, queries=2)
    (found,) = detections(logits, torch.full((1, 2, 4), 0.5), [(10, 10)])
    assert 0 not in found.labels
    assert len(found.labels) == 2 * (CLASSES - 1)


def test_rows_outside_of_the_vocabulary_are_never_predicted():
    logits = logits_with({(0, 1): 9.0, (1, 4): 3.0}, queries=2)
    vocabulary = torch.tensor([False, False, True, False, True])
    (found,) = detections(logits, torch.full((1, 2, 4), 0.5), [(10, 10)], vocabulary_C=vocabulary)
    assert set(found.labels.tolist()) == {2, 4}
    assert found.labels[0] == 4


def test_boxes_are_clipped_to_the_picture():
    boxes = torch.tensor([[[0.0, 1.0, 0.5, 0.5]]])
    (found,) = detections(torch.zeros(1, 1, CLASSES), boxes, [(100, 200)], keep=1)
    assert found.boxes_xyxy_px.tolist() == [[0.0, 75.0, 50.0, 100.0]]


def test_no_more_detections_than_asked_for():
    (found,) = detections(torch.zeros(1, 20, CLASSES), torch.full((1, 20, 4), 0.5), [(10, 10)], keep=7)
    assert len(found.scores) == len(found.labels) == len(found.boxes_xyxy_px) == 7
