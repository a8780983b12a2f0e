import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from richsem_train.losses.image_labels import image_label_losses, labelled_pictures
from tests.trainer.losses.batches import generator

LAYERS, PICTURES, CANDIDATES, CLASSES = 3, 4, 7, 11
LABELS = [torch.tensor([5]), torch.tensor([1, 9, 10]), None, torch.tensor([], dtype=torch.long)]


def drawn(*, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Areas and logits, float64."""
    rng = generator(seed)
    areas = torch.rand(LAYERS, PICTURES, CANDIDATES, generator=rng, dtype=torch.float64)
    logits = 3 * torch.randn(LAYERS, PICTURES, CANDIDATES, CLASSES, generator=rng, dtype=torch.float64)
    return areas, logits.requires_grad_()


def brute_force(areas_SBQ: Tensor, logits_SBQC: Tensor, labels: list[Tensor | None]) -> list[float]:
    """One label, one class at a time."""
    sums = []
    for areas_BQ, logits_BQC in zip(areas_SBQ.tolist(), logits_SBQC.tolist(), strict=True):
        layer = 0.0
        for areas, logits, rows in zip(areas_BQ, logits_BQC, labels, strict=True):
            own = [] if rows is None else rows.tolist()
            largest = logits[areas.index(max(areas))]
            for row in own:
                for each, logit in list(enumerate(largest))[1:]:
                    probability = 1 / (1 + math.exp(-logit))
                    layer -= math.log(probability if each == row else 1 - probability) / len(own)
        sums.append(layer)
    return sums


def test_hand_computed():
    # Box 1 is the larger one. Logits 0: ln 2 a class, of classes 1 to 3.
    areas = torch.tensor([[[0.2, 0.3]]])
    logits = torch.tensor([[[[9.0, 9.0, 9.0, 9.0], [7.0, 0.0, 0.0, 0.0]]]])
    assert image_label_losses(areas, logits, [torch.tensor([2])]).tolist() == pytest.approx([3 * math.log(2)])
    # ln(1 + e) - 1 for the label, ln(1 + e) for each other class.
    logits[..., 1, 1:] = 1.0
    expected = 3 * math.log(1 + math.e) - 1
    assert image_label_losses(areas, logits, [torch.tensor([2])]).tolist() == pytest.approx([expected])


def test_brute_force_over_layers_pictures_labels_and_classes():
    areas, logits = drawn()
    assert image_label_losses(areas, logits, LABELS).tolist() == pytest.approx(brute_force(areas, logits, LABELS))


def test_is_the_mean_of_one_cross_entropy_a_label():
    areas, logits = drawn(seed=1)
    rows = torch.tensor([1, 9, 10])
    alone = image_label_losses(areas[:, :1], logits[:, :1], [rows])
    apart = []
    for layer in range(LAYERS):
        largest = logits[layer, 0, areas[layer, 0].argmax()].expand(len(rows), -1)
        wanted = functional.one_hot(rows, CLASSES).double()
        apart.append(functional.binary_cross_entropy_with_logits(largest[:, 1:], wanted[:, 1:], reduction="sum") / 3)
    torch.testing.assert_close(alone, torch.stack(apart))


def test_each_layer_takes_its_own_largest_box_and_no_other_gets_a_gradient():
    areas, logits = drawn(seed=2)
    areas[0, 0, 3], areas[1, 0, 5], areas[2, 0, 0] = 2, 2, 2

    image_label_losses(areas, logits, LABELS).sum().backward()

    has_gradient = logits.grad.abs().sum(-1) > 0
    assert has_gradient[:, 0].nonzero().tolist() == [[0, 3], [1, 5], [2, 0]]
    assert has_gradient.sum((1, 2)).tolist() == [2] * LAYERS
    assert not logits.grad[..., 0].any(), "row 0 is no class"


def test_areas_get_no_gradient():
    areas, logits = drawn(seed=3)
    image_label_losses(areas.requires_grad_(), logits, LABELS).sum().backward()
    assert areas.grad is None


def test_the_first_of_equal_boxes_counts():
    _, logits = drawn(seed=4)
    equal = torch.ones(LAYERS, PICTURES, CANDIDATES)
    first = torch.zeros_like(equal)
    first[..., 0] = 1
    torch.testing.assert_close(image_label_losses(equal, logits, LABELS), image_label_losses(first, logits, LABELS))


def test_what_is_no_candidate_is_never_the_largest():
    areas, logits = drawn(seed=5)
    fewer = image_label_losses(areas[..., :4], logits[..., :4, :], LABELS)
    masked = areas.clone()
    masked[..., 4:] = -1
    torch.testing.assert_close(image_label_losses(masked, logits, LABELS), fewer)


def test_a_layer_without_candidates_learns_nothing_of_the_picture():
    areas, logits = drawn(seed=6)
    expected = image_label_losses(areas, logits, [None, *LABELS[1:]])
    areas[:, 0] = -1
    losses = image_label_losses(areas, logits, LABELS)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert not logits.grad[:, 0].any()


def test_nothing_is_learnt_without_labels_and_the_gradient_is_zero():
    areas, logits = drawn()
    losses = image_label_losses(areas, logits, [None, None, LABELS[3], None])
    assert losses.tolist() == [0.0] * LAYERS
    losses.sum().backward()
    assert not logits.grad.any()


def test_logits_of_thousands_and_half_precision_stay_finite():
    areas, logits = drawn(seed=7)
    extreme = (1e4 * logits).detach().bfloat16().requires_grad_()
    losses = image_label_losses(areas, extreme, LABELS)
    assert losses.dtype == torch.float32
    assert losses.isfinite().all()
    losses.sum().backward()
    assert extreme.grad.isfinite().all()


def test_shapes_follow_from_shapes_and_nothing_is_read():
    """Tensors on the meta device hold nothing: whatever asks them for it fails."""
    areas, logits = drawn()
    labels = [None if rows is None else rows.to("meta") for rows in LABELS]
    assert image_label_losses(areas.to("meta"), logits.to("meta"), labels).shape == (LAYERS,)


def test_pictures_with_labels_are_counted():
    assert labelled_pictures(LABELS) == 2
    assert labelled_pictures([None]) == 0
