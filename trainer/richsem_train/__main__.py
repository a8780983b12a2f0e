"""Entry point of `richsem-train`: checks that its extra is installed before anything heavy is imported."""

from richsem_schemas.command_line import SCORING_AND_FIGURES, require_installed

_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    **SCORING_AND_FIGURES,
    "timm": "timm",
    "scipy": "scipy",
    "yaml": "pyyaml",
    "jinja2": "jinja2",
    "safetensors": "safetensors",
}


def main() -> None:
    """Run the command line."""
    require_installed("richsem-train", _NEEDED, extra="train")
    from richsem_train.cli import run

    run()


if __name__ == "__main__":
    main()
