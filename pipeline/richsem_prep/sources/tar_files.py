"""The files in the plain tars of a source: which can be read in place, and which are left out and why."""

from collections.abc import Iterator

from richsem_prep.sources.entry import Rejected, SourceEntry
from richsem_prep.sources.tar_members import TarDamageError, TarMember, tar_members
from richsem_prep.sources.walk import file_entry, is_folder, scan_root, walk_files
from richsem_schemas.errors import PictureError
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import printable
from richsem_schemas.pictures.originals import open_below

TAR = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")
COMPRESSED_REASON = "a compressed archive; unpack it to a plain tar (gunzip, unxz, ...): members are read in place"


def find_tars(root: Place, *, layout: str) -> tuple[list[bytes], list[Rejected]]:
    """The plain tars at any depth of ROOT, by the bytes of their names; and what looks like a tar and can't be read.

    `layout` says in errors what is expected.

    Raises:
        SourceError: ROOT is missing or empty, or a folder can't be listed.
    """
    tars: list[bytes] = []
    rejected: list[Rejected] = []
    for item in _all_files(root, layout):
        name = item.name.lower()
        if name.endswith(COMPRESSED):
            rejected.append(Rejected(item.name, COMPRESSED_REASON))
        elif name.endswith(TAR) and isinstance(item, Rejected):
            rejected.append(item)
        elif name.endswith(TAR) and isinstance(item, SourceEntry):
            tars.append(item.file)
    return tars, rejected


def _all_files(root: Place, layout: str) -> Iterator[SourceEntry | Rejected]:
    for entry in scan_root(root, layout=layout):
        if is_folder(entry):
            yield from walk_files(root, entry.name, 0)
        else:
            yield file_entry(entry, entry.name, 0)


def tar_files(root: Place, tar: bytes) -> tuple[dict[bytes, TarMember], list[Rejected]]:
    """The regular files of a tar by path, in the order a folder of the same files would have; hidden ones are left out.

    Also what is no such member, with damage to the tar last.
    """
    members: dict[bytes, TarMember] = {}
    rejected: list[Rejected] = []
    try:
        with open_below(root, tar) as descriptor:
            for member in tar_members(descriptor):
                rejected += _add_member(members, tar, member)
    except (TarDamageError, PictureError) as error:
        rejected.append(Rejected(printable(tar), str(error)))
    return {path: members[path] for path in sorted(members, key=lambda path: path.split(b"/"))}, rejected


def member_name(tar: bytes, path: bytes) -> str:
    """The name of a member of a tar in messages and in KEY.json."""
    return printable(tar + b"/" + path)


def member_entry(tar: bytes, path: bytes, member: TarMember, category_id: int) -> SourceEntry:
    """The picture that a member of a tar is."""
    return SourceEntry(member_name(tar, path), tar, member.offset, member.size, category_id)


def _add_member(members: dict[bytes, TarMember], tar: bytes, member: TarMember) -> Iterator[Rejected]:
    """Take a member in, or say why not; of two with one name the later counts, as tar does when it unpacks."""
    if member.kind == "folder":
        return
    parts = [part for part in member.name.split(b"/") if part not in {b"", b"."}]
    if member.name.startswith(b"/") or b".." in parts or not parts:
        yield Rejected(member_name(tar, member.name), "unsafe member name: absolute, empty, or with `..`")
        return
    if any(part.startswith(b".") for part in parts):
        return
    path = b"/".join(parts)
    if member.kind != "file":
        yield Rejected(member_name(tar, path), "not a regular file: a link, a device or a sparse file")
        return
    if path in members:
        yield Rejected(member_name(tar, path), "given twice in the archive; the last one counts, as when unpacked")
        del members[path]
    members[path] = member
