"""How CUDA multiplies float32 is said in one place, for as long as a step takes."""

import pytest
import torch

from richsem_train.models.inputs import float32_products

PRODUCTS, CONVOLUTIONS = torch.backends.cuda.matmul, torch.backends.cudnn.conv


@pytest.mark.parametrize(("precision", "how"), [("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
def test_products_are_rounded_where_that_is_asked_for_and_later_as_before(precision, how):
    before = PRODUCTS.fp32_precision, CONVOLUTIONS.fp32_precision
    with float32_products(precision):
        assert (PRODUCTS.fp32_precision, CONVOLUTIONS.fp32_precision) == (how, how)
    assert (PRODUCTS.fp32_precision, CONVOLUTIONS.fp32_precision) == before
