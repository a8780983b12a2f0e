"""Simulated TF32 rounds what is multiplied, forward and backward, and nothing else."""

import pytest
import torch
from torch import nn

from benchmarks.simulated_tf32 import SimulatedTF32, rounded_to_tf32


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (1 + 2**-10, 1 + 2**-10),
        (1 + 2**-12, 1.0),
        (1 + 2**-11, 1 + 2**-10),
        (-(1 + 2**-11), -(1 + 2**-10)),
        (2 - 2**-12, 2.0),
        (0.0, 0.0),
        (float("inf"), float("inf")),
    ],
)
def test_numbers_keep_10_bits_of_mantissa(value, rounded):
    assert float(rounded_to_tf32(torch.tensor(value))) == rounded


def test_what_is_not_a_number_stays_so():
    assert rounded_to_tf32(torch.tensor(torch.nan)).isnan()


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv2d(5, 4, 3, bias=False)], ids=["product", "convolution"])
def test_products_are_those_of_rounded_factors(layer):
    x = torch.randn(2, 5, *((6, 6) if isinstance(layer, nn.Conv2d) else ()), requires_grad=True)
    ours = gradients_of(layer, x, SimulatedTF32())
    rounded = [rounded_to_tf32(each.detach()).double().requires_grad_() for each in (x, layer.weight)]
    product = nn.functional.conv2d if isinstance(layer, nn.Conv2d) else nn.functional.linear
    out = product(*rounded, None if layer.bias is None else layer.bias.double())
    grad_out = rounded_to_tf32(torch.ones_like(out, dtype=torch.float32) * 1.2345).double()
    wanted = [out.detach(), *torch.autograd.grad(out, rounded, grad_out)]
    for one, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)
    exact = gradients_of(layer, x, torch.enable_grad())
    assert all((one - other).abs().max() > 1e-5 for one, other in zip(ours, exact, strict=True))


def gradients_of(layer, x, mode):
    with mode:
        out = layer(x)
        return [out.detach(), *torch.autograd.grad(out, [x, layer.weight], torch.full_like(out, 1.2345))]
