import torch

from richsem_train.data.collate import Sample, collate
from richsem_train.targets import Target


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
        assert batch.pixels[index].masked_select(batch.padding_mask[index]).sum() == 0
        assert batch.targets[index] is one.target


def test_pictures_of_one_size_are_not_padded():
    batch = collate([sample(5, 6), sample(5, 6)])
    assert batch.pixels.shape == (2, 3, 5, 6)
    assert not batch.padding_mask.any()
