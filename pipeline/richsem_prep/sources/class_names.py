"""The rules for names of classes."""

from collections import Counter
from collections.abc import Iterable

from richsem_schemas.cache.text_folder import MAX_CLASSES
from richsem_schemas.errors import SourceError
from richsem_schemas.io.words import JOINERS
from richsem_schemas.vocabularies.vocabulary import NONE_NAME

MAX_NAME_CHARACTERS = 300
_SHOWN = 5


def checked_names(where: str, found: Iterable[str], *, may_have_row_0: bool = False) -> tuple[str, ...]:
    """The names of classes with "none" before them, if they tell classes apart and can stand in prompts.

    The first of a list that has row 0 already may be "none". `where` they are from is for errors.

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
        require_few_classes(where, len(names))
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


def require_few_classes(where: str, count: int) -> None:
    """Check that a list of classes has a length that a text bank may have.

    Raises:
        SourceError: it is longer.
    """
    if count > MAX_CLASSES:
        raise SourceError(f"{where}: more than {MAX_CLASSES:,} names; is it the right file?")
