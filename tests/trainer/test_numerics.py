import pytest
import torch
from torchvision.ops import box_convert, generalized_box_iou, generalized_box_iou_loss

from richsem_train.numerics import cxcywh_to_xyxy, giou
from tests.trainer.losses.batches import random_boxes


def test_corners_are_those_of_torchvision():
    boxes_cxcywh = random_boxes(5, 7).double()
    boxes_xyxy = cxcywh_to_xyxy(boxes_cxcywh)

    assert torch.allclose(boxes_xyxy, box_convert(boxes_cxcywh, "cxcywh", "xyxy"))


def test_giou_of_all_pairs_equals_torchvision():
    boxes, others = (cxcywh_to_xyxy(random_boxes(n, seed=n).double()) for n in (20, 30))

    assert torch.allclose(giou(boxes[:, None], others), generalized_box_iou(boxes, others), atol=1e-12)


def test_giou_of_pairs_and_its_gradient_equal_torchvision():
    boxes, others = (cxcywh_to_xyxy(random_boxes(40, seed=seed).double()) for seed in (1, 2))
    ours, theirs = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()

    loss = (1 - giou(ours, others)).sum()
    expected = generalized_box_iou_loss(theirs, others, reduction="sum", eps=0.0)
    loss.backward()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-10)


def test_giou_by_hand():
    box = torch.tensor([0.0, 0.0, 2.0, 2.0])
    assert giou(box, box).item() == 1.0
    assert giou(box, torch.tensor([1.0, 1.0, 3.0, 3.0])).item() == pytest.approx(1 / 7 - 2 / 9)
    assert giou(box, torch.tensor([4.0, 0.0, 6.0, 2.0])).item() == pytest.approx(-1 / 3)


def test_giou_of_tiny_boxes_is_exact_in_float32():
    pixel = 1 / 1333
    box = torch.tensor([0.5, 0.5, 0.5 + pixel, 0.5 + pixel])
    assert giou(box, box).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("boxes", [[0.5, 0.5, 0.5, 0.5], [0.5, 0.2, 0.5, 0.8], [0.0, 0.0, 1.0, 1.0]])
def test_giou_and_gradient_are_finite_without_area(boxes: list[float]):
    predicted = torch.tensor(boxes, requires_grad=True)
    for truth in ([0.5, 0.5, 0.5, 0.5], [0.1, 0.1, 0.2, 0.2]):
        overlap = giou(predicted, torch.tensor(truth))
        (gradient,) = torch.autograd.grad(overlap, predicted)
        assert overlap.isfinite()
        assert gradient.isfinite().all()
