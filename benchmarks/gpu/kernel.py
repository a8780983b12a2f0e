"""Deformable attention on the device: whether it is right, against float64, and how long it takes."""

from collections.abc import Sequence
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from deformable_attention import LIBRARY, PAPER, Case, Sample, backends_on, random_layer, sampler
from figures import DEVICE, SMOKE, Figures, host_microseconds, milliseconds
from torch import Tensor

from richsem_train.models.dino.deformable_attention import Backend, deformable_attention, triton_backend
from richsem_train.models.dino.deformable_attention.backends import LayerSizes, kernel_fault

KERNEL: Backend = "torch" if SMOKE else "triton"
PICTURE_HW = (64, 96) if SMOKE else (800, 1333)
MOSAIC_HW = (96, 96) if SMOKE else (1280, 1280)
SMALL_HW = (64, 64) if SMOKE else (128, 192)
DECODER_QUERIES = 20 if SMOKE else 1100
CELLS_AROUND = 3.0

Layer = tuple[tuple[tuple[int, int], ...], Tensor, Tensor, Tensor, Tensor]


def layer(case: Case) -> Layer:
    """Shapes, value, locations, weights, outer gradient; an encoder's positions look a few cells around themselves."""
    value, locations, weights, grad_out = random_layer(case, DEVICE)
    if case.queries is None:
        locations = around_themselves(case.shapes, locations).to(DEVICE).requires_grad_()
    mean_weights = weights.detach() / weights.detach().sum((3, 4), keepdim=True)
    return case.shapes, value, locations, mean_weights.requires_grad_(), grad_out


def around_themselves(shapes: Sequence[tuple[int, int]], like_BQHLP2: Tensor) -> Tensor:
    """Locations [B, Q, H, L, P, 2], on each map a few of its cells around the query's own place."""
    centres_Q2 = torch.cat([centres_of(height, width) for height, width in shapes])
    sizes_L12 = torch.tensor([[(width, height)] for height, width in shapes])
    offsets = CELLS_AROUND * torch.randn(like_BQHLP2.shape, generator=torch.Generator().manual_seed(1))
    return centres_Q2[None, :, None, None, None] + offsets / sizes_L12


def centres_of(height: int, width: int) -> Tensor:
    """(x, y) of a map's positions, row by row, relative to its size."""
    y_HW, x_HW = torch.meshgrid(
        (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij"
    )
    return torch.stack((x_HW, y_HW), -1).flatten(0, 1)


def both_passes(sample: Sample, inputs: Layer) -> tuple[Tensor, ...]:
    shapes, value, locations, weights, grad_out = inputs
    out = sample(value, shapes, locations, weights)
    return (out, *torch.autograd.grad(out, (value, locations, weights), grad_out))


def errors(case: Case) -> dict[str, float]:
    """Of the output and the gradients, relative to float64's; of the whole tensors' norms.

    A location on the line between two cells may fall to either side in float32, and its gradient with it.
    """
    shapes, value, locations, weights, grad_out = layer(case)
    ours = both_passes(sampler(KERNEL, DEVICE), (shapes, value, locations, weights, grad_out))
    wide = [tensor.detach().double().requires_grad_() for tensor in (value, locations, weights)]
    truth = both_passes(sampler("torch", DEVICE), (shapes, *wide, grad_out.double()))
    names = ("out", "grad_value", "grad_locations", "grad_weights")
    return {
        name: float((our.double() - true).norm() / true.norm())
        for name, our, true in zip(names, ours, truth, strict=True)
    }


def times(backend: str, case: Case) -> dict[str, float]:
    """Milliseconds of the forward pass without and of both passes with gradients."""
    shapes, value, locations, weights, _ = inputs = layer(case)
    sample = sampler(backend, DEVICE)

    @torch.no_grad()
    def forward() -> None:
        sample(value, shapes, locations, weights)

    return {"forward_ms": milliseconds(forward), "both_ms": milliseconds(lambda: both_passes(sample, inputs))}


def launch_overhead() -> float:
    """What the host needs for one small call; a step has two dozen."""
    shapes, value, locations, weights, _ = layer(Case("small", 1, (64, 64), PAPER, queries=16, value_type="bfloat16"))

    @torch.no_grad()
    def forward() -> None:
        deformable_attention(value, shapes, locations, weights, backend=KERNEL)

    return host_microseconds(forward)


def variants(case: Case) -> dict[str, Any]:
    """Times with other tiles and warps than the product's."""
    found: dict[str, Any] = {}
    for tile, warps in product((512, 1024) if SMOKE else (256, 512, 1024, 2048), (4,) if SMOKE else (1, 2, 4, 8)):
        with patch.multiple(triton_backend, TILE_ELEMENTS=tile, WARPS=warps):
            try:
                found[f"tile {tile}, {warps} warps"] = times(KERNEL, case)
            # A tile may be more than the device takes.
            except Exception as error:
                found[f"tile {tile}, {warps} warps"] = f"{type(error).__name__}: {error}"[:80]
    return found


def named(case: Case) -> str:
    height, width = case.picture_hw
    return f"{case.name} {height}x{width}, batch {case.batch}, {case.value_type}"


def main() -> None:
    figures = Figures("kernel")
    figures.keep("fault", kernel_fault(DEVICE, LayerSizes()))
    half_types = ("bfloat16", "float16")
    for case in (
        *(Case("encoder", 2, SMALL_HW, PAPER, value_type=each) for each in ("float32", *half_types)),
        Case("decoder", 1, PICTURE_HW, PAPER, queries=DECODER_QUERIES, value_type="bfloat16"),
        *(Case("encoder", 1, PICTURE_HW, PAPER, value_type=each) for each in ("float32", "bfloat16")),
    ):
        figures.measure(f"errors, {named(case)}", lambda case=case: errors(case))
    timed = [
        Case(name, 2, picture_hw, PAPER, queries=queries, value_type=value_type)
        for picture_hw in (PICTURE_HW, MOSAIC_HW)
        for name, queries in (("encoder", None), ("decoder", DECODER_QUERIES))
        for value_type in ("bfloat16", "float32")
    ]
    for case in timed:
        figures.measure(f"times of {KERNEL}, {named(case)}", lambda case=case: times(KERNEL, case))
    for case in timed[:4]:
        figures.measure(f"times of grid_sample, {named(case)}", lambda case=case: times("torch", case))
    figures.measure("launch, host microseconds", launch_overhead)
    if LIBRARY in backends_on(DEVICE.type):
        for case in timed[:4]:
            figures.measure(f"times of {LIBRARY}, {named(case)}", lambda case=case: times(LIBRARY, case))
    # Both layers in both types: they may want different tiles.
    for case in timed[:4]:
        figures.measure(f"tiles and warps, {named(case)}", lambda case=case: variants(case))


if __name__ == "__main__":
    main()
