import pytest
import torch
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding

from richsem_train.models.dino.neck import sine_position


def padded_masks():
    mask_BHW = torch.zeros(2, 6, 9, dtype=torch.bool)
    mask_BHW[1, 4:] = True
    mask_BHW[1, :, 5:] = True
    return mask_BHW


def test_it_equals_that_of_transformers():
    mask_BHW = padded_masks()
    theirs = DetrSinePositionEmbedding(16, temperature=20, normalize=True)
    expected = theirs(torch.Size((2, 3, 6, 9)), "cpu", torch.float32, mask=~mask_BHW)
    ours = sine_position(mask_BHW, 32)
    torch.testing.assert_close(ours.flatten(2).transpose(1, 2), expected.flatten(2).transpose(1, 2), atol=1e-5, rtol=0)


def test_padding_changes_nothing_inside_of_the_picture():
    padded = sine_position(padded_masks(), 16)[1:, :, :4, :5]
    torch.testing.assert_close(padded, sine_position(torch.zeros(1, 4, 5, dtype=torch.bool), 16))


def test_an_entirely_padded_picture_has_finite_positions():
    assert sine_position(torch.ones(1, 3, 3, dtype=torch.bool), 8).isfinite().all()


def test_channels_that_four_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="6 channels"):
        sine_position(padded_masks(), 6)
