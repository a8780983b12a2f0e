"""Entry point of `richsem-prep`: checks that its extra is installed before anything heavy is imported."""

import importlib.util
import sys

_NEEDED = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch", "ray": "ray"}


def main() -> None:
    """Run the command line."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"richsem-prep needs {', '.join(missing)}; install with: pip install 'richsem[prep]'")
    from richsem_prep.cli import run

    run()


if __name__ == "__main__":
    main()
