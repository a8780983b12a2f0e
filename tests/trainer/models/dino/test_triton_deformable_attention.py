"""The kernels against the oracle: on a CPU through Triton's interpreter in a process of its own, and on a GPU."""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from richsem_train.models.dino.deformable_attention import deformable_attention
from tests.trainer.models.dino.sampling_cases import CASES, TOLERANCES, make_case, outputs_and_gradients

pytest.importorskip("triton")

from benchmarks.ahead_of_time import CAPABILITIES, CHANNELS, VALUE_TYPES, attend, compiling

ROOT = Path(__file__).parents[4]

INTERPRETED = """
import sys, torch
from richsem_train.models.dino.deformable_attention import deformable_attention
from tests.trainer.models.dino.sampling_cases import CASES, outputs_and_gradients

def sample(*tensors):
    return deformable_attention(*tensors, backend="triton")

results = {name: outputs_and_gradients(sample, make()) for name, make in CASES.items()}
torch.save(results, sys.argv[1])
"""

COMPILED = """
import sys, torch
from richsem_train.models.dino.deformable_attention import deformable_attention, triton_backend
from tests.trainer.models.dino.sampling_cases import make_case, outputs_and_gradients

case = make_case(((2, 3), (1, 2)), queries=3, batch=1)
sides = [side for shape in case.shapes for side in shape]
value, locations, weights = case.leaves()
torch.library.opcheck(triton_backend._forward, (value, locations, weights, sides))
inputs = [each.detach() for each in (value, locations, weights)]
torch.library.opcheck(triton_backend._backward, (torch.ones(1, 3, 8, dtype=torch.float64), *inputs, sides))

def sample(*tensors):
    return deformable_attention(*tensors, backend="triton")

compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
torch.save([outputs_and_gradients(each, case) for each in (compiled, sample)], sys.argv[1])
"""


def oracle(*tensors):
    return deformable_attention(*tensors, backend="torch")


def kernel(*tensors):
    return deformable_attention(*tensors, backend="triton")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Outputs and gradients of all cases; Triton must be told to interpret before it is imported."""
    return run_interpreted(INTERPRETED, tmp_path_factory.mktemp("triton") / "results.pt")


def run_interpreted(code, path):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, env=environment, check=True)
    return torch.load(path, weights_only=True)


def assert_equals_oracle(results, case):
    tolerance = TOLERANCES[case.value_BSHD.dtype]
    for result, expected in zip(results, outputs_and_gradients(oracle, case), strict=True):
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_equal_the_oracle(name, interpreted):
    assert_equals_oracle(interpreted[name], CASES[name]())


def test_torch_compile_passes_through_the_kernels_without_a_break(tmp_path):
    """PyTorch's own checks of operators pass as well."""
    compiled, eager = run_interpreted(COMPILED, tmp_path / "compiled.pt")
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.fixture(autouse=True)
def fresh_compilations(tmp_path, monkeypatch):
    """Nothing comes from what other versions of the kernels left on this machine."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("value_type", "channels"), [*product(VALUE_TYPES, CHANNELS), (torch.float64, 32)], ids=str)
def test_kernels_compile_for_a_gpu_that_is_not_here(value_type, channels, capability):
    with compiling(capability) as compiled:
        attend(value_type, channels)
    (forward,), (backward,) = compiled["forward"], compiled["backward"]
    for outcome, pointers in ((forward, 5), (backward, 8)):
        assert not isinstance(outcome, Exception), outcome
        # Torch aligns its memory, of which Triton makes another kernel.
        assert len(re.findall(r"!tt\.ptr<\w+> {tt\.divisibility = 16", outcome.asm["ttir"])) == pointers
        assert outcome.asm["cubin"]


def test_additions_to_the_gradient_of_the_value_order_nothing_else():
    with compiling(90) as compiled:
        attend(torch.bfloat16, 32)
    added = re.findall(r"\b(?:atom|red)\.[.\w]+", compiled["backward"][0].asm["ptx"])
    assert added
    assert all(".relaxed." in instruction for instruction in added)


def test_one_compilation_serves_every_number_of_queries_and_positions():
    with compiling(80) as compiled:
        for queries in (1, 2, 16, 900, 912, 1007):
            for shapes in (((1, 1),) * 4, ((4, 4), (2, 2), (2, 2), (2, 4)), ((9, 11), (5, 6), (3, 3), (2, 2))):
                attend(torch.bfloat16, 32, queries=queries, shapes=shapes)
    for kernels in compiled.values():
        assert len(kernels) == 18
        assert len(set(map(id, kernels))) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CASES)
def test_kernels_equal_the_oracle_on_a_gpu(name):
    case = CASES[name]()
    # PyTorch's own `grid_sample` on the CPU is the oracle; kernels differ in the order of sums only.
    assert_equals_oracle(outputs_and_gradients(kernel, case.to("cuda")), case)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_an_encoder_layer_of_the_papers_size_equals_the_oracle_on_a_gpu():
    shapes = ((100, 167), (50, 84), (25, 42), (13, 21))
    queries = sum(height * width for height, width in shapes)
    case = make_case(shapes, heads=8, channels=32, batch=1, queries=queries, points=4, dtype=torch.float32).to("cuda")
    for result, expected in zip(outputs_and_gradients(kernel, case), outputs_and_gradients(oracle, case), strict=True):
        # Nearly all: a float32 location on the edge of two cells may fall into either one, with another gradient.
        is_close = (result - expected).abs() <= 1e-3 + 1e-3 * expected.abs()
        assert is_close.double().mean() > 0.999


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_equal_finite_differences_on_a_gpu():
    case = make_case(((4, 3), (2, 2)), batch=1, queries=3, channels=2, points=2).to("cuda")
    assert torch.autograd.gradcheck(
        lambda value, at, weights: kernel(value, case.shapes, at, weights), case.leaves(), nondet_tol=1e-10
    )
