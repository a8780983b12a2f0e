"""The kernels of deformable attention, compiled for a GPU that is not here by the very launches that training makes.

Triton's driver is replaced by one that only names a GPU, and launching by compiling; everything else is real: the
arguments that `triton_backend` passes, and what Triton makes of them, alignment of the tensors included. Torch aligns
all memory that it allocates to 16 bytes at least, on a CPU as on a GPU.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from richsem_train.models.dino.deformable_attention import deformable_attention, triton_backend

CAPABILITIES = (80, 90)
VALUE_TYPES = (torch.float32, torch.bfloat16, torch.float16)
CHANNELS = (16, 24, 32, 64)
"""Of a head: what our configs and the paper's have, and a number that is no power of two."""

_KERNELS = {"forward": "forward_kernel", "backward": "backward_kernel"}
_HEADS, _POINTS = 8, 4


@dataclass(frozen=True)
class NamedGpu:
    """All that compiling asks a driver; each architecture counts as a device of its own, with a cache of its own.

    Attributes:
        capability: such as 80 for sm_80.
    """

    capability: int

    def get_current_target(self) -> GPUTarget:
        """What to compile for."""
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        """The number that Triton keeps compiled kernels under."""
        return self.capability

    def get_current_stream(self, _device: int) -> int:
        """None is ever used."""
        return 0


@dataclass(frozen=True, eq=False)
class _Compiling:
    """In a kernel's place: its launches compile it, and what came of that is kept, errors too."""

    kernel: Any
    outcomes: list[Any]

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            try:
                self.outcomes.append(self.kernel.warmup(*arguments, grid=grid, **options))
            # Whatever a compiler may raise; the next kernel gets its turn.
            except Exception as error:
                self.outcomes.append(error)

        return launch


@contextmanager
def compiling(capability: int) -> Iterator[dict[str, list[Any]]]:
    """Launches in the block compile for sm_`capability` and launch nothing.

    Returns:
        For `forward` and `backward` a list that each launch adds to: Triton's compiled kernel, or the error.
    """
    outcomes: dict[str, list[Any]] = {direction: [] for direction in _KERNELS}
    stand_ins = {
        name: _Compiling(getattr(triton_backend, name), outcomes[direction]) for direction, name in _KERNELS.items()
    }
    with patch.object(driver, "_active", NamedGpu(capability)), patch.multiple(triton_backend, **stand_ins):
        yield outcomes


def attend(
    value_type: torch.dtype,
    channels: int,
    *,
    queries: int = 900,
    shapes: tuple[tuple[int, int], ...] = ((9, 11), (5, 6), (3, 3), (2, 2)),
) -> None:
    """Forward and backward pass of one layer's sampling, as training does them.

    Args:
        value_type: float32, bfloat16, float16 or float64.
        channels: of each of 8 heads.
        queries: of the one picture.
        shapes: (height, width) of the maps.
    """
    exact = torch.float64 if value_type == torch.float64 else torch.float32
    positions = sum(height * width for height, width in shapes)
    per_point = (1, queries, _HEADS, len(shapes), _POINTS)
    value = torch.zeros(1, positions, _HEADS, channels, dtype=value_type, requires_grad=True)
    locations, weights = torch.zeros(*per_point, 2, dtype=exact), torch.zeros(per_point, dtype=exact)
    sampled = deformable_attention(value, shapes, locations, weights, backend="triton")
    sampled.backward(torch.zeros_like(sampled))
