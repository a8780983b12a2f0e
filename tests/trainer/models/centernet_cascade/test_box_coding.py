import pytest
import torch
from torch.testing import assert_close
from torchvision.models.detection._utils import BoxCoder

from richsem_train.models.centernet_cascade.box_coding import areas, clipped, decode_boxes, encode_boxes
from richsem_train.models.centernet_cascade.cascade import DELTA_WEIGHTS


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    corner = 500 * torch.rand(count, 2, generator=rng, dtype=torch.float64)
    sides = torch.exp(6 * torch.rand(count, 2, generator=rng, dtype=torch.float64))
    return torch.cat([corner, corner + sides], dim=1)


@pytest.mark.parametrize("weights", DELTA_WEIGHTS)
def test_deltas_are_torchvisions(weights):
    boxes, wanted = random_boxes(50), random_boxes(50, seed=1)
    assert_close(encode_boxes(boxes, wanted, weights), BoxCoder(weights).encode_single(wanted, boxes))


@pytest.mark.parametrize("weights", DELTA_WEIGHTS)
def test_boxes_of_deltas_are_torchvisions_at_and_beyond_the_most_growth_too(weights):
    boxes = random_boxes(50)
    deltas = torch.randn(50, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 40
    assert (deltas[:, 2:] / weights[2] > 4.2).any()
    assert_close(decode_boxes(deltas, boxes, weights), BoxCoder(weights).decode_single(deltas, boxes))


def test_deltas_by_hand():
    deltas = encode_boxes(
        torch.tensor([0.0, 0.0, 10.0, 20.0]), torch.tensor([5.0, 0.0, 25.0, 20.0]), (10.0, 10.0, 5.0, 5.0)
    )
    assert_close(deltas, torch.tensor([10.0, 0.0, 5 * 0.693147, 0.0]))


def test_decoding_reverses_encoding():
    boxes, wanted = random_boxes(2, seed=3).view(1, 2, 4), random_boxes(2, seed=4).view(1, 2, 4)
    wanted[..., 2:] = wanted[..., :2] + (boxes[..., 2:] - boxes[..., :2]) * 3
    assert_close(decode_boxes(encode_boxes(boxes, wanted, (1, 2, 3, 4)), boxes, (1, 2, 3, 4)), wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_without_area_have_finite_deltas(dtype):
    nothing, box = torch.zeros(1, 4, dtype=dtype), torch.tensor([[3.0, 4.0, 90.0, 80.0]], dtype=dtype)
    for one, other in ((nothing, box), (box, nothing), (nothing, nothing)):
        assert encode_boxes(one, other, DELTA_WEIGHTS[2]).isfinite().all()


def test_boxes_are_clipped_to_their_own_pictures():
    boxes_BR4 = torch.tensor([[[-3.0, 2.0, 70.0, 90.0]], [[-3.0, 2.0, 70.0, 90.0]]])
    assert clipped(boxes_BR4, torch.tensor([[40, 60], [100, 50]])).tolist() == [[[0, 2, 60, 40]], [[0, 2, 50, 90]]]


def test_areas_of_crossed_corners_are_zero():
    assert areas(torch.tensor([[1.0, 2.0, 4.0, 4.0], [4.0, 2.0, 1.0, 4.0], [4.0, 4.0, 1.0, 2.0]])).tolist() == [6, 0, 0]
