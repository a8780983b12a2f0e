"""Class names: those that `richsem-prep text` is given, what any source may call a class, and which look alike."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from richsem_schemas.annotations.json_stream import stream_json
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.cache.text_folder import MAX_CLASSES
from richsem_schemas.errors import SourceError
from richsem_schemas.io.words import JOINERS
from richsem_schemas.vocabularies.known import KNOWN_VOCABULARIES, known_vocabulary
from richsem_schemas.vocabularies.vocabulary import NONE_NAME, Vocabulary

MAX_NAME_CHARACTERS = 300
MAX_TEMPLATES = 1000
_MAX_LIST_BYTES = 64 * 2**20
_SHOWN = 5


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
    """The prompts that `--templates` asks for, with `{}` for the name.

    Args:
        templates: `openai`, `name-only`, or a file with one template a line.
        openai: the templates that the first stands for.

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
    """The vocabulary's name and class names of a plan, or of an annotation file."""
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
        _require_few(f"--names {path}", len(found))
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


def checked_names(where: str, found: Iterable[str], *, may_have_row_0: bool = False) -> tuple[str, ...]:
    """The names of classes with "none" before them, if they tell classes apart and can stand in prompts.

    Args:
        where: where they are from, for errors.
        found: in the order of their rows.
        may_have_row_0: whether "none" may be the first of them, as in a list that has row 0 already.

    Raises:
        SourceError: one can't name a class, is called "none", or stands twice; or there are too many.
    """
    names = [NONE_NAME]
    for number, name in enumerate(found):
        if name == NONE_NAME and may_have_row_0 and number == 0:
            continue
        if name == NONE_NAME:
            raise SourceError(f"{where}: a class is called {NONE_NAME!r}, as row 0 of every vocabulary is; rename it")
        if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not _is_printable(name):
            raise SourceError(
                f"{where}: {name[:80]!r} can't name a class; names have 1 to {MAX_NAME_CHARACTERS} printable "
                "characters: rename it"
            )
        names.append(name)
        _require_few(where, len(names))
    if len(names) == 1:
        raise SourceError(f"{where}: holds no names; give one a line")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        shown = ", ".join(map(repr, twice[:_SHOWN])) + (", …" if len(twice) > _SHOWN else "")
        raise SourceError(
            f"{where}: {shown} stand{'s' * (len(twice) == 1)} twice; classes are told apart by name: keep one of each"
        )
    return tuple(names)


def _is_printable(name: str) -> bool:
    return all(letter.isprintable() or letter in JOINERS for letter in name)


def alike_names(bank: TextBank) -> list[tuple[str, ...]]:
    """Names of classes that have one and the same text embedding, a group each, in the order of their rows.

    Case is nothing to CLIP's tokenizer, and of a prompt it reads 77 tokens. What it reads as one goes through the same
    batches to the same bytes.
    """
    groups: dict[bytes, list[str]] = {}
    for name, features_D in zip(bank.class_names, bank.features, strict=True):
        groups.setdefault(features_D.tobytes(), []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def alike_warning(bank: TextBank) -> str | None:
    """What to tell of classes that the teacher can't tell apart by their names; None where there are none."""
    groups = alike_names(bank)
    if not groups:
        return None
    shown = "; ".join(" = ".join(map(repr, names[:_SHOWN])) for names in groups[:_SHOWN])
    more = f"; and {len(groups) - _SHOWN:,} more" if len(groups) > _SHOWN else ""
    return (
        f"the teacher reads some class names as one, and these classes share what a soft label gives them evenly: "
        f"{shown}{more}. Rename or merge them if that isn't meant"
    )


def _require_few(where: str, count: int) -> None:
    if count > MAX_CLASSES:
        raise SourceError(f"{where}: more than {MAX_CLASSES:,} names; is it the right file?")
