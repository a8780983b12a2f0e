import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from transformers.models.deformable_detr.configuration_deformable_detr import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrMultiscaleDeformableAttention,
    MultiScaleDeformableAttention,
)

from richsem_schemas.errors import RichSemError
from richsem_train.models.dino.deformable_attention import (
    DeformableAttention,
    LayerSizes,
    backends,
    choose_backend,
    deformable_attention,
    fallback_note,
    torch_backend,
)
from tests.trainer.models.dino.sampling_cases import CASES, SHAPES, make_case, outputs_and_gradients

TORCH_BACKENDS = ("torch", "torch-checkpoint")


def sampler(backend):
    return lambda *tensors: deformable_attention(*tensors, backend=backend)


def sampled(case, backend="torch"):
    return sampler(backend)(case.value_BSHD, case.shapes, case.locations_BQHLP2, case.weights_BQHLP)


def transformers_sample(value, shapes, locations, weights):
    return MultiScaleDeformableAttention()(value, None, list(shapes), None, locations, weights, 64)


@pytest.mark.parametrize("backend", TORCH_BACKENDS)
@pytest.mark.parametrize("name", ["three odd maps", "channels that are no power of two", "one row and one column"])
def test_samples_and_gradients_equal_those_of_transformers(name, backend):
    case = CASES[name]()
    ours = outputs_and_gradients(sampler(backend), case)
    theirs = outputs_and_gradients(transformers_sample, case)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", TORCH_BACKENDS)
def test_samples_equal_those_of_scipy(backend):
    case = make_case(SHAPES, batch=1, heads=1, channels=1, queries=20, points=2)
    ours = sampled(case, backend)
    maps = case.value_BSHD[0, :, 0, 0].split([height * width for height, width in case.shapes])
    theirs = np.zeros(20)
    for level, (height, width) in enumerate(case.shapes):
        at = case.locations_BQHLP2[0, :, 0, level].numpy() * (width, height) - 0.5
        found = map_coordinates(
            maps[level].view(height, width).numpy(), (at[..., 1], at[..., 0]), order=1, mode="grid-constant", cval=0.0
        )
        theirs += (found * case.weights_BQHLP[0, :, 0, level].numpy()).sum(-1)
    np.testing.assert_allclose(ours[0, :, 0].numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("backend", TORCH_BACKENDS)
def test_gradients_equal_finite_differences(backend):
    case = make_case(((4, 3), (2, 2)), batch=1, queries=3, channels=2, points=2)
    assert torch.autograd.gradcheck(lambda v, at, w: sampler(backend)(v, case.shapes, at, w), case.leaves())


def test_a_location_in_the_middle_of_a_cell_gives_that_cell():
    value_BSHD = torch.arange(12.0).view(1, 12, 1, 1)
    location = torch.tensor([(2 + 0.5) / 4, (1 + 0.5) / 3]).view(1, 1, 1, 1, 1, 2)
    found = deformable_attention(value_BSHD, ((3, 4),), location, torch.ones(1, 1, 1, 1, 1), backend="torch")
    assert found.item() == 1 * 4 + 2


@pytest.mark.parametrize("backend", TORCH_BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_every_case_has_an_output_of_the_values_type(name, backend):
    case = CASES[name]()
    out, *gradients = outputs_and_gradients(sampler(backend), case)
    assert out.shape == (*case.locations_BQHLP2.shape[:2], math.prod(case.value_BSHD.shape[2:]))
    assert out.dtype == case.value_BSHD.dtype
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_half_types_are_summed_in_float32():
    case = make_case(SHAPES, channels=16, dtype=torch.bfloat16, points=8)
    exact = sampled(replace(case, value_BSHD=case.value_BSHD.float()))
    assert torch.equal(sampled(case), exact.bfloat16())


def test_checkpointing_keeps_a_fraction_for_the_backward_pass():
    case = make_case(((24, 24), (12, 12)), heads=4, channels=16, queries=300, points=4, dtype=torch.float32)

    def kept_bytes(backend):
        storages = {}

        def pack(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        value, locations, weights = case.leaves()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = sampler(backend)(value, case.shapes, locations, weights)
        assert out.requires_grad
        return sum(storages.values())

    # The samples alone: queries * heads * points * channels * maps.
    assert kept_bytes("torch") > 2 * 300 * 4 * 4 * 16 * 2 * 4
    assert kept_bytes("torch-checkpoint") < 0.5 * kept_bytes("torch")


def test_batched_equals_single():
    case = make_case(SHAPES, batch=3)
    for index, together in enumerate(sampled(case)):
        of_one = {name: value[[index]] for name, value in vars(case).items() if torch.is_tensor(value)}
        torch.testing.assert_close(together, sampled(replace(case, **of_one))[0], rtol=0, atol=1e-14)


def test_shapes_that_do_not_fit_are_refused():
    case = make_case(SHAPES)
    tensors = (case.value_BSHD, case.locations_BQHLP2, case.weights_BQHLP)
    with pytest.raises(ValueError, match="another number"):
        deformable_attention(tensors[0], ((7, 5), (3, 2)), *tensors[1:], backend="torch")
    with pytest.raises(ValueError, match="sampling locations of shape"):
        deformable_attention(tensors[0], ((7, 5), (7, 1)), *tensors[1:], backend="torch")
    with pytest.raises(ValueError, match="attention weights of shape"):
        deformable_attention(tensors[0], SHAPES, tensors[1], tensors[2][..., :1], backend="torch")


# The layer.


def layers(coordinates):
    """Ours and transformers', with the same random weights, and inputs for reference points or boxes."""
    torch.manual_seed(0)
    config = DeformableDetrConfig(d_model=16, num_feature_levels=3)
    theirs = DeformableDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=3).double()
    ours = DeformableAttention(16, levels=3, heads=4, points=3).double()
    ours.load_state_dict(theirs.state_dict())
    query, references = torch.randn(2, 6, 16).double(), torch.rand(2, 6, 3, coordinates).double()
    features, mask = torch.randn(2, 42, 16).double(), torch.rand(2, 42) < 0.2
    return ours, theirs, query, references, features, mask


@pytest.mark.parametrize("coordinates", [2, 4])
def test_the_layer_equals_that_of_transformers(coordinates):
    ours, theirs, query, references, features, mask = layers(coordinates)
    expected, _ = theirs(
        query,
        attention_mask=~mask,
        encoder_hidden_states=features,
        reference_points=references,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
    )
    torch.testing.assert_close(ours(query, references, features, SHAPES, mask), expected, rtol=0, atol=1e-12)


def test_padding_counts_as_zero():
    ours, _, query, references, features, mask = layers(4)
    other = torch.where(mask[..., None], torch.randn_like(features), features)
    assert torch.equal(ours(query, references, features, SHAPES, mask), ours(query, references, other, SHAPES, mask))


def test_reference_points_of_three_coordinates_are_refused():
    ours, _, query, references, features, mask = layers(4)
    with pytest.raises(ValueError, match="3 coordinates"):
        ours(query, references[..., :3], features, SHAPES, mask)


def test_the_layer_starts_with_a_star_of_equal_weights():
    layer = DeformableAttention(16, levels=2, heads=4, points=3)
    offsets = layer.sampling_offsets.bias.view(4, 2, 3, 2)
    steps = torch.tensor([1.0, 2.0, 3.0])[:, None]
    for head, direction in enumerate([(1, 0), (0, 1), (-1, 0), (0, -1)]):
        for level in range(2):
            torch.testing.assert_close(offsets[head, level], steps * torch.tensor(direction), atol=1e-6, rtol=0)
    assert not layer.sampling_offsets.weight.any()
    assert not layer.attention_weights.weight.any()
    assert not layer.attention_weights.bias.any()


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="5 heads"):
        DeformableAttention(16, levels=1, heads=5, points=1)


def test_locations_keep_float32_under_autocast():
    layer = DeformableAttention(16, levels=1, heads=2, points=2)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    query, references, features = torch.randn(1, 4, 16), torch.rand(1, 4, 1, 4), torch.randn(1, 160 * 100, 16)
    seen = []
    handle = layer.sampling_offsets.register_forward_hook(lambda module, inputs, output: seen.append(output))
    exact = layer(query, references, features, ((100, 160),), None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = layer(query, references, features, ((100, 160),), None)
    handle.remove()
    assert torch.equal(seen[0], seen[1])
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, atol=0.05, rtol=0.05)


# The choice.


def test_auto_is_plain_torch_on_the_cpu():
    assert choose_backend("auto", torch.device("cpu")) == "torch"


BACKENDS = "richsem_train.models.dino.deformable_attention.backends"
CUDA = torch.device("cuda")


@pytest.fixture
def fresh_trials():
    """A process tries a kernel once; each test of it is a process of its own."""
    backends.kernel_fault.cache_clear()
    yield
    backends.kernel_fault.cache_clear()


@pytest.fixture
def fault_of(monkeypatch, fresh_trials):
    """What is wrong with a kernel, on the CPU."""
    pytest.importorskip("triton")

    def fault_of(sample, sizes=LayerSizes()):  # noqa: B008 - frozen
        monkeypatch.setattr("richsem_train.models.dino.deformable_attention.triton_backend.sample", sample)
        return backends.kernel_fault(torch.device("cpu"), sizes)

    return fault_of


def right_sums(value, shapes, locations, weights):
    return torch_backend.sample(value.float(), shapes, locations, weights).to(value.dtype)


def test_auto_on_cuda_is_triton_where_the_kernel_works(monkeypatch):
    monkeypatch.setattr(f"{BACKENDS}.kernel_fault", lambda *_: None)
    assert choose_backend("auto", CUDA) == "triton"
    assert fallback_note("auto", CUDA) is None


def test_auto_on_cuda_recomputes_where_the_kernel_does_not_work_and_says_so_in_a_line(monkeypatch):
    monkeypatch.setattr(f"{BACKENDS}.kernel_fault", lambda *_: "RuntimeError: PassManager::run failed")
    assert choose_backend("auto", CUDA) == "torch-checkpoint"
    note = fallback_note("auto", CUDA)
    assert "torch-checkpoint" in note
    assert "RuntimeError: PassManager::run failed" in note
    assert "\n" not in note
    for asked in ("torch", "torch-checkpoint"):
        assert fallback_note(asked, CUDA) is None


def test_auto_on_cuda_recomputes_without_triton(monkeypatch, fresh_trials):
    monkeypatch.setattr(f"{BACKENDS}._has_triton", lambda: False)
    assert choose_backend("auto", CUDA) == "torch-checkpoint"
    assert "the package triton is not installed" in fallback_note("auto", CUDA)


def test_a_kernel_that_raises_is_a_fault_in_a_line_and_its_compiler_is_not_heard(fault_of, capfd):
    def fails(*_):
        os.write(2, b"thousands of lines\n")
        raise RuntimeError("PassManager::run failed\nand so on")

    assert fault_of(fails) == "RuntimeError: PassManager::run failed"
    assert "thousands" not in capfd.readouterr().err
    os.write(2, b"others are heard")
    assert capfd.readouterr().err == "others are heard"


def test_a_kernel_with_wrong_sums_is_a_fault(fault_of):
    assert fault_of(lambda *tensors: 1.1 * right_sums(*tensors)) == "its sums are wrong"


def test_a_kernel_that_works_is_tried_once_for_sizes(fault_of):
    tried = []

    def sample(value, shapes, locations, weights):
        tried.append((value.dtype, tuple(value.shape[2:]), len(shapes), weights.shape[-1]))
        return right_sums(value, shapes, locations, weights)

    for _ in range(3):
        assert fault_of(sample, LayerSizes(4, 24, 2, 3)) is None
    assert tried == [(torch.float32, (4, 24), 2, 3), (torch.bfloat16, (4, 24), 2, 3)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_kernel_works_whatever_the_grad_mode_of_who_asks(fault_of, mode):
    with mode():
        assert fault_of(right_sums) is None


def test_triton_asked_for_by_name_is_refused_where_its_kernel_does_not_work(monkeypatch):
    monkeypatch.setattr(f"{BACKENDS}._has_triton", lambda: True)
    monkeypatch.setattr(f"{BACKENDS}.kernel_fault", lambda *_: "OutOfResources: shared memory")
    with pytest.raises(RichSemError, match=r"does not work on .cuda. \(OutOfResources: shared memory\); choose .auto."):
        choose_backend("triton", CUDA)


def test_backends_that_cannot_run_are_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RichSemError, match="'cuda-kernel' does not exist; choose one of auto, torch"):
        choose_backend("cuda-kernel", torch.device("cpu"))
    monkeypatch.setattr("richsem_train.models.dino.deformable_attention.backends._has_triton", lambda: True)
    with pytest.raises(RichSemError, match="runs on CUDA devices, not on 'cpu'"):
        choose_backend("triton", torch.device("cpu"))
    monkeypatch.setattr("richsem_train.models.dino.deformable_attention.backends._has_triton", lambda: False)
    with pytest.raises(RichSemError, match="not installed"):
        choose_backend("triton", torch.device("cuda"))
