"""The frame of the programs `richsem-prep` and `richsem-train`: errors in one line, versions, figures as JSON."""

import importlib.util
import io
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.text import Text

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.words import printable_text, told_in_one_line

_VERSIONS_TOLD = ("torch", "open_clip_torch", "ray")

SCORING_AND_FIGURES = {
    "hotcoco": "hotcoco",
    "matplotlib": "matplotlib",
    "manimgx_fonts": "manimgx-fonts",
    "manimgx_fonts_cjk": "manimgx-fonts-cjk",
}
"""What the rooms `scoring` and `figures` need, as `require_installed` takes it; the base install hasn't it."""


def require_installed(program: str, packages: Mapping[str, str], *, extra: str) -> None:
    """End the program where packages of its extra aren't installed, by the module that each brings."""
    missing = [package for module, package in packages.items() if importlib.util.find_spec(module) is None]
    if missing:
        sys.exit(f"{program} needs {', '.join(missing)}; install with: pip install 'richsem[{extra}]'")


def new_program(name: str, **settings: Any) -> typer.Typer:
    """A program without commands, that has completion for shells."""
    return typer.Typer(
        name=name,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["--help", "-h"]},
        **settings,
    )


def run_program(app: typer.Typer) -> None:
    """Run a program; mistakes of the user's are one line on standard error and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except (RichSemError, OSError) as error:
        told = Text.assemble(("error: ", "bold red"), printable_text(told_in_one_line(error)))
        Console(stderr=True).print(told, soft_wrap=True)
        sys.exit(1)


def _print_versions(is_asked: bool) -> None:
    if not is_asked:
        return
    typer.echo(f"richsem {metadata.version('richsem')}\nPython {platform.python_version()}")
    for package in _VERSIONS_TOLD:
        try:
            typer.echo(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_versions, is_eager=True, help="Name this version and those it runs on."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as JSON, and nothing else.")]


def print_json(content: object) -> None:
    """Print records, dataclasses and what they hold as JSON; numbers that aren't finite are null."""
    typer.echo(json.dumps(to_jsonable_python(content, inf_nan_mode="null"), indent=1))


def figures(record: Any) -> dict[str, Any]:
    """The fields of a dataclass and its properties."""
    kind = type(record)
    names = [field.name for field in fields(record)]
    names += [name for name, item in vars(kind).items() if isinstance(item, property)]
    return {name: getattr(record, name) for name in names}
