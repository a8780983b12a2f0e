"""Entry point of `richsem-prep`: checks that its extra is installed before anything heavy is imported."""

from richsem_schemas.command_line import SCORING_AND_FIGURES, require_installed

_NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    **SCORING_AND_FIGURES,
    "open_clip": "open_clip_torch",
    "ray": "ray",
}


def main() -> None:
    """Run the command line."""
    require_installed("richsem-prep", _NEEDED, extra="prep")
    from richsem_prep.cli import run

    run()


if __name__ == "__main__":
    main()
