"""Text for people: sizes, errors of the system on one line, text that can't steer a terminal."""

import os

from richsem_schemas.io.output_files import FULL

JOINERS = "\u200c\u200d"
"""Marks without width that decide how letters join: not printable by themselves, and part of how Persian, Hindi and
others are written."""


def readable_bytes(count: float) -> str:
    """Bytes with the unit that leaves one to three digits before the point."""
    unit = "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(count) < 1000 or unit == "PB":
            break
        count /= 1000
    return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"


def told_in_one_line(error: Exception) -> str:
    """An error as the user reads it: one of the system's by file and reason, without its number."""
    if not isinstance(error, OSError):
        return str(error)
    told = os_error_text(error)
    return f"{told}; free some, or write to another disk" if error.errno in FULL else told


def os_error_text(error: OSError) -> str:
    """A system's error on one line: `FILE: REASON`."""
    name, reason = os_error_parts(error)
    return reason if name is None else f"{name}: {reason}"


def os_error_parts(error: OSError) -> tuple[str | None, str]:
    r"""The files of a system's error, if any, bytes that are no UTF-8 as `\xff`; and the reason."""
    names = [
        printable(os.fsencode(name))
        for name in (error.filename, error.filename2)
        if isinstance(name, str | bytes | os.PathLike)
    ]
    return " -> ".join(names) or None, error.strerror or str(error) or type(error).__name__


def printable_text(text: str) -> str:
    r"""Untrusted text for a terminal: control characters, which could steer it, become escapes such as `\x1b`."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def printable(name: bytes) -> str:
    r"""A file name, or other bytes, as text; bytes that are no UTF-8 become `\xff`."""
    return name.decode("utf-8", "backslashreplace")


def one_line(text: object, *, longest: int = 300) -> str:
    """Anybody's text on one line of at most so many letters."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"
