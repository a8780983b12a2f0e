"""JSON files of gigabytes, record by record: only the records under way are in memory.

The standard library's parser reads each record; what is added here is where one begins and ends. Unlike ijson it takes
NaN, which people's files hold, and costs 2 microseconds a record beside the parsing.
"""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from richsem_schemas.errors import SourceError

BATCH = 4_096
"""Most records that are handed out at a time."""

_BATCH_CHARACTERS = 2**21
"""Fewer of them where they are long."""

MAX_RECORD = 2**28
"""Longest record, characters: one picture with all of its regions; a file must not fill the memory."""

_CHUNK = 2**20
_OF_NUMBERS = "0123456789.eE+-"
_BLANK = " \t\r\n"
_NEAR_THE_END = 16
"""An error so near to the end of what was read may be one of a record cut there."""


def stream_json(path: Path) -> Iterator[tuple[str, list[Any]]]:
    """Yield the records of each list at the top level of a JSON file, in batches.

    A file that is one list has the name "". Values at the top level that are no lists come as a batch of one under
    their name followed by `!`, so that they are not taken for one.

    Raises:
        OSError: it can't be read.
        SourceError: it is no JSON, or cut short; batches before the damage have been handed out.
    """
    with path.open("rb") as file:
        text = _Text(file)
        try:
            first = text.peek()
            if first == "[":
                yield from _batches("", text)
            elif first == "{":
                yield from _members(text)
            else:
                yield "!", [text.value()]
            if text.peek():
                raise ValueError("something follows its end")
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{path}: not a JSON file ({error}); is it cut short, or still compressed? Download it again, or "
                "unpack it"
            ) from error


def _members(text: "_Text") -> Iterator[tuple[str, list[Any]]]:
    text.take("{")
    while text.peek() != "}":
        name = text.value()
        if not isinstance(name, str):
            raise ValueError(f"a name is expected, not {str(name)[:40]!r}")  # noqa: TRY004  # as other wrong JSON
        text.take(":")
        if text.peek() == "[":
            yield from _batches(name, text)
        else:
            yield name + "!", [text.value()]
        if text.peek() != "}":
            text.take(",")
    text.take("}")


def _batches(name: str, text: "_Text") -> Iterator[tuple[str, list[Any]]]:
    text.take("[")
    batch: list[Any] = []
    is_first = True
    while text.peek() != "]":
        batch.append(text.value())
        if text.peek() != "]":
            text.take(",")
        if len(batch) == BATCH or text.done >= _BATCH_CHARACTERS:
            yield name, batch
            batch, is_first, text.done = [], False, 0
    text.take("]")
    if batch or is_first:
        yield name, batch


class _Text:
    """The text of a file from some position on, as much as is needed; `done` counts characters of values."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0
        self.done = 0
        self._is_whole = False

    def peek(self) -> str:
        """The next character that is no blank; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                letter = self._text[self._at]
                if letter not in _BLANK:
                    return letter
                self._at += 1
            if not self._read_more():
                return ""

    def take(self, expected: str) -> None:
        """Skip one character that must stand here."""
        found = self.peek()
        if found != expected:
            raise ValueError(f"{expected!r} is expected, {f'not {found!r}' if found else 'but the file ends'}")
        self._at += 1

    def value(self) -> Any:
        """Parse the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                may_be_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_THE_END
                if not (may_be_cut and self._read_more()):
                    raise
                continue
            # A number may go on where the text ends: 2 may be 2.5, and so may `2.`.
            if self._text[end : end + _NEAR_THE_END].lstrip(_OF_NUMBERS) or not self._read_more():
                self.done += end - self._at
                self._at = end
                return value

    def _read_more(self) -> bool:
        """Drop what is done and read on, twice as much as was in vain; False at the end of the file."""
        if self._is_whole:
            return False
        rest = self._text[self._at :]
        if len(rest) > MAX_RECORD:
            raise ValueError(f"a record of more than {MAX_RECORD:,} characters")
        data = self._file.read(max(_CHUNK, len(rest)))
        self._is_whole = not data
        self._text, self._at = rest + self._decoder.decode(data, final=self._is_whole), 0
        return True
