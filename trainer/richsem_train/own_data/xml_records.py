"""XML of anybody's, record by record: elements below the root, without document types, and so without entities."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from richsem_schemas.errors import IrregularFileError, SourceError
from richsem_schemas.io.files import open_regular

_CHUNK = 2**20
_MAX_ELEMENTS = 1_000_000
"""Of one record, each with its attributes."""

_MAX_DEPTH = 32
_MAX_TEXT = 2**24
"""Characters of one record."""


@dataclass(slots=True)
class Element:
    """An element with what is in it."""

    tag: str
    attributes: dict[str, str]
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def first(self, *tags: str) -> "Element | None":
        """The first child of a tag, and its first of the next tag, and so on."""
        found: Element | None = self
        for tag in tags:
            found = next((child for child in found.children if child.tag == tag), None) if found else None
        return found

    def words(self, *tags: str) -> str | None:
        """The text that `first` has; None where there is no such element or no text."""
        found = self.first(*tags)
        return (found.text.strip() or None) if found else None

    def all(self, tag: str) -> list["Element"]:
        """The children of a tag."""
        return [child for child in self.children if child.tag == tag]


def stream_xml(path: Path, root: str, *, on_read: Callable[[int], object] = lambda _: None) -> Iterator[Element]:
    """Yield the elements right below the root, which must be of a certain tag, as they are read.

    `on_read` is told how many bytes have been read each time.

    Raises:
        SourceError: it can't be read, is no XML, is of another kind, has a document type, or a record without end.
    """
    reader = _Reader(root)
    try:
        with open_regular(path) as file:
            while data := file.read(_CHUNK):
                on_read(len(data))
                yield from reader.feed(data, is_last=False)
            yield from reader.feed(b"", is_last=True)
    except IrregularFileError as error:
        raise SourceError(str(error)) from None
    except OSError as error:
        raise SourceError(f"{path}: can't be read ({error.strerror or error})") from None
    except (expat.ExpatError, _RefusedError, LookupError, ValueError) as error:
        raise SourceError(f"{path}: {error}; export it anew") from None


def root_tag(head: bytes) -> str | None:
    """The tag of the first element in the first bytes of a file, and nothing further; None where they are no XML."""
    parser = expat.ParserCreate()
    parser.StartElementHandler = _stop_at_element
    try:
        parser.Parse(head, False)
    except _FirstElement as first:
        return str(first)
    except (expat.ExpatError, LookupError, ValueError):
        pass
    return None


class _FirstElement(Exception):  # noqa: N818 - no error
    """Ends parsing."""


def _stop_at_element(tag: str, _: dict[str, str]) -> None:
    raise _FirstElement(tag)


class _RefusedError(ValueError):
    """XML that is whole and isn't read."""


def _refuse_document_type(*_: object) -> None:
    raise _RefusedError("has a document type, which can define entities that grow without end; take <!DOCTYPE> out")


class _Reader:
    def __init__(self, root: str) -> None:
        self._root = root
        self._open: list[Element] = []
        self._done: list[Element] = []
        self._elements = self._characters = 0
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = _refuse_document_type

    def feed(self, data: bytes, *, is_last: bool) -> list[Element]:
        self._parser.Parse(data, is_last)
        done, self._done = self._done, []
        return done

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self._open and tag != self._root:
            raise _RefusedError(f"its root is <{tag[:40]}>, and <{self._root}> is expected")
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or len(self._open) >= _MAX_DEPTH:
            raise _RefusedError(f"a record of more than {_MAX_ELEMENTS:,} elements, or {_MAX_DEPTH} within each other")
        element = Element(tag, attributes)
        if len(self._open) > 1:
            self._open[-1].children.append(element)
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        if len(self._open) == 1:
            self._done.append(element)
            self._elements = self._characters = 0

    def _text(self, text: str) -> None:
        self._characters += len(text)
        if self._characters > _MAX_TEXT:
            raise _RefusedError(f"a record of more than {_MAX_TEXT:,} characters")
        if len(self._open) > 1:
            self._open[-1].text += text
