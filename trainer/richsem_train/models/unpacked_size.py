"""The size that a checkpoint would unpack to, read from the directory of its zip before anything is unpacked."""

import zipfile
from pathlib import Path

from richsem_schemas.errors import RichSemError

_ZIP_START = b"PK\x03\x04"
"""By which `torch.load` tells a zip from its legacy format, whose numbers lie in the file as they are."""

_MOST_PICKLE_BYTES = 8 * 2**20
"""Of the pickle, which holds names and shapes: one or two MiB for a large detector and its optimiser.

PyTorch reads 8 MiB in ten seconds and half a gigabyte at worst.
"""

_MOST_TIMES = 20
"""That entries may be larger than the file: `torch.save` packs nothing, and weights that are packed again shrink by a
tenth."""


def require_plausible_size(path: Path) -> None:
    """Check, before `torch.load`, that a file doesn't unpack to far more than it is.

    Raises:
        RichSemError: it does.
        Exception: it begins as a zip, and is none; `zipfile` documents no closed list.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP_START)) != _ZIP_START:
            return
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    remedy = "no program saves weights so; take another copy of it, or save the state dict again by torch.save"
    for entry in entries:
        # PyTorch finds entries whatever their case.
        if entry.filename.lower().endswith(".pkl") and entry.file_size > _MOST_PICKLE_BYTES:
            raise RichSemError(
                f"{path}: its {entry.filename[-50:]!r} unpacks to {entry.file_size:,} bytes, and at most "
                f"{_MOST_PICKLE_BYTES:,} are read; {remedy}"
            )
    unpacked, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if unpacked > _MOST_TIMES * size:
        raise RichSemError(f"{path}: unpacks to {unpacked:,} bytes, over {_MOST_TIMES} times its {size:,}; {remedy}")
