from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import fastrcnn_loss

from richsem_train.losses.centernet_cascade.rois import (
    Federation,
    box_loss,
    class_loss,
    draw_stage_classes,
    largest_region_loss,
    region_soft_loss,
)
from richsem_train.losses.centernet_cascade.truth import Truth
from richsem_train.losses.soft_labels import SoftLoss, kl_full
from richsem_train.models.centernet_cascade.box_coding import encode_boxes
from richsem_train.outputs.centernet_cascade import Regions
from richsem_train.targets import Target
from tests.trainer.losses.batches import CLASSES, embedding_labels, generator, make_target, top_k_labels

REGIONS = 12
COUNTS = (2, 0, 3, 1)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def truth_of(targets: list[Target]) -> Truth:
    return Truth.of(targets, extra_boxes=False)


def batch(**changes) -> Truth:
    targets = [make_target(count, seed=seed, **changes) for seed, count in enumerate(COUNTS)]
    return truth_of(targets)


def regions_of(truth: Truth, seed: int = 5) -> Regions:
    """Some positive ones of each object but the last, which none answers for; the last two regions are padding."""
    rng = generator(seed)
    pictures = len(truth.targets)
    counts = truth.objects.is_real.sum(1)
    object_BR = torch.randint(100, (pictures, REGIONS), generator=rng) % counts.clamp(min=1)[:, None]
    is_real = (torch.arange(REGIONS) < REGIONS - 2).expand(pictures, -1)
    is_positive = (torch.rand(pictures, REGIONS, generator=rng) < 0.6) & is_real & (counts > 0)[:, None]
    is_positive[-1] = False
    corner = 100 * torch.rand(pictures, REGIONS, 2, generator=rng)
    return Regions(torch.cat([corner, corner + 30], dim=-1), is_real, object_BR, is_positive)


def logits_of(truth: Truth, seed: int = 6) -> Tensor:
    shape = len(truth.targets), REGIONS, CLASSES
    return (3 * torch.randn(shape, generator=generator(seed), dtype=torch.float64)).requires_grad_()


def wanted_classes(truth: Truth, regions: Regions) -> Tensor:
    """One-hot [B, R, C], zeros for the background."""
    labels = truth.objects.labels.gather(1, regions.object).where(regions.is_positive, 0)
    return one_hot(labels, CLASSES).double() * (labels > 0)[..., None]


def federation(total: int = 6) -> Federation:
    return Federation(torch.arange(CLASSES).float().sqrt(), total)


def test_class_loss_is_torchs_weighted_by_the_drawn_classes():
    truth = batch()
    regions, logits = regions_of(truth), logits_of(truth)
    drawn = draw_stage_classes(truth, regions, federation(), [generator(1), generator(2)])
    weight = torch.zeros(2, CLASSES, dtype=torch.float64).scatter(1, drawn.ids[0], drawn.taught[0].double())
    weight = weight.repeat_interleave(2, dim=0)[:, None] * regions.is_real[..., None]
    expected = binary_cross_entropy_with_logits(logits, wanted_classes(truth, regions), weight=weight, reduction="sum")
    assert_close(class_loss(logits, regions, truth, drawn), expected)


def test_without_a_draw_all_classes_but_none_take_part():
    truth = batch()
    regions, logits = regions_of(truth), logits_of(truth)
    every = binary_cross_entropy_with_logits(logits, wanted_classes(truth, regions), reduction="none")
    expected = (every[..., 1:] * regions.is_real[..., None]).sum()
    assert_close(class_loss(logits, regions, truth, None), expected)


def test_the_background_takes_the_place_of_one_class():
    truth = batch()
    regions = regions_of(truth)
    drawn = draw_stage_classes(truth, regions, federation(), [generator(1), generator(2)])
    assert drawn.taught.sum(-1).tolist() == [[5, 5]]


def test_present_are_classes_that_a_region_answers_for():
    targets = [make_target(3)]
    targets = [replace(targets[0], labels=torch.tensor([7, 8, 9]))]
    truth = truth_of(targets)
    is_positive = torch.tensor([[True, True, False]])
    regions = Regions(torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), torch.tensor([[0, 2, 1]]), is_positive)
    nobody = Federation(torch.zeros(CLASSES), 50)
    drawn = draw_stage_classes(truth, regions, nobody, [generator()])
    assert sorted(drawn.ids[drawn.taught].tolist()) == [7, 9]


def test_unlabelled_pictures_have_no_class_loss_and_no_present_classes():
    truth = batch(supervision="unlabelled")
    regions, logits = regions_of(truth), logits_of(truth)
    drawn = draw_stage_classes(truth, regions, Federation(torch.zeros(CLASSES), 6), [generator()])
    assert not drawn.taught.any()
    loss = class_loss(logits, regions, truth, None)
    assert loss == 0
    loss.backward()
    assert (logits.grad == 0).all()


def test_each_stage_draws_classes_of_its_own():
    truth = batch()
    rng = [generator()]
    first, second = (draw_stage_classes(truth, regions_of(truth), federation(8), rng) for _ in range(2))
    assert not torch.equal(first.ids, second.ids)


def test_box_loss_is_torchvisions_where_deltas_are_far():
    """Theirs is smooth below 1/9, above which it is L1 less 1/18."""
    rng = generator(3)
    truth = torch.cat([100 * torch.rand(10, 2, generator=rng), 150 + 100 * torch.rand(10, 2, generator=rng)], dim=1)
    proposals = truth + 20 * torch.randn(10, 4, generator=rng)
    wanted = encode_boxes(proposals, truth, WEIGHTS)
    assert_close(wanted, BoxCoder(WEIGHTS).encode_single(truth, proposals))
    deltas = wanted + torch.randn(10, 4, generator=rng).sign() * (0.2 + torch.rand(10, 4, generator=rng))
    is_positive = torch.arange(10) % 3 == 0
    of_class_one = torch.cat([torch.zeros(10, 4), deltas], dim=1)
    _, theirs = fastrcnn_loss(torch.zeros(10, 2), of_class_one, [is_positive.long()], [wanted])
    ours = box_loss(deltas[None], wanted[None], is_positive[None]) / 10
    assert_close(ours, theirs + is_positive.sum() * 4 / 18 / 10)


def test_soft_loss_is_the_mean_of_each_objects_regions():
    texts = torch.randn(CLASSES, 5, generator=generator(4))
    soft_loss = SoftLoss(texts, logit_scale=20.0)
    targets = [
        make_target(count, seed=seed, soft_labels=embedding_labels(count, seed=seed) if seed != 0 else None)
        for seed, count in enumerate(COUNTS)
    ]
    truth = truth_of(targets)
    regions, logits = regions_of(truth), logits_of(truth)
    expected = torch.zeros((), dtype=torch.float64)
    for picture, target in enumerate(targets):
        for number in range(len(target.labels)):
            own = (regions.is_positive & (regions.object == number))[picture]
            if target.soft_labels is None or not own.any():
                continue
            teacher = soft_loss.log_probs(target.soft_labels.embeddings)[number].expand(int(own.sum()), -1)
            expected = expected + kl_full(teacher, logits[picture, own]).mean()
    assert expected > 0.5
    loss = region_soft_loss(soft_loss, logits, regions, truth)
    assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[0] == 0).all()
    assert ((logits.grad[2].abs().sum(-1) > 0) == regions.is_positive[2]).all()


@pytest.mark.parametrize("form", ["embedding", "topk", "hard"])
def test_sums_over_pictures_are_the_sum_of_pictures_alone(form):
    soft_loss = SoftLoss(torch.randn(CLASSES, 5, generator=generator(4)), logit_scale=20.0)
    targets = []
    for seed, count in enumerate(COUNTS):
        labels = {"embedding": embedding_labels, "topk": top_k_labels, "hard": lambda *_, **__: None}[form]
        target = make_target(count, seed=seed, soft_labels=labels(count, seed=seed))
        targets.append(replace(target, is_hard=form == "hard"))
    truth = truth_of(targets)
    regions, logits = regions_of(truth), logits_of(truth)
    alone = []
    for picture, target in enumerate(targets):
        one = truth_of([target])
        own = Regions(*(value[picture, None] for value in vars(regions).values()))
        alone.append(region_soft_loss(soft_loss, logits[picture, None], own, one))
    assert_close(region_soft_loss(soft_loss, logits, regions, truth), sum(alone))


def test_no_soft_labels_are_a_zero_that_reaches_the_branch():
    truth = batch()
    logits = logits_of(truth)
    loss = region_soft_loss(SoftLoss(torch.ones(CLASSES, 5)), logits, regions_of(truth), truth)
    assert loss == 0
    loss.backward()
    assert (logits.grad == 0).all()


def image_batch(*labels: list[int] | None) -> list[Target]:
    return [
        replace(
            make_target(0),
            supervision="labelled" if rows is None else "image",
            image_labels=None if rows is None else torch.tensor(rows, dtype=torch.long),
        )
        for rows in labels
    ]


def plain_regions(is_real: Tensor) -> Regions:
    return Regions(
        torch.zeros(*is_real.shape, 4), is_real, torch.zeros_like(is_real, dtype=torch.long), torch.zeros_like(is_real)
    )


def test_the_largest_region_but_the_last_learns_the_pictures_labels():
    targets = image_batch([3, 5], None, [2])
    logits = torch.randn(3, 5, CLASSES, generator=generator(), dtype=torch.float64).requires_grad_()
    is_real = torch.tensor([[True] * 5, [True] * 5, [True, True, True, False, False]])
    areas = torch.tensor([[1.0, 4, 3, 2, 9], [1, 2, 3, 4, 5], [5, 7, 8, 99, 99]])
    loss = largest_region_loss(logits, plain_regions(is_real), areas, targets)
    expected = torch.zeros((), dtype=torch.float64)
    for picture, region, rows in [(0, 1, [3, 5]), (2, 1, [2])]:
        for row in rows:
            wanted = one_hot(torch.tensor(row), CLASSES).double()
            entropy = binary_cross_entropy_with_logits(logits[picture, region], wanted, reduction="none")
            expected = expected + entropy[1:].sum() / len(rows)
    assert_close(loss, expected)
    loss.backward()
    assert logits.grad.abs().sum(-1).nonzero().tolist() == [[0, 1], [2, 1]]


def test_a_region_alone_is_the_largest_and_none_teaches_nothing():
    targets = image_batch([3], [3])
    is_real = torch.tensor([[False, True, False], [False, False, False]])
    logits = torch.zeros(2, 3, CLASSES).requires_grad_()
    loss = largest_region_loss(logits, plain_regions(is_real), torch.ones(2, 3), targets)
    assert_close(loss, torch.tensor((CLASSES - 1) * 0.693147))
    loss.backward()
    assert logits.grad.abs().sum(-1).nonzero().tolist() == [[0, 1]]
