import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, Matcher
from torchvision.ops import box_iou

from richsem_train.models.centernet_cascade.roi_sampling import (
    best_regions,
    draw_chances,
    match_regions,
    object_regions,
    sample_regions,
)
from richsem_train.outputs.centernet_cascade import Objects, Regions

PROPOSALS = 400


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_objects(*counts: int, seed: int = 0) -> Objects:
    """So many in each picture, of 20 to 120 px."""
    most = max(1, *counts)
    rng = generator(seed)
    corners = 200 * torch.rand(len(counts), most, 2, generator=rng)
    sides = 20 + 100 * torch.rand(len(counts), most, 2, generator=rng)
    is_real_BM = torch.arange(most) < torch.tensor(counts)[:, None]
    return Objects(
        torch.cat([corners, corners + sides], dim=-1) * is_real_BM[..., None],
        torch.randint(1, 9, (len(counts), most), generator=rng) * is_real_BM,
        is_real_BM,
    )


def proposals_near(objects: Objects, seed: int = 1, count: int = PROPOSALS) -> Tensor:
    """Boxes around objects, near and far; around nothing, where there are none."""
    rng = generator(seed)
    pictures, most = objects.labels.shape
    which = torch.randint(most, (pictures, count), generator=rng)
    boxes = objects.boxes_xyxy_px.gather(1, which[..., None].expand(-1, -1, 4))
    boxes = boxes + torch.tensor([0.0, 0.0, 30.0, 30.0]) * (boxes.sum(-1, keepdim=True) == 0)
    spread = 60 * torch.rand(pictures, count, 1, generator=rng) ** 2
    moved = boxes + spread * torch.randn(pictures, count, 4, generator=rng) / 2
    return torch.cat([moved[..., :2], moved[..., 2:].maximum(moved[..., :2] + 1)], dim=-1)


def sample(objects: Objects, boxes: Tensor, *, seed: int = 0, is_real: Tensor | None = None, **options) -> Regions:
    are_real = torch.ones(boxes.shape[:2], dtype=torch.bool) if is_real is None else is_real
    chances = draw_chances(objects.is_real.sum(1).tolist(), boxes.shape[1], [generator(seed)])
    return sample_regions(boxes, are_real, objects, chances, **{"count": 64, "threshold": 0.6} | options)


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.8])
def test_matches_are_torchvisions(threshold):
    objects = make_objects(3, 7)
    boxes = proposals_near(objects)
    matched = match_regions(boxes, torch.ones(2, PROPOSALS, dtype=torch.bool), objects, threshold=threshold)
    for picture, count in enumerate((3, 7)):
        overlaps = box_iou(objects.boxes_xyxy_px[picture, :count], boxes[picture])
        theirs = Matcher(threshold, threshold, allow_low_quality_matches=False)(overlaps)
        assert 20 < (theirs >= 0).sum() < PROPOSALS - 20
        assert torch.equal(matched.is_positive[picture], theirs >= 0)
        ours = matched.object[picture][theirs >= 0]
        assert torch.equal(ours, theirs[theirs >= 0])


def test_pictures_without_objects_match_nothing():
    objects = make_objects(0, 2)
    matched = match_regions(proposals_near(objects), torch.ones(2, PROPOSALS, dtype=torch.bool), objects, threshold=0.6)
    assert not matched.is_positive[0].any()
    assert matched.is_real.all()
    assert matched.is_positive[1].any()
    assert (matched.object < 2).all()


def test_padding_and_boxes_without_area_answer_for_nothing():
    objects = make_objects(1)
    box = objects.boxes_xyxy_px[0, 0]
    flat = box.clone()
    flat[2] = flat[0]
    matched = match_regions(
        torch.stack([box, box, flat])[None], torch.tensor([[True, False, True]]), objects, threshold=0.6
    )
    assert matched.is_positive.tolist() == [[True, False, False]]
    assert matched.is_real.tolist() == [[True, False, False]]


@pytest.mark.parametrize("count", [16, 64, 300])
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_as_many_positives_and_negatives_as_torchvision_samples(count, share):
    objects = make_objects(1, 5, 9)
    boxes = proposals_near(objects)
    sampled = sample(objects, boxes, count=count, positive_share=share)
    for picture, own in enumerate((1, 5, 9)):
        candidates = torch.cat([boxes[picture], objects.boxes_xyxy_px[picture, :own]])
        best = box_iou(candidates, objects.boxes_xyxy_px[picture, :own]).amax(1)
        (positive,), (negative,) = BalancedPositiveNegativeSampler(count, share)([(best >= 0.6).long()])
        assert sampled.is_positive[picture].sum() == positive.sum()
        assert (sampled.is_real & ~sampled.is_positive)[picture].sum() == negative.sum()


def test_samples_are_candidates_each_at_most_once_and_of_the_right_kind():
    objects = make_objects(2, 6)
    boxes = proposals_near(objects)
    sampled = sample(objects, boxes)
    assert sampled.is_real.all()
    for picture, own in enumerate((2, 6)):
        candidates = torch.cat([boxes[picture], objects.boxes_xyxy_px[picture, :own]])
        rows = (sampled.boxes_xyxy_px[picture][:, None] == candidates).all(-1)
        assert (rows.sum(1) == 1).all()
        assert rows.sum(0).max() == 1
        overlaps = box_iou(sampled.boxes_xyxy_px[picture], objects.boxes_xyxy_px[picture, :own])
        best, object_R = overlaps.max(1)
        assert torch.equal(sampled.is_positive[picture], best >= 0.6)
        assert torch.equal(sampled.object[picture][best >= 0.6], object_R[best >= 0.6])


def test_objects_are_regions_where_no_proposal_is_near():
    objects = make_objects(3)
    far = torch.tensor([900.0, 900.0, 950.0, 950.0]).expand(1, PROPOSALS, 4)
    sampled = sample(objects, far)
    assert sampled.is_positive.sum() == 3
    assert set(sampled.object[sampled.is_positive].tolist()) == {0, 1, 2}
    assert sampled.is_real.sum() == 64


@pytest.mark.parametrize("own", [0, 2])
def test_without_proposals_the_objects_alone_are_regions(own):
    objects = make_objects(own)
    nothing = torch.zeros(1, PROPOSALS, dtype=torch.bool)
    sampled = sample(objects, torch.zeros(1, PROPOSALS, 4), is_real=nothing)
    assert sampled.is_real.shape == (1, 64)
    assert sampled.is_real.sum() == sampled.is_positive.sum() == own


def test_fewer_candidates_than_asked_for_are_all_taken():
    objects = make_objects(2)
    sampled = sample(objects, proposals_near(objects, count=5), count=64, positive_share=1.0)
    assert sampled.is_real.shape == (1, 7)
    assert sampled.is_real.all()


def test_all_candidates_of_a_kind_are_as_likely():
    draws = 2000
    one = make_objects(4)
    boxes = proposals_near(one, count=60)
    objects = Objects(*(value.expand(draws, *value.shape[1:]) for value in vars(one).values()))
    sampled = sample(objects, boxes.expand(draws, -1, -1), count=16)
    positives = match_regions(boxes, torch.ones(1, 60, dtype=torch.bool), one, threshold=0.6).is_positive[0]
    # The four objects compete with the proposals that are positive.
    expected = torch.where(positives, 4 / (positives.sum() + 4), 12 / (~positives).sum())
    drawn = (sampled.boxes_xyxy_px[:, :, None] == boxes[:, None]).all(-1).sum((0, 1)) / draws
    error = (expected * (1 - expected) / draws).sqrt()
    assert ((drawn - expected).abs() < 4.5 * error).all()


def test_a_draw_gets_the_same_chances_beside_other_draws():
    both = draw_chances([2, 3, 9, 1], 10, [generator(1), generator(2)])
    assert both.shape == (4, 19)
    assert torch.equal(both[:2, :13], draw_chances([2, 3], 10, [generator(1)]))
    assert torch.equal(both[2:], draw_chances([9, 1], 10, [generator(2)]))


def test_the_padding_of_other_pictures_changes_no_sample():
    objects = make_objects(2, 9)
    boxes = proposals_near(objects)
    chances = draw_chances([2, 9], PROPOSALS, [generator(1), generator(2)])
    are_real = torch.ones(2, PROPOSALS, dtype=torch.bool)
    both = sample_regions(boxes, are_real, objects, chances, count=64, threshold=0.6)
    first = Objects(objects.boxes_xyxy_px[:1, :2], objects.labels[:1, :2], objects.is_real[:1, :2])
    chances = draw_chances([2], PROPOSALS, [generator(1)])
    alone = sample_regions(boxes[:1], are_real[:1], first, chances, count=64, threshold=0.6)
    for name, value in vars(alone).items():
        assert torch.equal(value[0], getattr(both, name)[0]), name


def test_objects_as_their_own_regions():
    objects = make_objects(3, 0, 1)
    regions = object_regions(objects)
    assert torch.equal(regions.is_positive, objects.is_real)
    assert torch.equal(regions.of_objects(objects.boxes_xyxy_px), objects.boxes_xyxy_px)
    assert torch.equal(regions.of_objects(objects.labels), objects.labels)


def test_the_best_proposals_answer_for_nothing_and_stay_in_their_pictures():
    boxes = torch.tensor([[0.0, 0, 9, 9], [-4, 5, 30, 30], [25, 0, 40, 9], [1, 1, 2, 2]]).expand(2, -1, -1)
    are_real = torch.tensor([[True] * 4, [True, False, False, False]])
    regions = best_regions(boxes, are_real, torch.tensor([[20, 24], [50, 50]]), count=3)
    assert regions.boxes_xyxy_px[0].tolist() == [[0, 0, 9, 9], [0, 5, 24, 20], [24, 0, 24, 9]]
    assert regions.is_real.tolist() == [[True, True, False], [True, False, False]]
    assert not regions.is_positive.any()


def test_pictures_choose_among_sets_of_regions_of_one_number():
    objects = make_objects(3, 2)
    boxes = proposals_near(objects)
    sampled = sample(objects, boxes, count=16)
    own = object_regions(objects).padded(16)
    mixed = sampled.where(torch.tensor([True, False]), own)
    assert torch.equal(mixed.boxes_xyxy_px[0], sampled.boxes_xyxy_px[0])
    assert mixed.is_positive[1].tolist() == [True, True] + [False] * 14
    assert mixed.is_real[1].sum() == 2
