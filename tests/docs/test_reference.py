"""The reference is that of today's code, and tells of commands and configs what a reader needs."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import BaseModel, ConfigDict, Field

from docs.reference import config_parts, pages, program_parts
from tests.docs.blocks import DOCS

PAGES = pages()


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_the_reference_is_that_of_the_code(path):
    written = (DOCS / path).read_text(encoding="utf-8")
    assert written == PAGES[path], f"docs/{path} is stale: run `python docs/reference.py` and commit what it writes"


app = typer.Typer(rich_markup_mode="rich")


@app.callback()
def main() -> None:
    """Cook."""


@app.command()
def boil(
    what: Annotated[Path, typer.Argument(metavar="POT", help="The pot.")],
    heat: Annotated[Literal["low", "high"], typer.Option(help="How hot.", rich_help_panel="Stove")] = "low",
    minutes: Annotated[int, typer.Option("--minutes", "-m", min=1, max=90, help="How long.")] = 3,
    salt: Annotated[str | None, typer.Option(metavar="KIND", help="a|b <c>. \\[default: the cook's own]")] = None,
    lid: Annotated[bool, typer.Option("--lid", help="See --heat.")] = False,
    secret: Annotated[int, typer.Option(hidden=True)] = 0,
) -> None:
    """Boil water.

    Until it
    boils.

    [bold]Examples[/bold]

      As eggs like it:
      richsem-cook boil pot
    """


def test_a_command_has_usage_help_examples_and_a_table_a_panel():
    parts = list(program_parts("richsem-cook", app))
    assert parts[parts.index("## `boil`") + 1 :] == [
        "```text\nrichsem-cook boil [OPTIONS] POT\n```",
        "Boil water.",
        "Until it boils.",
        "**Examples**",
        "```sh\n# As eggs like it:\nrichsem-cook boil pot\n```",
        "| Arguments | meaning | default |\n"
        "| --- | --- | --- |\n"
        "| `POT` | The pot. | required |",
        "| Stove | meaning | value | default |\n"
        "| --- | --- | --- | --- |\n"
        "| `--heat` | How hot. | `low`, `high` | `low` |",
        "| Options | meaning | value | default |\n"
        "| --- | --- | --- | --- |\n"
        "| `--minutes`, `-m` | How long. | whole number, 1 to 90 | `3` |\n"
        r"| `--salt` | a\|b \<c>. | `KIND` | the cook's own |" "\n"
        "| `--lid` | See `--heat`. |  |  |",
    ]  # fmt: skip


def test_commands_of_a_group_stand_under_both_names():
    group = typer.Typer(rich_markup_mode="rich", help="Prepare.")
    group.command("in-cubes")(boil)
    nested = typer.Typer(rich_markup_mode="rich")
    nested.callback()(main)
    nested.command()(boil)
    nested.add_typer(group, name="cut")
    parts = list(program_parts("richsem-cook", nested))
    rows = "| [`boil`](#boil) | Boil water. |\n| [`cut in-cubes`](#cut-in-cubes) | Boil water. |"
    assert f"| command |  |\n| --- | --- |\n{rows}" in parts
    assert parts[parts.index("## `cut in-cubes`") + 1] == "```text\nrichsem-cook cut in-cubes [OPTIONS] POT\n```"


class Spice(BaseModel):
    """What is added.

    Attributes:
        name: of the spice,
            in Latin.
    """

    name: str
    grams: Annotated[float, Field(gt=0, lt=10)] | None = None


class Recipe(BaseModel):
    """A dish."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    steps: tuple[int, ...] = (1, 2)
    """In their order."""

    size: Annotated[tuple[int, int], Field()] = (3, 4)
    spices: Spice | tuple[Spice, ...] | None = None


def test_a_config_has_a_table_a_section_with_types_defaults_and_docstrings():
    parts = list(config_parts(Recipe))
    assert parts[parts.index("### Of the whole run") :] == [
        "### Of the whole run",
        "| key | meaning | value | default |\n"
        "| --- | --- | --- | --- |\n"
        "| `steps` | In their order. | list of: whole number | `[1, 2]` |\n"
        "| `size` |  | 2 of: whole number | `[3, 4]` |",
        "### `spices`",
        "What is added.",
        "| key | meaning | value | default |\n"
        "| --- | --- | --- | --- |\n"
        "| `spices.name` | of the spice, in Latin. | text | required |\n"
        "| `spices.grams` |  | number above 0 below 10 or `null` | `null` |",
    ]  # fmt: skip
