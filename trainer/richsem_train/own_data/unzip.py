"""Exports in a zip archive: unpacked into a folder of ours, with bounds, and nowhere else."""

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.output_files import full_disk_named
from richsem_schemas.io.words import printable_text, readable_bytes
from richsem_schemas.pictures.names import is_called_picture
from richsem_train.console import Reporter
from richsem_train.own_data.listing import ANNOTATION_ENDINGS

MAX_MEMBERS = 2_000_000
MAX_RATIO = 100
"""Bytes out over bytes in, of a whole archive: labels shrink to a twentieth, pictures hardly."""

_SMALL = 2**30
"""An archive that unpacks to less is no bomb, however well it is packed."""

_CHUNK = 2**20


def unzip_export(archive: Path, folder: Path, reporter: Reporter) -> None:
    """Unpack pictures and annotations; other members are left in the archive.

    Raises:
        RichSemError: it is no archive, a member would leave the folder or is encrypted, or it unpacks to too much.
        FullDiskError: the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _wanted(archive, opened.infolist())
            reporter.begin(f"unpacking {archive.name}", len(members))
            for number, member in enumerate(members):
                _unpack(opened, member, folder.joinpath(*PurePosixPath(member.filename).parts))
                reporter.move(number + 1)
            reporter.end()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise RichSemError(f"{archive}: a damaged archive, or none ({error}); download or export it again") from None


def _wanted(archive: Path, members: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    if len(members) > MAX_MEMBERS:
        raise RichSemError(
            f"{archive}: {len(members):,} members; at most {MAX_MEMBERS:,} are unpacked: unpack it by hand"
        )
    wanted: list[zipfile.ZipInfo] = []
    names = set[str]()
    for member in members:
        name = member.filename
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise RichSemError(
                f"{archive}: its member {printable_text(name[:200])!r} would lie outside of the folder; names are "
                "relative and without `..`: make the archive anew"
            )
        is_wanted = is_called_picture(name) or path.suffix.lower() in ANNOTATION_ENDINGS
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
        if member.is_dir() or is_link or hidden or not is_wanted:
            continue
        if member.flag_bits & 1:
            raise RichSemError(
                f"{archive}: {printable_text(name[:200])!r} is encrypted; unpack it by hand, and name the folder"
            )
        if name in names:
            raise RichSemError(f"{archive}: has {printable_text(name[:200])!r} twice; make the archive anew")
        names.add(name)
        wanted.append(member)
    size = sum(member.file_size for member in wanted)
    if size > max(_SMALL, MAX_RATIO * archive.stat().st_size):
        raise RichSemError(
            f"{archive}: would unpack to {readable_bytes(size)}, more than {MAX_RATIO} times its own size; unpack it "
            "by hand if that is right, and name the folder"
        )
    return wanted


def _unpack(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Write one member; never more bytes than it declares, which zipfile cuts off, and whose checksum it proves."""
    with full_disk_named(path, needed=member.file_size):
        path.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(member) as packed, path.open("xb") as file:
            while data := packed.read(_CHUNK):
                file.write(data)
