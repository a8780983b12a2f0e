"""Write what the code tells: options of commands into `commands/`, keys of configs into `configs.md`.

What stands above the mark in a page is written by hand and stays. After a change of options, of their help or of
config keys:

    .venv/bin/python docs/reference.py
"""

import inspect
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

from richsem_prep.cli import app as prep
from richsem_train.cli import app as train
from richsem_train.config import TrainConfig

Schema = dict[str, Any]
"""JSON schema of a model or of a value."""

DOCS = Path(__file__).parent
MARK = "<!-- All below is written by docs/reference.py. -->"

_COMMANDS = ("richsem-", "torchrun ")
"""What a line of an example begins with; others say what the next one does."""

_TYPES = {
    "str": "text",
    "string": "text",
    "path": "path",
    "int": "whole number",
    "integer": "whole number",
    "float": "number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
}

_LARGE = 1_000_000
"""Upper bounds from here on keep numbers in their types and tell a reader nothing."""


def pages() -> dict[Path, str]:
    """The content of every page with a generated part, by its path below `docs/`."""
    generated = {
        Path("commands/richsem-prep.md"): program_parts("richsem-prep", prep),
        Path("commands/richsem-train.md"): program_parts("richsem-train", train),
        Path("configs.md"): config_parts(TrainConfig),
    }
    return {path: "\n\n".join([by_hand(path), MARK, *parts]) + "\n" for path, parts in generated.items()}


def by_hand(path: Path) -> str:
    """What stands above the mark."""
    above, mark, _ = (DOCS / path).read_text(encoding="utf-8").partition(MARK)
    assert mark, f"{path} has no line {MARK}"
    return above.rstrip()


def program_parts(program: str, app: typer.Typer) -> Iterator[str]:
    """A program: its help and its own options, then a section for each command."""
    group: Any = typer.main.get_command(app)
    commands = {name: command for name, command in commands_of(group) if not command.hidden}
    yield from command_parts(group, program)
    yield "## Commands"
    yield table(
        ["command", ""],
        (
            [f"[`{name}`](#{name.replace(' ', '-')})", prose(first_paragraph(command.help))]
            for name, command in commands.items()
        ),
    )
    for name, command in commands.items():
        yield f"## `{name}`"
        yield from command_parts(command, f"{program} {name}")


def commands_of(group: Any) -> Iterator[tuple[str, Any]]:
    """The commands of a program with their names, those of a group within it with the group's before theirs."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {inner}", each) for inner, each in commands_of(command))
        else:
            yield name, command


def command_parts(command: Any, path: str) -> Iterator[str]:
    """Usage, help with its examples, and a table for each panel of options."""
    # Nothing is parsed, required or run.
    context = command.make_context(path, [], resilient_parsing=True)
    # Typer puts braces around what is required.
    pieces = [re.sub(r"^{(.+)}(\.{3})?$", r"\1\2", piece) for piece in command.collect_usage_pieces(context)]
    yield f"```text\n{' '.join([path, *pieces])}\n```"
    yield from help_parts(inspect.cleandoc(command.help or ""))
    panels: dict[str, list[list[str]]] = {}
    for parameter in command.get_params(context):
        if not parameter.hidden and "--help" not in parameter.opts:
            panels.setdefault(panel(parameter), []).append(parameter_row(parameter, context))
    for title, rows in panels.items():
        yield table([title, "meaning", "value", "default"], rows)


def help_parts(text: str) -> Iterator[str]:
    """Paragraphs as prose; indented ones, which are examples, as one block of commands."""
    example: list[str] = []
    for paragraph in re.split(r"\n\n+", text):
        if all(line.startswith("  ") for line in paragraph.splitlines()):
            example.append("\n".join(example_line(line.strip()) for line in paragraph.splitlines()))
            continue
        yield from code_block(example)
        example = []
        yield prose(paragraph)
    yield from code_block(example)


def code_block(example: list[str]) -> Iterator[str]:
    """The paragraphs of an example in one fence; nothing where there are none."""
    if example:
        yield "```sh\n" + "\n\n".join(example) + "\n```"


def example_line(line: str) -> str:
    """A command, or a comment on the next one."""
    return line if line.startswith(_COMMANDS) else f"# {line}"


def panel(parameter: Any) -> str:
    """The heading that `--help` shows a parameter under."""
    kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
    return parameter.rich_help_panel or kind


def parameter_row(parameter: Any, context: Any) -> list[str]:
    """Names, meaning, value and default of an option or argument."""
    is_argument = parameter.param_type_name == "argument"
    is_flag = getattr(parameter, "is_flag", False)
    names = [parameter.metavar or parameter.name] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    help_text, default = split_default(parameter.help or "")
    if default is None and parameter.required:
        default = "required"
    elif default is None and parameter.default is not None and not is_flag:
        default = code(parameter.default)
    value = "" if is_argument or is_flag else option_value(parameter, context)
    return [", ".join(code(name) for name in names), prose(help_text), value, default or ""]


def option_value(parameter: Any, context: Any) -> str:
    """What an option takes: its metavar, its choices, or its type with bounds."""
    if parameter.metavar:
        return code(parameter.metavar)
    kind = parameter.display_type(context).strip("<>").removesuffix(" range")
    if kind in _TYPES:
        return _TYPES[kind] + bounds(getattr(parameter, "min", None), getattr(parameter, "max", None))
    return ", ".join(code(choice) for choice in kind.split("|"))


def split_default(text: str) -> tuple[str, str | None]:
    r"""A help text, and what its closing `\[default: ...]` says."""
    found = re.search(r"\s*\\?\[default: (.+)\]$", text)
    if not found:
        return text, None
    return text[: found.start()], prose(found[1]) if " " in found[1] else code(found[1])


def config_parts(model: type[BaseModel]) -> Iterator[str]:
    """The package's configs, then every key with its value, its default and its meaning, a table a section."""
    schema = model.model_json_schema()
    # Places are models to read and text to write; sections are models both times.
    written = model.model_json_schema(mode="serialization")["$defs"]
    models = {name: content for name, content in schema["$defs"].items() if name in written}
    yield "## Configs of the package"
    yield table(["config", ""], package_configs())
    yield "## Every key"
    seen: set[str] = set()
    for path, section in sections("", schema, models):
        # What several forms of a section have in them is shown once.
        if path in seen and not form(section):
            continue
        seen.add(path)
        summary, documented = split_docstring(section.get("description", ""))
        rows = [
            [
                code(f"{path}.{key}" if path else key),
                prose(value.get("description") or documented.get(key, "")),
                value_type(value),
                config_default(value),
            ]
            for key, value in section["properties"].items()
            if not section_names(value, models)
        ]
        yield f"### `{path}`{form(section)}" if path else "### Of the whole run"
        if path:
            yield prose(summary)
        if rows:
            yield table(["key", "meaning", "value", "default"], rows)


def package_configs() -> Iterator[list[str]]:
    """The configs that come with the trainer, each with the comment that it begins with."""
    for path in sorted(resources.files("richsem_train").joinpath("configs").iterdir(), key=lambda path: path.name):
        lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
        yield [code(path.name.removesuffix(".yaml")), prose(" ".join(line.lstrip("# ") for line in lines))]


def sections(path: str, section: Schema, models: Schema) -> Iterator[tuple[str, Schema]]:
    """A section and those within it, each with the dots that lead to it."""
    yield path, section
    for key, value in section["properties"].items():
        for name in section_names(value, models):
            yield from sections(f"{path}.{key}" if path else key, models[name], models)


def form(section: Schema) -> str:
    """Of a section that has several forms, the value that tells this one, as the end of a heading."""
    told = [
        f" with `{key}: {value['const']}`"
        for key in ("detector", "kind")
        if "const" in (value := section["properties"].get(key, {}))
    ]
    return told[0] if told else ""


def section_names(value: Schema, models: Schema) -> list[str]:
    """The sections that a key may hold, each once."""
    if "$ref" in value:
        return [name for name in models if value["$ref"].endswith(f"/{name}")]
    inner = [*value.get("anyOf", []), *value.get("oneOf", [])]
    if "items" in value:
        inner.append(value["items"])
    return list(dict.fromkeys(name for part in inner for name in section_names(part, models)))


def value_type(value: Schema) -> str:
    """What a key takes, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(value_type(part) for part in value["anyOf"]))
    if "const" in value:
        return code(value["const"])
    if "enum" in value:
        return ", ".join(code(choice) for choice in value["enum"])
    kind = value.get("type", "URL")
    if "prefixItems" in value:
        return f"{len(value['prefixItems'])} of: {value_type(value['prefixItems'][0])}"
    if kind == "array":
        return f"list of: {value_type(value['items'])}"
    above, below = value.get("exclusiveMinimum"), value.get("exclusiveMaximum", _LARGE)
    return (
        _TYPES.get(value.get("format", kind), kind)
        + (f" above {above:g}" if above is not None else "")
        + (f" below {below:g}" if below < _LARGE else "")
        + bounds(value.get("minimum"), value.get("maximum"))
    )


def bounds(low: float | None, high: float | None) -> str:
    """The range of a number, in words behind its kind."""
    if high is None or high >= _LARGE:
        return "" if low is None else f", at least {low:g}"
    return f", at most {high:,g}" if low is None else f", {low:g} to {high:,g}"


def config_default(value: Schema) -> str:
    """A default as YAML has it."""
    return code(json.dumps(value["default"], ensure_ascii=False)) if "default" in value else "required"


def split_docstring(text: str) -> tuple[str, dict[str, str]]:
    """The summary of a docstring, and what its section `Attributes` says of each."""
    summary, _, attributes = text.partition("\n\nAttributes:\n")
    entries = re.findall(r"^    (\w+): (.+?)(?=^    \w|\Z)", attributes, re.MULTILINE | re.DOTALL)
    return summary, {name: " ".join(told.split()) for name, told in entries}


def first_paragraph(text: str | None) -> str:
    """The summary of a command's help."""
    return inspect.cleandoc(text or "").partition("\n\n")[0]


def prose(text: str) -> str:
    """Help text, which is rich's markup, as Markdown on one line; options of commands as code."""
    text = " ".join(text.replace("\\[", "[").split())
    text = re.sub(r"\[/?bold\]", "**", text)
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else plain(piece) for piece in pieces)


def plain(text: str) -> str:
    """Text without code: what Markdown or HTML would take for its own is escaped."""
    text = re.sub(r"([<|\[\]])|(?<!\*)\*(?!\*)", lambda found: f"\\{found[0]}", text)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


def code(text: object) -> str:
    """Text as code in a table."""
    return f"`{text}`".replace("|", "\\|")


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table, without columns that no row has anything in."""
    filled = list(rows)
    columns = [column for column in range(len(head)) if any(row[column] for row in filled)]
    lines = [head, ["---"] * len(head), *filled]
    return "\n".join(f"| {' | '.join(cells[column] for column in columns)} |" for cells in lines)


def main() -> None:
    """Write all pages."""
    for path, content in pages().items():
        (DOCS / path).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
