"""Options of commands made of a model's fields: how they parse, what they default to, what is said of wrong ones."""

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, BeforeValidator, Field, PositiveInt, model_validator
from typer.testing import CliRunner

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import PlaceField
from richsem_schemas.options import from_options, with_options_of_models


def as_range(value):
    return tuple(value.split(":")) if isinstance(value, str) else value


class Job(BaseModel, frozen=True, extra="forbid"):
    name: Annotated[str, typer.Option(help="Required.")]
    out: Annotated[PlaceField, typer.Option(help="Filled in.")] = Field(default_factory=lambda: Path("made"))
    kind: Annotated[Literal["fast", "fine", "slow"], typer.Option(help="One of.", rich_help_panel="Panel")] = "fast"
    count: Annotated[PositiveInt, typer.Option(help="Of things.")] = 3
    size: Annotated[Annotated[int, Field(ge=32)] | None, typer.Option(help="Perhaps.")] = None
    ratio: Annotated[float, Field(le=1), typer.Option(help="A number.")] = 0.5
    source: Annotated[str | None, typer.Option("--from", help="Named otherwise.")] = None
    force: Annotated[bool, typer.Option("--force", help="A flag.")] = False
    public: Annotated[bool, typer.Option("--public/--private", help="A flag with two names.")] = True
    span: Annotated[
        tuple[int, PositiveInt] | None, BeforeValidator(as_range), typer.Option(metavar="A:B", help="Parsed.")
    ] = None

    @model_validator(mode="after")
    def _fits_together(self):
        if self.force and self.public:
            raise ValueError("--force needs --private")
        return self


DEFAULTS = Job(name="x").model_dump(exclude={"name"})


def program(without=()) -> tuple[typer.Typer, list[Any]]:
    """A program of one command, and what that command was called with."""
    app, calls = typer.Typer(rich_markup_mode=None), []

    @app.command()
    @partial(with_options_of_models, without=without)
    def command(
        place: Annotated[str, typer.Argument(metavar="PLACE")],
        job: Job,
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        """Do a job."""
        calls.append((place, job, loud))

    return app, calls


def call(*arguments):
    app, calls = program()
    result = CliRunner().invoke(app, arguments)
    if isinstance(result.exception, RichSemError):
        raise result.exception
    return result, calls


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ([], {}),
        (["--out", "memory://b/c"], {"out": "memory://b/c"}),
        (["--kind", "slow", "--count", "7", "--ratio", "0.25"], {"kind": "slow", "count": 7, "ratio": 0.25}),
        (["--size", "32", "--from", "there"], {"size": 32, "source": "there"}),
        (["--private", "--force"], {"public": False, "force": True}),
        (["--span", "2:5"], {"span": (2, 5)}),
    ],
)
def test_what_is_typed_becomes_the_model_and_what_is_not_its_defaults(arguments, changes):
    result, calls = call("there", "--name", "x", *arguments)
    assert result.exit_code == 0, result.output
    [(place, job, loud)] = calls
    assert (place, loud) == ("there", False)
    assert job.model_dump(exclude={"name"}) == DEFAULTS | changes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "--count 0: Input should be greater than 0"),
        (["--size", "31"], "--size 31: Input should be greater than or equal to 32"),
        (["--kind", "quick"], "--kind 'quick': Input should be 'fast', 'fine' or 'slow'"),
        (["--span", "1:0"], "--span '0': Input should be greater than 0"),
        (["--force"], "--force needs --private"),
        (["--count", "0", "--ratio", "2"], "--count 0: .* 0; --ratio 2.0: .* 1"),
        (["--kind", "x" * 200], f"--kind '{'x' * 79}…: Input should"),
    ],
)
def test_a_value_that_the_model_refuses_is_one_line_with_the_options_name(arguments, message):
    with pytest.raises(RichSemError, match=f"^{message}"):
        call("there", "--name", "x", *arguments)


@pytest.mark.parametrize(
    "arguments", [["--name"], [], ["--name", "x", "--count", "many"], ["--name", "x", "--no-force"]]
)
def test_what_cannot_be_parsed_is_refused_by_typer(arguments):
    result, calls = call("there", *arguments)
    assert result.exit_code == 2
    assert not calls


def test_help_has_each_option_with_its_default():
    app, _ = program()
    help_text = CliRunner().invoke(app, ["--help"]).output
    # How a type is written differs between versions of typer.
    shown = " ".join(re.sub(r"<\w+>|TEXT|INTEGER", "", help_text).split())
    for words in (
        "--name Required. [required]", "--kind One of. [default: fast]", "--span A:B Parsed.", "--public / --private",
        "--count Of things. [default: 3]", "--from Named otherwise.",
    ):  # fmt: skip
        assert words in shown, shown
    assert "--out Filled in. [" not in shown


def test_a_field_that_a_command_leaves_out_is_no_option_of_it():
    app, calls = program(without={"size"})
    assert CliRunner().invoke(app, ["there", "--name", "x", "--size", "40"]).exit_code == 2
    assert CliRunner().invoke(app, ["there", "--name", "x"]).exit_code == 0
    assert calls[0][1].size is None


def test_choices_are_offered_to_a_shell_that_completes():
    app, _ = program()
    [option] = [parameter for parameter in typer.main.get_command(app).params if parameter.name == "kind"]
    offered = option.shell_complete(typer.Context(typer.main.get_command(app)), "f")
    assert [item.value for item in offered] == ["fast", "fine"]


def test_from_python_none_is_what_was_not_given():
    assert from_options(Job, {"name": "x", "count": None, "size": None}) == Job(name="x")
