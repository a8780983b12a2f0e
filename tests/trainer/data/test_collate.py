import itertools

import numpy as np
import pytest
import torch

from richsem_train.data.collate import Canvas, Sample, collate
from richsem_train.targets import Target, padding_mask


def sample(height, width, *, boxes=1, name="a"):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    target = Target(torch.rand(boxes, 4, generator=generator), torch.ones(boxes).long(), 7, (height, width), (9, 9))
    pixels = torch.randint(1, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return Sample(pixels, target, name)


def test_pictures_are_padded_right_and_below_to_the_largest():
    samples = [sample(4, 9, name="wide"), sample(7, 3, name="high", boxes=0)]
    batch = collate(samples)
    assert batch.pixels.shape == (2, 3, 7, 9)
    assert batch.pixels.dtype == torch.uint8
    assert batch.padding_mask.dtype == torch.bool
    assert batch.names == ("wide", "high")
    for index, one in enumerate(samples):
        height, width = one.target.image_hw
        assert torch.equal(batch.pixels[index, :, :height, :width], one.pixels)
        assert not batch.padding_mask[index, :height, :width].any()
        assert (~batch.padding_mask[index]).sum() == height * width
        assert batch.targets[index] is one.target


def test_pictures_of_one_size_are_not_padded():
    batch = collate([sample(5, 6), sample(5, 6)])
    assert batch.pixels.shape == (2, 3, 5, 6)
    assert not batch.padding_mask.any()


HWS = [(4, 9), (7, 3), (5, 5)]


@pytest.mark.parametrize("order", itertools.permutations(HWS))
@pytest.mark.parametrize("largest_hw", [None, (7, 9), (8, 10), (5, 5)])
@pytest.mark.parametrize("room_bytes", [None, 40, 3 * 7 * 9 * 3, 4096])
def test_a_canvas_has_pictures_at_their_place_whatever_size_was_expected(order, largest_hw, room_bytes):
    room = None if room_bytes is None else np.full(room_bytes, 255, np.uint8)
    samples = [sample(*hw) for hw in order]
    canvas = Canvas(3, room, largest_hw)
    for each in samples:
        canvas.add(each.picture)
    found = canvas.padded()
    assert found.shape == (3, 7, 9, 3)
    for page, each in zip(found, samples, strict=True):
        _, height, width = each.pixels.shape
        np.testing.assert_array_equal(page[:height, :width], each.pixels.permute(1, 2, 0))
    assert canvas.hws == list(order)
    if room is not None and room_bytes == 4096:
        assert np.shares_memory(found, room)


@pytest.mark.parametrize("hws", [HWS, [(7, 9)] * 3])
def test_what_lies_beyond_a_picture_is_masked(hws):
    expected = torch.ones(3, 7, 9, dtype=torch.bool)
    for mask, (height, width) in zip(expected, hws, strict=True):
        mask[:height, :width] = False
    assert torch.equal(padding_mask(hws, (7, 9), torch.device("cpu")), expected)
