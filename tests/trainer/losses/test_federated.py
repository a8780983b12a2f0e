import pytest
import torch
from torch import Tensor

from richsem_train.losses.federated import draw_federated, federated_weights
from tests.trainer.losses.batches import generator, mask_of

CLASSES = 200
COUNTS = torch.arange(CLASSES) ** 2


def draw(labels: list[int], *, total: int = 50, losses: int = 1, seed: int = 0, counts: Tensor = COUNTS) -> Tensor:
    drawn = draw_federated(
        torch.tensor(labels, dtype=torch.long),
        torch.zeros(len(labels), dtype=torch.long),
        federated_weights(counts),
        total=total,
        losses=losses,
        generators=[generator(seed)],
    )
    return mask_of(drawn, len(counts))[:, 0]


def test_weights_are_the_root_of_image_counts_and_zero_for_none():
    assert federated_weights(torch.tensor([9, 4, 0, 16])).tolist() == [0.0, 2.0, 0.0, 4.0]


@pytest.mark.parametrize("labels", [[], [5], [5, 5, 9, 199], list(range(1, 50))])
def test_positives_are_topped_up_to_the_total(labels: list[int]):
    mask_SC = draw(labels, losses=20)

    assert mask_SC[:, labels].all()
    assert mask_SC.sum(1).tolist() == [50] * 20
    assert not mask_SC[:, 0].any()


def test_more_positives_than_the_total_are_all_taught_and_nothing_else():
    labels = list(range(1, 71))
    assert draw(labels + labels).nonzero()[:, 1].tolist() == labels


def test_zero_counts_as_no_label():
    mask_SC = draw([0, 0, 7])
    assert not mask_SC[0, 0]
    assert mask_SC[0, 7]
    assert mask_SC.sum() == 50


def test_classes_without_pictures_are_never_drawn_but_taught_where_present():
    counts = torch.zeros(CLASSES)
    counts[10:20] = 5

    mask_SC = draw([100], losses=10, counts=counts)

    assert (mask_SC.nonzero()[:, 1].view(10, 11) == torch.tensor([*range(10, 20), 100])).all()


def test_a_total_beyond_the_vocabulary_teaches_all_but_none():
    assert draw([3], total=500).sum() == CLASSES - 1


def test_the_same_generator_draws_the_same_and_every_loss_anew():
    first, second = draw([4], losses=2)
    assert not torch.equal(first, second)
    assert torch.equal(draw([4], losses=2)[1], second)
    assert not torch.equal(draw([4], seed=1)[0], first)


def test_ids_are_distinct():
    drawn = draw_federated(
        torch.tensor([3, 3, 8]),
        torch.tensor([0, 1, 1]),
        federated_weights(COUNTS),
        total=50,
        losses=3,
        generators=[generator(), generator(1)],
    )
    for ids in drawn.ids.flatten(0, 1):
        assert len(set(ids.tolist())) == 50


def test_first_draws_follow_the_weights():
    weights = federated_weights(COUNTS)
    drawn = draw([], total=1, losses=20_000).sum(0).double()
    expected = 20_000 * (weights / weights.sum()).double()

    chi_square = ((drawn[1:] - expected[1:]) ** 2 / expected[1:]).sum().item()

    # 198 degrees of freedom: mean 198, standard deviation 20.
    assert chi_square == pytest.approx(198, abs=4 * 20)


def test_successive_draws_are_distributed_as_torch_multinomials():
    counts = torch.tensor([7, 1, 4, 9, 100, 400])
    weights = federated_weights(counts)
    ours = draw([2], total=3, losses=40_000, counts=counts).double().mean(0)
    without_positive = weights.clone()
    without_positive[2] = 0
    theirs = torch.multinomial(without_positive.expand(40_000, -1), 2, generator=generator(1))

    expected = torch.bincount(theirs.flatten(), minlength=6).double() / 40_000
    expected[2] = 1.0

    # Standard error of a difference of two such frequencies: at most 0.0035.
    assert torch.allclose(ours, expected, atol=0.015)
