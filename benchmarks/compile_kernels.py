"""Which kernels of deformable attention the Triton on the path compiles, and what each takes of a GPU; needs none.

    python benchmarks/compile_kernels.py --json benchmarks/results/compile_kernels.json
    PYTHONPATH=triton-3.6.0 python benchmarks/compile_kernels.py --json benchmarks/results/compile_kernels.json

The second line is for another Triton than the installed one, from `pip install --no-deps --target triton-3.6.0
triton==3.6.0`; the file keeps what it has of other versions. All is compiled anew, ahead of time. Registers of a
thread, shared memory of a program and the bytes that a thread spills to memory are what the machine code says of
itself, by the `cuobjdump` that Triton brings.
"""

import json as json_text
import os
import re
import subprocess
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import triton
import typer
from ahead_of_time import CAPABILITIES, CHANNELS, VALUE_TYPES, attend, compiling
from common import save
from rich.console import Console
from rich.table import Table


def main(json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None) -> None:
    """Compile everything once."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        figures = {
            f"sm_{capability} {str(value_type).removeprefix('torch.')} {channels} channels {direction}": outcome
            for capability, value_type, channels in product(CAPABILITIES, VALUE_TYPES, CHANNELS)
            for direction, outcome in both_directions(capability, value_type, channels).items()
        }
    Console(width=120).print(table(figures))
    if json is not None:
        before = json_text.loads(json.read_text())["tritons"] if json.is_file() else {}
        tritons = dict(sorted((before | {triton.__version__: figures}).items()))
        save("compile-kernels", {"compiled": "ahead of time, without a GPU", "tritons": tritons}, json)


def both_directions(capability: int, value_type: torch.dtype, channels: int) -> dict[str, dict[str, Any]]:
    """What compiling `forward` and `backward` gave: registers and bytes, or the error's first line."""
    with compiling(capability) as outcomes:
        attend(value_type, channels)
    return {direction: usage_or_error(outcome) for direction, (outcome,) in outcomes.items()}


def usage_or_error(outcome: Any) -> dict[str, Any]:
    if isinstance(outcome, Exception):
        return {"error": f"{type(outcome).__name__}: {outcome}".splitlines()[0]}
    return usage(outcome)


def usage(kernel: Any) -> dict[str, int]:
    """Registers, shared memory and spilled bytes of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    counted = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", said))
    return {
        "registers": int(counted["REG"]),
        "shared_bytes": kernel.metadata.shared,
        "spilled_bytes": int(counted["STACK"]) + int(counted["LOCAL"]),
    }


def table(figures: dict[str, dict[str, Any]]) -> Table:
    """For eyes."""
    shown = Table("kernel", "registers", "shared bytes", "spilled bytes", title=f"Triton {triton.__version__}")
    for kernel, outcome in figures.items():
        shown.add_row(kernel, *([outcome["error"]] if "error" in outcome else map(str, outcome.values())))
    return shown


if __name__ == "__main__":
    typer.run(main)
