"""The kernels against the oracle: on a CPU through Triton's interpreter in a process of its own, and on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from richsem_train.models.deformable_attention import deformable_attention
from tests.trainer.models.sampling_cases import CASES, TOLERANCES, make_case, outputs_and_gradients

pytest.importorskip("triton")

ROOT = Path(__file__).parents[3]

INTERPRETED = """
import sys, torch
from richsem_train.models.deformable_attention import deformable_attention
from tests.trainer.models.sampling_cases import CASES, outputs_and_gradients

def sample(*tensors):
    return deformable_attention(*tensors, backend="triton")

results = {name: outputs_and_gradients(sample, make()) for name, make in CASES.items()}
torch.save(results, sys.argv[1])
"""


def oracle(*tensors):
    return deformable_attention(*tensors, backend="torch")


def kernel(*tensors):
    return deformable_attention(*tensors, backend="triton")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Outputs and gradients of all cases; Triton must be told to interpret before it is imported."""
    path = tmp_path_factory.mktemp("triton") / "results.pt"
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", INTERPRETED, str(path)], cwd=ROOT, env=environment, check=True)
    return torch.load(path, weights_only=True)


def assert_equals_oracle(results, case):
    tolerance = TOLERANCES[case.value_BSHD.dtype]
    for result, expected in zip(results, outputs_and_gradients(oracle, case), strict=True):
        assert result.dtype == expected.dtype
        torch.testing.assert_close(result.cpu(), expected.cpu(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_interpreted_kernels_equal_the_oracle(name, interpreted):
    assert_equals_oracle(interpreted[name], CASES[name]())


@pytest.mark.parametrize(("value_type", "exact_type"), [("bf16", "fp32"), ("fp32", "fp32"), ("fp64", "fp64")])
def test_kernels_compile_for_a_gpu_that_is_not_here(value_type, exact_type):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from richsem_train.models.deformable_attention.triton_kernels import backward_kernel, forward_kernel

    inputs = [f"*{value_type}", "*i32", f"*{exact_type}", f"*{exact_type}"]
    outputs = {forward_kernel: [f"*{value_type}"], backward_kernel: [f"*{value_type}", *[f"*{exact_type}"] * 3]}
    sizes = {"HEADS": 8, "CHANNELS": 32, "LEVELS": 4, "POINTS": 4, "TILE_ROWS": 32, "TILE_CHANNELS": 32}
    for kernel_function, more in outputs.items():
        types = [*inputs, *more, "i32", "i32", "i32", *["constexpr"] * len(sizes)]
        signature = dict(zip(kernel_function.arg_names, types, strict=True))
        source = ASTSource(kernel_function, signature, constexprs=sizes)
        assert triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]


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
