"""The lists that `richsem-prep text` is given: of class names by `--names`, of prompts by `--templates`."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from richsem_prep.sources.class_names import MAX_NAME_CHARACTERS, checked_names, require_few_classes
from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.errors import SourceError
from richsem_schemas.vocabularies.known import KNOWN_VOCABULARIES, known_vocabulary
from richsem_schemas.vocabularies.vocabulary import Vocabulary

MAX_TEMPLATES = 1000
_MAX_LIST_BYTES = 64 * 2**20


def read_vocabulary(names: str) -> Vocabulary:
    """The classes that `--names` asks for; row 0 is "none" in any case.

    Args:
        names: one of `KNOWN_VOCABULARIES`, or a file: one name a line; OpenImages' class descriptions (`.csv`); or
            JSON, which may be an annotation file with `categories`, taken by ascending id, or a cache's
            `plan/plan.json`. An annotation file is read piece by piece, whatever its size.

    Raises:
        SourceError: there is no such list or file, or a name can't be one.
    """
    if names in KNOWN_VOCABULARIES:
        return known_vocabulary(names)
    path = Path(names)
    if not path.is_file():
        raise SourceError(
            f"--names {names!r} is neither a file nor a known list; known: {', '.join(KNOWN_VOCABULARIES)}. A file "
            "has one name a line, or is an annotation file with `categories`, or a cache's plan/plan.json"
        )
    name = path.name
    try:
        if path.suffix == ".json":
            name, found = _from_json(path)
        elif path.suffix == ".csv":
            found = _from_descriptions(path)
        else:
            found = _from_lines(path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"--names {path}: can't be read as a list of names ({error})") from error
    return Vocabulary(name=name, class_names=checked_names(f"--names {path}", found, may_have_row_0=True))


def read_templates(templates: str, openai: tuple[str, ...]) -> tuple[str, ...]:
    """The prompts that `--templates` asks for, with `{}` for the name: `openai`, `name-only`, or a file of one a line.

    Raises:
        SourceError: there is no such file, or a line is no template.
    """
    if templates == "openai":
        return openai
    if templates == "name-only":
        return ("{}",)
    path = Path(templates)
    if not path.is_file():
        raise SourceError(
            f"--templates {templates!r} is neither openai nor name-only nor a file; a file has one template a line, "
            "such as: a photo of a {}."
        )
    try:
        lines = list(_from_lines(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"--templates {path}: can't be read ({error})") from error
    if not 0 < len(lines) <= MAX_TEMPLATES:
        raise SourceError(f"--templates {path}: holds {len(lines)} templates; give 1 to {MAX_TEMPLATES:,}, one a line")
    for line in lines:
        before, braces, after = line.partition("{}")
        if not braces or set("{}").intersection(before + after) or len(line) > MAX_NAME_CHARACTERS:
            raise SourceError(
                f"--templates {path}: {line[:80]!r} is no template; each has {{}} once, for the name, no other braces, "
                f"and at most {MAX_NAME_CHARACTERS} characters"
            )
    if twice := [line for line, count in Counter(lines).items() if count > 1]:
        raise SourceError(f"--templates {path}: {twice[0]!r} stands twice; give each once")
    return tuple(lines)


def _from_lines(path: Path) -> Iterator[str]:
    if (size := path.stat().st_size) > _MAX_LIST_BYTES:
        raise SourceError(f"{path}: {size:,} bytes are no list of names; at most {_MAX_LIST_BYTES:,} are read")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    return (line.strip() for line in lines if line.strip())


def _from_descriptions(path: Path) -> Iterator[str]:
    """OpenImages' `class-descriptions-boxable.csv`: a machine's name and one for people; some have a header."""
    rows = csv.reader(io.StringIO("\n".join(_from_lines(path))))
    for number, row in enumerate(rows, 1):
        if len(row) != 2:
            raise SourceError(f"--names {path}: line {number} is not LABEL,NAME; is it a list of class descriptions?")
        if row[0].startswith("/"):
            yield row[1]
        elif number > 1:
            raise SourceError(f"--names {path}: line {number}: {row[0][:80]!r} is no label such as /m/011k07")


def _from_json(path: Path) -> tuple[str, Iterable[str]]:
    found: dict[int, str] = {}
    for key, records in stream_json(path):
        if key == "vocabulary!" and isinstance(records[0], dict) and isinstance(records[0].get("class_names"), list):
            return str(records[0].get("name", path.name)), map(str, records[0]["class_names"])
        if key != "categories":
            continue
        for number, name in (_category(path, category) for category in records):
            if number in found:
                raise SourceError(f"--names {path}: category id {number} stands twice; which name is it?")
            found[number] = name
        require_few_classes(f"--names {path}", len(found))
    if not found:
        raise SourceError(f"--names {path}: no `categories` in it; give an annotation file, or one name a line as .txt")
    return path.name, (found[number] for number in sorted(found))


def _category(path: Path, category: Any) -> tuple[int, str]:
    try:
        number, name = category["id"], category["name"]
    except (KeyError, TypeError):
        number, name = None, None
    if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str):
        raise SourceError(f"--names {path}: a category is {str(category)[:80]}; each has a whole number `id`, a `name`")
    return number, name
