"""What the machine is and what it can do at most: versions, memory bandwidth, matrix products, copies to the device."""

import importlib
import subprocess
from typing import Any

import torch
from common import machine
from figures import DEVICE, SMOKE, Figures, milliseconds

PACKAGES = (
    "triton", "torchvision", "open_clip", "timm", "webdataset", "pyarrow", "pydantic", "hotcoco", "lvis", "pycocotools",
    "transformers", "scipy", "numpy", "PIL", "ray", "deformops",
)  # fmt: skip


def versions() -> dict[str, str | None]:
    """Of what may be installed; None is absent."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = str(getattr(importlib.import_module(name), "__version__", "of no version"))
        except ImportError:
            found[name] = None
    return found


def device() -> dict[str, Any]:
    if DEVICE.type != "cuda":
        return {"name": "cpu"}
    free, total = torch.cuda.mem_get_info()
    return {
        "name": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "cuda": torch.version.cuda,
        "free_GiB": free / 2**30,
        "total_GiB": total / 2**30,
    }


def compiler() -> str:
    """Triton needs one for its launchers."""
    return subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def copy() -> dict[str, float]:
    source = torch.empty(2**20 if SMOKE else 2**30, device=DEVICE)
    target = torch.empty_like(source)
    # Each byte is read and written.
    return {"TB_s": 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e9}


def product(precision: str) -> dict[str, float]:
    side = 256 if SMOKE else 8192
    factor = torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        return {"TFLOP_s": 2 * side**3 / milliseconds(lambda: factor @ factor) / 1e9}
    finally:
        torch.set_float32_matmul_precision("highest")


def to_device(*, pinned: bool) -> dict[str, float]:
    """A batch of pictures on its way."""
    pixels = torch.empty(49 * 2**20, dtype=torch.uint8, pin_memory=pinned and not SMOKE)
    return {"GB_s": pixels.nbytes / milliseconds(lambda: pixels.to(DEVICE, non_blocking=True)) / 1e6}


def main() -> None:
    figures = Figures("environment")
    figures.measure("machine", machine)
    figures.measure("versions", versions)
    figures.measure("device", device)
    figures.measure("compiler", compiler)
    figures.measure("copy", copy)
    for precision in ("bf16", "fp32", "tf32"):
        figures.measure(f"product {precision}", lambda precision=precision: product(precision))
    figures.measure("to device, pinned", lambda: to_device(pinned=True))
    figures.measure("to device, pageable", lambda: to_device(pinned=False))


if __name__ == "__main__":
    main()
