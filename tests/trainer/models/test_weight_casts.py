import torch

from richsem_train.models.weight_casts import cast_weights
from tests.trainer.models.dino.tiny_dino import denoising, pictures, shaken, tiny_dino


def outputs_and_gradients(model, groups):
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), cast_weights(model, groups, torch.bfloat16):
        outputs = model(*pictures(2), denoising(3, 1))
    values = [value for value in vars(outputs).values() if value is not None]
    sum(value.float().square().mean() for value in values).backward()
    return values, {name: parameter.grad for name, parameter in model.named_parameters()}


def test_outputs_and_gradients_are_autocasts_bit_for_bit():
    model = shaken(tiny_dino()).train()
    cast, one_by_one = (outputs_and_gradients(model, groups) for groups in (model.half_weights(), []))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(cast[0], one_by_one[0], strict=True))
    for name, gradient in one_by_one[1].items():
        assert gradient.dtype == torch.float32
        assert torch.equal(cast[1][name], gradient), name


def test_the_weights_are_back_afterwards_and_frozen_ones_stay_frozen():
    model = tiny_dino().train()
    model.backbone.requires_grad_(False)
    before = dict(model.named_parameters())
    with cast_weights(model, model.half_weights(), torch.bfloat16):
        assert model.backbone[0].body[0].weight.dtype == torch.bfloat16
        assert not model.backbone[0].body[0].weight.requires_grad
        assert model.transformer.encoder.layers[0].self_attn.sampling_offsets.weight.dtype == torch.float32
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


def test_parts_are_copied_apart_so_that_their_gradients_are_ready_one_after_another():
    groups = tiny_dino().half_weights()
    names = [name for group in groups for name in group]
    assert len(names) == len(set(names))
    layers = [group for group in groups if any("decoder.layers" in name for name in group)]
    assert len(layers) == 3
