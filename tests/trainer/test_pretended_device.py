"""The pretended device tells what a GPU's host waits for from what it doesn't, and is exact."""

import pytest
import torch
from torch import nn
from torchvision.ops import nms, roi_align

from tests.trainer.pretended_device import DEVICE, OnDevice, pretended_device

WAITS = {
    "a number": ("value read", lambda x: x[0, 0].item()),
    "a decision": ("value read", lambda x: bool(x.sum() > 0)),
    "a comparison": ("value read", lambda x: torch.equal(x, x)),
    "a list": ("values read by a copy", lambda x: x.tolist()),
    "a copy": ("values read by a copy", lambda x: x.cpu()),
    "a copy into the host's memory": ("values read by a copy", lambda x: torch.empty(4, 4).copy_(x)),
    "places": ("shape of nonzero", lambda x: (x > 0).nonzero()),
    "a mask": ("shape of index", lambda x: x[x > 0]),
    "values at a mask": ("shape of index_put", lambda x: x.clone().index_put_((x > -9,), x.flatten().flip(0))),
    "a choice": ("shape of masked_select", lambda x: x.masked_select(x > 0)),
    "distinct values": ("shape of _unique2", lambda x: x.unique()),
    "repeats": ("shape of repeat_interleave", lambda x: x.repeat_interleave(x[:, 0].abs().ceil().long(), dim=0)),
    "suppression": ("shape of nms", lambda x: nms(torch.cat([x[:, :2], x[:, :2] + 1], 1), x[:, 3], 0.5)),
    "a list of places": ("blocking copy", lambda x: x[:, [1, 0]]),
    "constants": ("blocking copy", lambda x: x * x.new_tensor([1.0, 2, 3, 4])),
    "constants from a list": ("blocking copy", lambda x: x * torch.tensor([1.0, 2, 3, 4], device=x.device)),
    "places on the host": ("by indices on the host", lambda x: x[torch.tensor([1, 0])]),
}

GOES_ON = {
    "the best": lambda x: x.topk(2),
    "sums": lambda x: (x @ x.T).softmax(-1).sum(),
    "places on the device": lambda x: x[x.argmax(-1)],
    "filling by a mask": lambda x: x.clone().masked_fill_(x > 0, 1.0),
    "one value at a mask": lambda x: torch.zeros_like(x).__setitem__(x > 0, 1.0),
    "a copy that doesn't block": lambda x: x + torch.ones(4).to(x.device, non_blocking=True),
    "what was made there": lambda x: torch.arange(4, device=x.device) * x + x.new_zeros(4),
    "regions": lambda x: roi_align(x[None, None], torch.cat([torch.zeros_like(x[:, :1]), x.abs()], 1), 2),
    "the host's own values": lambda _: torch.ones(3).nonzero().tolist(),
}  # fmt: skip


@pytest.fixture
def values():
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(0))


def held(result):
    return result.held if isinstance(result, OnDevice) else result


@pytest.mark.parametrize("name", WAITS)
def test_what_the_host_waits_for_is_counted(values, name):
    reason, action = WAITS[name]
    with pretended_device() as device:
        placed = values.to(DEVICE, non_blocking=True)
        assert not device.waits
        found = held(action(placed))
    assert device.waits.total() >= 1
    assert any(reason in each for each in device.waits), device.waits
    expected = action(values)
    assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected


@pytest.mark.parametrize("name", GOES_ON)
def test_what_it_does_not_wait_for_is_not(values, name):
    with pretended_device() as device:
        GOES_ON[name](values.to(DEVICE, non_blocking=True))
    assert not device.waits


def test_host_and_device_do_not_mix(values):
    with pretended_device(), pytest.raises(AssertionError, match="mixes the device's tensors with the host's"):
        values.to(DEVICE) + values


def test_gradients_and_new_weights_are_those_of_the_cpu(values):
    def descend(device):
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).to(device).double()
        optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimiser.zero_grad()
            layer(values.double().to(device)).square().sum().backward()
            optimiser.step()
        return [held(weight.detach()) for weight in layer.parameters()]

    wanted = descend(torch.device("cpu"))
    with pretended_device():
        found = descend(DEVICE)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
