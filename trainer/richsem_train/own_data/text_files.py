"""Small text files of anybody's: bounded, UTF-8, told by name where they are something else."""

from pathlib import Path

from richsem_schemas.errors import IrregularFileError, SourceError
from richsem_schemas.io.files import open_regular

MAX_TEXT_BYTES = 64 * 2**20
"""Of a label file, a list or a table of names."""


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
        SourceError: it can't be read, is too long, or no UTF-8.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except IrregularFileError as error:
        raise SourceError(str(error)) from None
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror or error})") from None
    if len(data) > MAX_TEXT_BYTES:
        raise SourceError(f"{path}: more than {MAX_TEXT_BYTES:,} bytes are no labels or names; is it the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: no UTF-8 at byte {error.start:,}; save it as UTF-8") from None
