import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import MultiScaleRoIAlign, roi_align

from richsem_train.models.centernet_cascade.roi_pooler import levels_of, pool_rois

SIDE, PICTURES, REGIONS = 640, 2, 60


def maps(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [
        torch.randn(PICTURES, 3, SIDE // stride, SIDE // stride, generator=rng, dtype=dtype)
        for stride in (8, 16, 32, 64, 128)
    ]


def regions() -> torch.Tensor:
    """Of all sizes; some leave the picture."""
    rng = torch.Generator().manual_seed(1)
    corner = torch.rand(PICTURES, REGIONS, 2, generator=rng, dtype=torch.float64) * 600 - 20
    sides = torch.exp(1 + 5.5 * torch.rand(PICTURES, REGIONS, 2, generator=rng, dtype=torch.float64))
    return torch.cat([corner, corner + sides], dim=-1)


@pytest.mark.parametrize(
    ("side", "level"), [(1e-3, 3), (111, 3), (112, 4 - 1), (223, 3), (224, 4), (447, 4), (448, 5), (896, 5), (5000, 5)]
)
def test_levels_by_hand(side, level):
    assert levels_of(torch.tensor([7.0, 9.0, 7.0 + side, 9.0 + side])).item() == level
    # By the area alone.
    assert levels_of(torch.tensor([0.0, 0.0, side / 4, side * 4])).item() == level


def test_each_region_is_pooled_from_its_level_as_if_it_were_alone():
    boxes = regions()
    pooled = pool_rois(maps(), boxes, torch.ones(PICTURES, REGIONS, dtype=torch.bool), side=7)
    pooled = pooled.unflatten(0, (PICTURES, REGIONS))
    levels = levels_of(boxes)
    assert set(levels.flatten().tolist()) == {3, 4, 5}
    for picture in range(PICTURES):
        for region in range(REGIONS):
            level = int(levels[picture, region])
            alone = roi_align(
                maps()[level - 3][picture, None], [boxes[picture, region, None]], 7, 1 / 2**level, aligned=True
            )
            assert torch.equal(pooled[picture, region], alone[0])


def test_torchvisions_pooler_of_many_maps_is_half_a_cell_off():
    """Maps that say where they are: this project's regions are sampled at their own place, torchvision's aren't."""
    places = [
        (torch.arange(SIDE / stride, dtype=torch.float64) * stride + stride / 2).expand(1, 1, SIDE // stride, -1)
        for stride in (8, 16, 32)
    ]
    boxes = torch.tensor([[[64.0, 64.0, 128.0, 128.0], [100.0, 100.0, 420.0, 420.0]]], dtype=torch.float64)
    pooled = pool_rois(places, boxes, torch.ones(1, 2, dtype=torch.bool), side=7)
    assert_close(pooled.mean((1, 2, 3)), torch.tensor([96.0, 260.0], dtype=torch.float64))
    theirs = MultiScaleRoIAlign(["0", "1", "2"], 7, -1)(
        {str(number): each for number, each in enumerate(places)}, [boxes[0]], [(SIDE, SIDE)]
    )
    assert_close(theirs.mean((1, 2, 3)) - pooled.mean((1, 2, 3)), torch.tensor([4.0, 8.0], dtype=torch.float64))


def test_what_stands_for_nothing_is_zero_and_teaches_nothing():
    features = [each.requires_grad_() for each in maps()]
    pooled = pool_rois(features, regions(), torch.zeros(PICTURES, REGIONS, dtype=torch.bool), side=7)
    assert (pooled == 0).all()
    pooled.sum().backward()
    assert all((each.grad == 0).all() for each in features[:3])


def test_a_picture_is_pooled_alone_as_in_a_batch():
    boxes, are_real = regions(), torch.ones(PICTURES, REGIONS, dtype=torch.bool)
    together = pool_rois(maps(), boxes, are_real, side=7)
    alone = pool_rois([each[1:] for each in maps()], boxes[1:], are_real[1:], side=7)
    assert torch.equal(together[REGIONS:], alone)


def test_half_precision_maps_are_pooled_in_float32():
    halves = maps(torch.bfloat16)
    are_real = torch.ones(PICTURES, REGIONS, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = pool_rois(halves, regions().float(), are_real, side=7)
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, pool_rois([each.float() for each in halves], regions().float(), are_real, side=7))


@pytest.mark.timeout(60)
def test_absurd_boxes_end():
    boxes = torch.tensor(
        [[[torch.nan] * 4, [-torch.inf, -torch.inf, torch.inf, torch.inf], [-1e30, 0, 1e30, 1], [9, 9, 9, 9]]]
    )
    pooled = pool_rois([each[:1].float() for each in maps()], boxes, torch.ones(1, 4, dtype=torch.bool), side=7)
    assert pooled.isfinite().all()
