"""Inputs of deformable attention on which its backends must agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SamplingCase:
    value_BSHD: Tensor
    shapes: tuple[tuple[int, int], ...]
    locations_BQHLP2: Tensor
    weights_BQHLP: Tensor

    def to(self, device: str) -> "SamplingCase":
        return SamplingCase(
            self.value_BSHD.to(device), self.shapes, self.locations_BQHLP2.to(device), self.weights_BQHLP.to(device)
        )

    def leaves(self) -> tuple[Tensor, Tensor, Tensor]:
        value, locations, weights = self.value_BSHD, self.locations_BQHLP2, self.weights_BQHLP
        return tuple(tensor.detach().requires_grad_() for tensor in (value, locations, weights))


def make_case(
    shapes: Sequence[tuple[int, int]],
    *,
    heads: int = 2,
    channels: int = 4,
    batch: int = 2,
    queries: int = 7,
    points: int = 3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> SamplingCase:
    """Random values, weights, and locations of which a good part lies outside of the maps."""
    generator = torch.Generator().manual_seed(seed)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    positions = sum(height * width for height, width in shapes)
    per_point = (batch, queries, heads, len(shapes), points)
    return SamplingCase(
        torch.randn(batch, positions, heads, channels, dtype=torch.float64, generator=generator).to(dtype),
        tuple(shapes),
        torch.rand(*per_point, 2, dtype=exact, generator=generator) * 1.8 - 0.4,
        torch.rand(*per_point, dtype=exact, generator=generator),
    )


def outputs_and_gradients(sample, case: SamplingCase) -> list[Tensor]:
    """The samples, and the gradients of value, locations and weights of a function in which each output counts."""
    leaves = case.leaves()
    out = sample(leaves[0], case.shapes, leaves[1], leaves[2])
    factors = torch.arange(out.numel(), device=out.device, dtype=torch.float64).view(out.shape).cos()
    gradients = torch.autograd.grad((out.double() * factors).sum(), leaves)
    return [out.detach(), *gradients]


SHAPES = ((7, 5), (3, 2), (1, 1))


def _far_outside() -> SamplingCase:
    case = make_case(SHAPES)
    # Beyond the integers on all four sides; a few stay inside.
    case.locations_BQHLP2[:, ::2] *= 1e30
    return case


CASES = {
    "three odd maps": lambda: make_case(SHAPES),
    "channels that are no power of two": lambda: make_case(SHAPES, channels=5, heads=3),
    "one channel": lambda: make_case(SHAPES, channels=1),
    "one row and one column": lambda: make_case(((1, 9), (8, 1))),
    "a map without positions": lambda: make_case(((4, 4), (0, 3), (2, 2))),
    "one query": lambda: make_case(SHAPES, queries=1, batch=1, points=1),
    "no query": lambda: make_case(SHAPES, queries=0),
    "many queries of one cell": lambda: make_case(((2, 2),), queries=90, points=4, batch=1),
    "locations far outside": _far_outside,
    "float32": lambda: make_case(SHAPES, channels=32, dtype=torch.float32),
    "bfloat16": lambda: make_case(SHAPES, channels=16, dtype=torch.bfloat16),
    "float16": lambda: make_case(SHAPES, channels=16, dtype=torch.float16),
}

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 2e-3}
"""Of values of the order of 1 to 30; half types round the output and the gradient of the value."""
