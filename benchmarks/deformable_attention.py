"""Deformable attention: seconds and peak memory of each backend over the pure-torch oracle.

    python benchmarks/deformable_attention.py --json benchmarks/results/deformable_attention.json

Forward and backward of the sampling alone, at the sizes of an encoder layer (every position is a query) and of a
decoder layer. On a GPU at the paper's picture sizes, with bfloat16 and float32 values, the Triton kernel and, where it
is installed, the library `deformops` beside it; on a CPU at the demo's sizes and for one encoder layer of the paper's.
Each measurement runs in a process of its own. `kept_mib` is what the layer holds from its forward pass to its backward
pass, inputs counted: a model holds the sum over its layers. `peak_mib` is what both passes of this one layer add to
the inputs (`ru_maxrss`, or the CUDA allocator's).
"""

import importlib.metadata
import importlib.util
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from common import median_seconds, peak_mib, report
from torch import Tensor

from richsem_train.models.dino.deformable_attention import deformable_attention

LIBRARY = "deformops"

Sample = Callable[[Tensor, tuple[tuple[int, int], ...], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One layer's sampling; without `queries` every position is one."""

    name: str
    batch: int
    picture_hw: tuple[int, int]
    strides: tuple[int, ...]
    heads: int = 8
    channels: int = 32
    points: int = 4
    queries: int | None = None
    value_type: str = "float32"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        height, width = self.picture_hw
        return tuple((-(-height // stride), -(-width // stride)) for stride in self.strides)


PAPER = (8, 16, 32, 64)

CPU_CASES = (
    Case("demo encoder", 8, (256, 256), (8, 16), channels=16),
    Case("demo decoder", 8, (256, 256), (8, 16), channels=16, queries=60),
    Case("paper encoder", 1, (800, 1333), PAPER),
)

GPU_CASES = tuple(
    Case(f"paper {layer}", 2, picture_hw, PAPER, queries=queries, value_type=value_type)
    for picture_hw in ((800, 1333), (1280, 1280))
    for layer, queries in (("encoder", None), ("decoder", 1100))
    for value_type in ("float32", "bfloat16")
)


def main(
    repeats: Annotated[int, typer.Option(help="Calls of which the median counts.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int, typer.Option(help="Of PyTorch, on a CPU.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all cases."""
    chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    results = []
    for case in GPU_CASES if chosen == "cuda" else CPU_CASES:
        figures = {backend: _alone(case, backend, chosen, repeats, threads) for backend in backends_on(chosen)}
        oracle = figures["torch"]
        for measured in figures.values():
            measured["seconds_over_torch"] = measured["seconds"] / oracle["seconds"]
            measured["kept_over_torch"] = measured["kept_mib"] / oracle["kept_mib"]
            measured["peak_over_torch"] = measured["peak_mib"] / oracle["peak_mib"]
        results.append({**asdict(case), "backends": figures})
    settings = {"device": chosen, "threads": threads, "repeats": repeats, LIBRARY: _version(LIBRARY)}
    report("deformable-attention", {**settings, "cases": results}, json)


def backends_on(device: str) -> list[str]:
    """What can sample there."""
    backends = ["torch", "torch-checkpoint"]
    if device == "cuda":
        backends += [name for name in ("triton", LIBRARY) if importlib.util.find_spec(name)]
    return backends


def _version(package: str) -> str | None:
    return importlib.metadata.version(package) if importlib.util.find_spec(package) else None


def _alone(case: Case, backend: str, device: str, repeats: int, threads: int) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, case, backend, device, repeats, threads).result()


def _measure(case: Case, backend: str, device: str, repeats: int, threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    sample = sampler(backend, device)
    # Imports and compilations are none of the layer's seconds and bytes.
    _step(sample, Case("warm-up", 1, (64, 64), case.strides, value_type=case.value_type), device)()
    step = _step(sample, case, device)
    before = _peak_mib(device)
    step()
    peak = _peak_mib(device) - before
    return {"seconds": median_seconds(step, repeats), "kept_mib": _kept_mib(step), "peak_mib": peak}


def _kept_mib(step: Callable[[], None]) -> float:
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storages.values()) / 2**20


def _peak_mib(device: str) -> float:
    """What was needed at most until now; on a GPU since the last call."""
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return peak
    return peak_mib()


def random_layer(case: Case, device: str | torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value, locations all over the maps and weights, which want gradients, and the gradient of what comes out."""
    generator = torch.Generator().manual_seed(0)
    positions = sum(height * width for height, width in case.shapes)
    queries = case.queries or positions
    per_point = (case.batch, queries, case.heads, len(case.shapes), case.points)

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.to(device).requires_grad_()

    value_type = getattr(torch, case.value_type)
    value = leaf(torch.randn(case.batch, positions, case.heads, case.channels, generator=generator).to(value_type))
    locations = leaf(torch.rand(*per_point, 2, generator=generator))
    weights = leaf(torch.rand(per_point, generator=generator))
    grad_out = torch.randn(case.batch, queries, case.heads * case.channels, generator=generator).to(device, value_type)
    return value, locations, weights, grad_out


def _step(sample: Sample, case: Case, device: str) -> Callable[[], None]:
    value, locations, weights, grad_out = random_layer(case, device)

    def step() -> None:
        out = sample(value, case.shapes, locations, weights)
        torch.autograd.grad(out, (value, locations, weights), grad_out)
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def sampler(backend: str, device: str | torch.device) -> Sample:
    """A backend of ours, or the library, as one function."""
    if backend != LIBRARY:
        return lambda *tensors: deformable_attention(*tensors, backend=backend)
    return _library_sample(device)


def _library_sample(device: str | torch.device) -> Any:
    from deformops.registry import msda

    sizes: dict[tuple[tuple[int, int], ...], tuple[Tensor, Tensor]] = {}

    def sample(value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor) -> Tensor:
        if shapes not in sizes:
            spatial = torch.tensor(shapes, device=device)
            areas = spatial.prod(1)
            sizes[shapes] = (spatial, areas.cumsum(0) - areas)
        return msda(value, *sizes[shapes], locations, weights.to(value.dtype))

    return sample


if __name__ == "__main__":
    typer.run(main)
