"""JSON lists that grow on the disk: of many pictures they are larger than memory should be."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from richsem_schemas.io.files import hashed_file
from richsem_schemas.io.output_files import full_disk_named


class JsonList:
    """Values one after the other, in a file without a name beside the one that they will be in.

    Args:
        path: of that file; its folder is made with the first value.
        indent: spaces that each level of a value is moved by; None writes a value a line.
    """

    def __init__(self, path: Path, *, indent: int | None = None) -> None:
        self._path = path
        self._indent = indent
        self._file: IO[bytes] | None = None

    def add(self, value: Any) -> None:
        """Add a value.

        Raises:
            FullDiskError: there is no space for it.
            OSError: the folder can't be made.
            ValueError: the value holds NaN or infinity.
        """
        text = json.dumps(value, indent=self._indent, allow_nan=False).encode()
        with full_disk_named(self._path):
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._path.parent)  # noqa: SIM115  (it lives as long as the list)
                self._file.write(b"\n" + text)
            else:
                self._file.write(b",\n" + text)

    def write(self) -> None:
        """Write the file, of this list alone, whole or not at all.

        Raises:
            OSError: it can't be written.
        """
        with hashed_file(self._path) as file:
            self._write_to(file)
            file.write(b"\n")

    def _write_to(self, file: Any) -> None:
        file.write(b"[")
        if self._file is not None:
            self._file.seek(0)
            shutil.copyfileobj(self._file, file)
            file.write(b"\n")
        file.write(b"]")


def write_object(path: Path, members: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Write an object into a file, whole or not at all, whose values may be such lists.

    Raises:
        OSError: it can't be written.
        ValueError: a value holds NaN or infinity.
    """
    with hashed_file(path) as file:
        for place, (key, value) in enumerate(members.items()):
            file.write(f"{',' if place else '{'}\n{json.dumps(key)}: ".encode())
            if isinstance(value, JsonList):
                value._write_to(file)
            else:
                file.write(json.dumps(value, indent=indent, allow_nan=False).encode())
        file.write(b"\n}\n" if members else b"{}\n")
