"""JSON files of gigabytes, record by record: only the records under way are in memory.

The standard library's parser reads each record; what is added here is where one begins and ends. Unlike ijson it takes
NaN, which people's files hold, and costs 2 microseconds a record beside the parsing.

Records whose type is known are decoded by msgspec, thousands at once and the rest of them skipped, ten times as fast.
What it refuses (NaN, a value of another type) is left to the standard library's parser, so that the same is accepted,
and the same is said of what isn't.
"""

import codecs
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from richsem_schemas.errors import SourceError
from richsem_schemas.io.files import open_regular

BATCH = 4_096
"""Most records that are handed out at a time."""

_BATCH_CHARACTERS = 2**21
"""Fewer of them where they are long."""

MAX_RECORD = 2**28
"""Longest record, characters: one picture with all of its regions; a file must not fill the memory."""

_CHUNK = 2**20
_PIECE = 2**22
"""Characters of typed records that are decoded at once."""

_GUESSES = 1_000
"""Brackets at which a record may end that are looked at."""

_BETWEEN_RECORDS = re.compile(r"\}[ \t\r\n]*,(?=[ \t\r\n]*\{)")
_WIDE_BRACKET = re.compile(rb"[\[{]\0|\0{1,3}[\[{]")
_Decoder = msgspec.json.Decoder[list[Any]]
_OF_NUMBERS = "0123456789.eE+-"
_BLANK = " \t\r\n"
_NEAR_THE_END = 16
"""An error so near to the end of what was read may be one of a record cut there."""


class SingleValue(list[Any]):
    """A batch that is one value at the top level of a file, and no list there."""


def stream_json(
    path: Path,
    types: Mapping[str, type[msgspec.Struct] | type[msgspec.Raw]] | None = None,
    *,
    on_read: Callable[[int], object] = lambda _: None,
) -> Iterator[tuple[str, list[Any]]]:
    """Yield the records of each list at the top level of a JSON file, in batches.

    A file that is one list has the name "". Values at the top level that are no lists come as a `SingleValue` under
    their name followed by `!`, so that they are not taken for one.

    A batch of a list whose records have a type in `types` is either all of this type or as JSON has it; `msgspec.Raw`
    is a record's own bytes. `on_read` is told how many bytes have been read each time.

    Raises:
        OSError: it can't be read.
        IrregularFileError: it is a pipe or a device.
        SourceError: it is no JSON, cut short, or holds a key of its top level twice; batches before the damage have
            been handed out.
    """
    decoders: dict[str, _Decoder] = {
        name: msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        for name, kind in (types or {}).items()
    }
    with open_regular(path) as file:
        if _is_wide(file.peek(4)[:4]):
            raise SourceError(f"{path}: is UTF-16 or UTF-32, and JSON is read as UTF-8; save it as UTF-8")
        text = _JsonText(file, on_read)
        try:
            first = text.peek()
            if first == "[":
                yield from _batches("", text, None)
            elif first == "{":
                yield from _members(text, decoders)
            else:
                yield "!", SingleValue([text.value("its first value")])
            if text.peek():
                raise _ContentError(
                    "not a JSON file: more text follows after its end; is it JSON Lines, or several files in one? "
                    "A file holds one list or one object: join them into one"
                )
        except _ContentError as error:
            raise SourceError(f"{path}: {error}") from None
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{path}: not a JSON file ({error}); is it cut short, or still compressed? Download it again, or "
                "unpack it"
            ) from error


class _ContentError(ValueError):
    """The file is whole and can't be read as it is: to download it again or to unpack it wouldn't mend it."""


def _is_wide(start: bytes) -> bool:
    """Whether a file begins with the mark of UTF-16 or UTF-32, or with a bracket of theirs."""
    return start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or _WIDE_BRACKET.match(start) is not None


def _members(text: "_JsonText", decoders: Mapping[str, _Decoder]) -> Iterator[tuple[str, list[Any]]]:
    text.take("{")
    names: set[str] = set()
    while text.peek() != "}":
        name = text.value("a name")
        if not isinstance(name, str):
            raise ValueError(f"a name is expected, not {str(name)[:40]!r}")  # noqa: TRY004  # as other wrong JSON
        if name in names:
            raise _ContentError(f"it has {name[:40]!r} twice at its top level; keep one, or join them")
        names.add(name)
        text.take(":")
        if text.peek() == "[":
            yield from _batches(name, text, decoders.get(name))
        else:
            yield name + "!", SingleValue([text.value(f"`{name}`")])
        if text.peek() != "}":
            text.take(",")
    text.take("}")


def _batches(name: str, text: "_JsonText", decoder: _Decoder | None) -> Iterator[tuple[str, list[Any]]]:
    text.take("[")
    batch: list[Any] = []
    is_first, count = True, 0
    while text.peek() != "]":
        if decoder is not None and not batch and (typed := text.records(decoder)):
            yield name, typed
            is_first, count = False, count + len(typed)
            continue
        batch.append(text.value(f"{name}[{count}]"))
        count += 1
        if text.peek() != "]":
            text.take(",")
        if len(batch) == BATCH or text.done >= _BATCH_CHARACTERS:
            yield name, batch
            batch, is_first, text.done = [], False, 0
    text.take("]")
    if batch or is_first:
        yield name, batch


class _JsonText:
    """The text of a file from some position on, as much as is needed; `done` counts characters of values."""

    def __init__(self, file: BinaryIO, on_read: Callable[[int], object]) -> None:
        self._file = file
        self._on_read = on_read
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

    def records(self, decoder: _Decoder) -> list[Any]:
        """Decode the whole records that are at hand, up to one that another follows; empty where that can't be done.

        Where a record ends is guessed. A wrong guess, within a text or a record's own list, leaves brackets or quotes
        open and so isn't decoded.
        """
        while len(self._text) - self._at < _PIECE and self._read_more():
            pass
        between, end = None, len(self._text)
        for _ in range(_GUESSES):
            end = self._text.rfind("}", self._at, end)
            if end < 0 or (between := _BETWEEN_RECORDS.match(self._text, end)):
                break
        if between is None:
            return []
        try:
            found = decoder.decode(f"[{self._text[self._at : end + 1]}]")
        except (msgspec.DecodeError, RecursionError):
            return []
        self._at = between.end()
        return found

    def value(self, what: str) -> Any:
        """Parse the value that begins here, and is called `what` in messages."""
        self.peek()
        while True:
            try:
                value, end = self._parse(self._text, self._at)
            except json.JSONDecodeError as error:
                may_be_cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR_THE_END
                if not (may_be_cut and self._read_more()):
                    raise ValueError(f"{error.msg} in {what}") from None
                continue
            except ValueError:
                # The standard library's own bound, since such a number takes long to read.
                raise _ContentError(
                    f"{what} holds a number of more than {sys.get_int_max_str_digits():,} digits; no field holds it"
                ) from None
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
        self._on_read(len(data))
        self._is_whole = not data
        begin = self._file.tell() - len(data) - len(self._decoder.getstate()[0])
        try:
            self._text, self._at = rest + self._decoder.decode(data, final=self._is_whole), 0
        except UnicodeDecodeError as error:
            raise ValueError(f"no UTF-8 at byte {begin + error.start:,}") from None
        return True
