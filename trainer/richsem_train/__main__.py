"""Entry point of `richsem-train`: checks that its extra is installed before anything heavy is imported."""

import importlib.util
import sys

_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "hotcoco": "hotcoco",
    "matplotlib": "matplotlib",
    "manimgx_fonts": "manimgx-fonts",
    "manimgx_fonts_cjk": "manimgx-fonts-cjk",
    "timm": "timm",
    "scipy": "scipy",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
}


def main() -> None:
    """Run the command line."""
    missing = [package for module, package in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"richsem-train needs {', '.join(missing)}; install with: pip install 'richsem[train]'")
    from richsem_train.cli import run

    run()


if __name__ == "__main__":
    main()
