"""Where the members of a plain tar lie, so that pictures are read in place.

The standard library's `tarfile` gives the same answers (the tests hold it as the reference) but takes twice as long a
member, ends silently where an archive is cut at a header or damaged, and in older Pythons loops forever on a negative
size; here all of these are errors.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import OpenFile, read_at, size_of
from richsem_schemas.io.words import printable

_BLOCK = 512
_END = bytes(_BLOCK)
_REGULAR = frozenset({b"0", b"\0", b"7"})
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})  # links, devices, folders, FIFOs
_FOLDER, _SPARSE = b"5", b"S"
_PAX_GLOBAL, _LONG_NAME = b"g", b"L"
_EXTENSIONS = frozenset({b"x", b"X", b"g", b"L", b"K"})  # pax (X: as Solaris wrote it), long names and links
_MAX_EXTENSION_BYTES = 2**20
_TAIL_BYTES = 2**16

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarDamageError(RichSemError):
    """A tar can't be read to its end; the members before the damage are whole."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """One member: `offset` and `size` of its data in bytes; `kind` is `file`, `folder` or `other`."""

    name: bytes
    offset: int
    size: int
    kind: str


def tar_members(descriptor: OpenFile) -> Iterator[TarMember]:
    """Yield the members of an uncompressed tar in the order they lie; long names of pax and GNU tar included.

    Raises:
        TarDamageError: after the last whole member, where the archive is compressed, cut short, damaged, or followed by
            other bytes.

    Source:
        POSIX.1-2017 pax, "ustar Interchange Format", and GNU tar's manual, "Basic Tar Format".
    """
    archive_size = size_of(descriptor)
    extensions: dict[bytes, bytes] = {}
    defaults: dict[bytes, bytes] = {}
    offset = 0
    while (header := _read_header(descriptor, offset)) is not None:
        data = offset + _BLOCK
        kind, size = header[156:157], _number(header[124:136], offset)
        if kind in _EXTENSIONS:
            content = _read_extension(descriptor, data, size)
            (defaults if kind == _PAX_GLOBAL else extensions).update(_extension_fields(kind, content, offset))
            offset = data + _padded(size)
            continue
        fields = {**defaults, **extensions} if defaults or extensions else extensions
        member, offset = _member(descriptor, header, data, size, fields)
        if member.offset + member.size > archive_size:
            raise TarDamageError(f"cut short inside of {printable(member.name)}, its last member")
        yield member
        extensions = {}
    _check_tail(descriptor, offset, archive_size)


def _member(
    descriptor: OpenFile, header: bytes, data: int, size: int, fields: dict[bytes, bytes]
) -> tuple[TarMember, int]:
    name = fields.get(b"path") or _header_name(header)
    kind = header[156:157]
    if kind == b"\0" and name.endswith(b"/"):
        kind = _FOLDER  # as tars wrote folders before POSIX
    if b"size" in fields:
        size = _decimal(fields[b"size"], data - _BLOCK)
    if kind in _WITHOUT_DATA:
        size = 0
    elif kind == _SPARSE:
        data = _after_sparse_map(descriptor, header, data)
    is_sparse = kind == _SPARSE or any(field.startswith(b"GNU.sparse.") for field in fields)
    shown_kind = "folder" if kind == _FOLDER else "file" if kind in _REGULAR and not is_sparse else "other"
    return TarMember(name, data, size, shown_kind), data + _padded(size)


def _read_header(descriptor: OpenFile, offset: int) -> bytes | None:
    header = read_at(descriptor, offset, _BLOCK)
    if header == _END:
        return None
    if offset == 0:
        _check_uncompressed(header)
    if not header:
        raise TarDamageError("ends without its end marker; it may be cut short" if offset else "an empty file")
    if len(header) < _BLOCK:
        raise TarDamageError(f"cut short inside of the header at byte {offset:,}")
    if not _checksum_fits(header):
        raise TarDamageError(f"no tar header at byte {offset:,}; what follows is not listed")
    return header


def _check_uncompressed(header: bytes) -> None:
    for magic, compression in _COMPRESSIONS.items():
        if header.startswith(magic):
            raise TarDamageError(f"compressed with {compression}; unpack it to a plain tar: members are read in place")


def _checksum_fits(header: bytes) -> bool:
    try:
        expected = int(header[148:156].strip(b"\0 ") or b"0", 8)
    except ValueError:
        return False
    unsigned = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if unsigned == expected:
        return True
    # Some old tars summed signed bytes.
    high_bytes = sum(byte > 127 for byte in header[:148] + header[156:])
    return unsigned - 256 * high_bytes == expected


def _number(field: bytes, offset: int) -> int:
    """Parse a size: octal text, or base 256 where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.split(b"\0", 1)[0].strip() or b"0"
    if text.strip(b"01234567"):
        raise TarDamageError(f"no legible size in the header at byte {offset:,}; what follows is not listed")
    return int(text, 8)


def _decimal(text: bytes, offset: int) -> int:
    if not text.isdigit() or len(text) > 19:
        raise TarDamageError(f"no legible size in the header at byte {offset:,}; what follows is not listed")
    return int(text)


def _header_name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and header[345]:
        return header[345:500].split(b"\0", 1)[0] + b"/" + name
    return name


def _read_extension(descriptor: OpenFile, offset: int, size: int) -> bytes:
    if size > _MAX_EXTENSION_BYTES:
        raise TarDamageError(f"a name or pax header of {size:,} bytes at byte {offset:,}; what follows is not listed")
    content = read_at(descriptor, offset, size)
    if len(content) < size:
        raise TarDamageError(f"cut short inside of the header at byte {offset:,}")
    return content


def _extension_fields(kind: bytes, content: bytes, offset: int) -> dict[bytes, bytes]:
    if kind == _LONG_NAME:
        return {b"path": content.split(b"\0", 1)[0]}
    if kind == b"K":
        return {}
    return _pax_fields(content, offset)


def _pax_fields(content: bytes, offset: int) -> dict[bytes, bytes]:
    r"""Parse pax records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record."""
    fields = {}
    content = content.rstrip(b"\0")
    while content:
        length_text, _, _ = content.partition(b" ")
        length = int(length_text) if length_text.isdigit() and len(length_text) < 8 else 0
        record = content[len(length_text) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise TarDamageError(f"damaged pax header at byte {offset:,}; what follows is not listed")
        fields[key] = value[:-1]
        content = content[length:]
    return fields


def _after_sparse_map(descriptor: OpenFile, header: bytes, data: int) -> int:
    """Skip the further blocks of an old GNU sparse member's map."""
    is_extended = header[482]
    while is_extended:
        block = read_at(descriptor, data, _BLOCK)
        if len(block) < _BLOCK:
            raise TarDamageError(f"cut short inside of the header at byte {data:,}")
        is_extended = block[504]
        data += _BLOCK
    return data


def _check_tail(descriptor: OpenFile, offset: int, archive_size: int) -> None:
    """Only zeros may follow the end marker: anything else would be lost without a word."""
    tail = read_at(descriptor, offset, min(archive_size - offset, _TAIL_BYTES))
    if tail.strip(b"\0"):
        raise TarDamageError("other bytes follow its end marker (a second archive appended?); they are not listed")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
