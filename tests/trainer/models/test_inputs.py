"""Padding is nothing, whatever stands there; and how CUDA multiplies float32 is said for as long as a step takes."""

import pytest
import torch

from richsem_train.models.inputs import Normalise, float32_products
from richsem_train.targets import Batch, Target

PRODUCTS, CONVOLUTIONS = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@pytest.mark.parametrize(("precision", "how"), [("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
def test_products_are_rounded_where_that_is_asked_for_and_later_as_before(precision, how):
    before = PRODUCTS.fp32_precision, CONVOLUTIONS.fp32_precision
    with float32_products(precision):
        assert (PRODUCTS.fp32_precision, CONVOLUTIONS.fp32_precision) == (how, how)
    assert (PRODUCTS.fp32_precision, CONVOLUTIONS.fp32_precision) == before


def test_what_stands_where_pictures_are_padded_is_not_seen():
    hws = [(4, 9), (7, 3)]
    targets = tuple(Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 0, hw, hw) for hw in hws)
    normalise = Normalise((0.5, 0.4, 0.3), (0.25, 0.3, 0.2))
    seen = []
    for beyond in (0, 255):
        pixels = torch.full((2, 3, 7, 9), beyond, dtype=torch.uint8)
        for page, (height, width) in zip(pixels, hws, strict=True):
            page[:, :height, :width] = 100
        seen.append(normalise(Batch(pixels, targets, ("a", "b"))))
    assert torch.equal(*seen)
    for page, (height, width) in zip(seen[0], hws, strict=True):
        assert (page[:, height:] == 0).all()
        assert (page[:, :, width:] == 0).all()
        assert (page[:, :height, :width] != 0).all()
