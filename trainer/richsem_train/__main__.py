"""Entry point of `richsem-train`: the trainer comes with the next release."""

import importlib.util
import sys

_NEEDED = {"torch": "torch", "torchvision": "torchvision", "lvis": "lvis"}


def main() -> None:
    """Say what is missing: the extra, or the trainer itself."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"richsem-train needs {', '.join(missing)}; install with: pip install 'richsem[train]'")
    sys.exit(
        "richsem-train comes with the next release; `richsem-prep` works today and makes the caches that it will stream"
    )


if __name__ == "__main__":
    main()
