"""TF32 on a processor that hasn't any: what is multiplied is rounded as a CUDA device would, the sums stay fp32.

    python benchmarks/simulated_tf32.py --config demo --seed 0 --out runs/tf32/demo-0

trains a config so; `--resume` goes on. For bf16 there is `richsem-train --set schedule.precision=bf16`, on a CPU too.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

_ATEN = torch.ops.aten
_PRODUCTS = {
    _ATEN.mm, _ATEN.addmm, _ATEN.bmm, _ATEN.baddbmm, _ATEN.convolution, _ATEN.convolution_backward,
    _ATEN._scaled_dot_product_flash_attention_for_cpu, _ATEN._scaled_dot_product_flash_attention_for_cpu_backward,
}  # fmt: skip
_ADDED = {_ATEN.addmm, _ATEN.baddbmm}
"""Whose first argument is no factor."""

_DROPPED_BITS = 13
"""Of float32's 23 bits of mantissa."""


class SimulatedTF32(TorchDispatchMode):
    """Rounds the factors of matrix products and convolutions, forward and backward, that are float32.

    Within attention, which is one operator on a CPU, the weights of the values stay as they are. A convolution's bias
    is rounded too, though it is added; that is less than the rounding of the sum's factors.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _PRODUCTS:
            kept = args[:1] if func.overloadpacket in _ADDED else ()
            args = (*kept, *tree_map_only(Tensor, rounded_to_tf32, tuple(args[len(kept) :])))
        return func(*args, **(kwargs or {}))


def rounded_to_tf32(values: Tensor) -> Tensor:
    """To the nearest number with 10 bits of mantissa, ties away from 0; other types as they are."""
    if values.dtype != torch.float32:
        return values
    bits = values.view(torch.int32)
    half, mask = 1 << (_DROPPED_BITS - 1), -1 << _DROPPED_BITS
    return ((bits + half) & mask).view(torch.float32).where(values.isfinite(), values)


def main(
    config: Annotated[str, typer.Option(help="Name or file of a config.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    seed: Annotated[int, typer.Option(help="Of the run.")] = 0,
    resume: Annotated[bool, typer.Option(help="Go on.")] = False,
) -> None:
    """Train and score a config under simulated TF32."""
    from richsem_train.config import load_config
    from richsem_train.run.training import train

    with SimulatedTF32():
        train(load_config(config, [f"seed={seed}"]), out, resume=resume, device="cpu")


if __name__ == "__main__":
    typer.run(main)
