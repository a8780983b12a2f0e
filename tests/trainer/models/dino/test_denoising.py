from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close
from transformers.models.rt_detr.modeling_rt_detr import get_contrastive_denoising_training_group

from richsem_train.models.dino.denoising import draw_denoising
from tests.trainer.models.dino.tiny_dino import CLASSES, denoising, targets


def rt_detr(counts, *, dn_queries, queries, label_noise=0.0, box_noise=0.0):
    """What transformers makes of the same truth; without noise its boxes are not clipped to logits."""
    truth = [{"class_labels": target.labels, "boxes": target.boxes_cxcywh_norm} for target in targets(*counts)]
    return get_contrastive_denoising_training_group(
        truth, CLASSES, queries, lambda labels: labels, dn_queries, label_noise, box_noise
    )


@pytest.mark.parametrize("counts", [(3, 1), (2, 0, 5), (1,), (9, 4)])
def test_groups_mask_and_positives_are_those_of_rt_detr(counts):
    drawn = denoising(*counts, dn_queries=8)
    labels, _, mask, meta = rt_detr(counts, dn_queries=8, queries=6)
    assert set(drawn.groups) == {meta["dn_num_group"]}
    assert drawn.count == meta["dn_num_split"][0] == labels.shape[1]
    for of_picture in drawn.attention_mask(6):
        assert torch.equal(of_picture, mask == -torch.inf)
    for (query_indices, _), expected in zip(drawn.positives, meta["dn_positive_idx"], strict=True):
        assert torch.equal(query_indices, expected)


@pytest.mark.parametrize("counts", [(3, 1), (2, 0, 5)])
def test_without_noise_each_query_repeats_the_truth_of_rt_detr(counts):
    drawn = denoising(*counts, label_noise=0, box_noise=0)
    labels, boxes, _, _ = rt_detr(counts, dn_queries=8, queries=6)
    real = ~drawn.padding
    assert torch.equal(real, labels != CLASSES)
    assert torch.equal(drawn.labels[real], labels[real].long())
    assert_close(drawn.boxes[real], boxes[real])


def test_positives_pair_each_query_with_its_object():
    drawn = denoising(3, 1, label_noise=0, box_noise=0)
    for row, target in enumerate(targets(3, 1)):
        queries, objects = drawn.positives[row]
        assert_close(drawn.boxes[row, queries], target.boxes_cxcywh_norm[objects])
        assert torch.equal(drawn.labels[row, queries], target.labels[objects])


def test_as_many_groups_as_fit_and_at_least_one():
    assert denoising(3, 1, dn_queries=100).groups == (33, 33)
    assert denoising(3, 1, dn_queries=2).groups == (1, 1)
    assert denoising(3, 1, dn_queries=100).count == 33 * 6


def test_positive_corners_move_less_than_half_a_side_and_negative_ones_more():
    drawn = denoising(4, 4, dn_queries=400)
    exact = denoising(4, 4, dn_queries=400, box_noise=0)
    corners, true_corners = (
        torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], -1)
        for boxes in (drawn.boxes, exact.boxes)
    )
    half_sides = exact.boxes[..., 2:].repeat(1, 1, 2) / 2
    moved = (corners - true_corners).abs() / half_sides
    is_negative = torch.arange(drawn.count) // 4 % 2 == 1
    neither_clipped_nor_crossed = (corners > 0) & (corners < 1) & (drawn.boxes[..., 2:] > 0).repeat(1, 1, 2)
    assert moved[:, ~is_negative].max() < 1 + 1e-4
    assert moved[:, is_negative][neither_clipped_nor_crossed[:, is_negative]].min() > 1 - 1e-4
    assert moved[:, is_negative].max() < 2 + 1e-4
    assert drawn.boxes.min() >= 0
    assert drawn.boxes.max() <= 1


def test_a_quarter_of_the_labels_is_drawn_anew_at_the_published_noise():
    drawn = denoising(5, 5, dn_queries=5000)
    exact = denoising(5, 5, dn_queries=5000, label_noise=0)
    changed = (drawn.labels != exact.labels).double().mean()
    assert changed == pytest.approx(0.25 * (1 - 1 / CLASSES), abs=0.01)


def test_padding_is_row_0_in_the_middle_of_the_picture():
    drawn = denoising(3, 1)
    assert drawn.padding[1].sum() == drawn.count * 2 // 3
    assert not drawn.padding[0].any()
    assert (drawn.labels[drawn.padding] == 0).all()
    assert (drawn.boxes[drawn.padding] == 0.5).all()


def test_the_same_generator_draws_the_same_noise_and_another_one_other():
    first, again, other = denoising(3, 1), denoising(3, 1), denoising(3, 1, seed=4)
    assert torch.equal(first.boxes, again.boxes)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.boxes, other.boxes)


def test_noise_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    denoising(3, 1)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("labels", "supervision"), [(0, "labelled"), (0, "unlabelled"), (3, "unlabelled")])
def test_unlabelled_objects_keep_row_0(labels, supervision):
    drawn = draw_denoising(
        targets(4, labels=labels, supervision=supervision),
        dn_queries=100,
        label_noise=1.0,
        box_noise=1.0,
        num_classes=CLASSES,
        generators=[torch.Generator().manual_seed(0)],
    )
    assert (drawn.labels == 0).all()


def test_labelled_pictures_beside_unlabelled_ones_keep_their_labels():
    unlabelled = [replace(target, supervision="unlabelled") for target in targets(2)]
    drawn = draw_denoising(
        [*targets(2), *unlabelled],
        dn_queries=4,
        label_noise=0,
        box_noise=0,
        num_classes=CLASSES,
        generators=[torch.Generator().manual_seed(0)],
    )
    assert (drawn.labels[0] > 0).all()
    assert (drawn.labels[1] == 0).all()


@pytest.mark.parametrize(("counts", "dn_queries"), [((0, 0), 100), ((3, 1), 0)])
def test_nothing_is_drawn_without_objects_or_without_queries(counts, dn_queries):
    drawn = draw_denoising(
        targets(*counts),
        dn_queries=dn_queries,
        label_noise=0.5,
        box_noise=1.0,
        num_classes=CLASSES,
        generators=[torch.Generator().manual_seed(0)],
    )
    assert drawn is None
