import torch
from torch import nn
from torch.nn import functional

from richsem_train.models.dino.feed_forward import feed_forward


def layers():
    torch.manual_seed(0)
    return nn.Linear(6, 40), nn.Linear(40, 6)


def run(forward, inner, outer, tokens):
    """Output and gradients."""
    leaf = tokens.detach().requires_grad_()
    out = forward(leaf, inner, outer)
    weights = (inner.weight, inner.bias, outer.weight, outer.bias)
    return out, *torch.autograd.grad(out.double().square().sum(), (leaf, *weights))


def plain(tokens, inner, outer):
    return outer(functional.relu(inner(tokens)))


def test_numbers_and_gradients_are_those_of_the_layers():
    inner, outer = (layer.double() for layer in layers())
    tokens = torch.randn(2, 7, 6, dtype=torch.float64)
    for ours, theirs in zip(run(feed_forward, inner, outer, tokens), run(plain, inner, outer, tokens), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_under_autocast_too():
    inner, outer = layers()
    tokens = torch.randn(2, 7, 6)
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = run(feed_forward, inner, outer, tokens), run(plain, inner, outer, tokens)
    assert ours[0].dtype == torch.bfloat16
    for our, their in zip(ours, theirs, strict=True):
        assert our.dtype == their.dtype
        torch.testing.assert_close(our, their, rtol=0.02, atol=0.02)


def test_the_inner_activations_are_not_kept():
    inner, outer = layers()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        feed_forward(torch.randn(2, 7, 6), inner, outer)
    assert kept
    assert all(each.shape[0] != 2 or each.shape[-1] == 6 for each in kept)
