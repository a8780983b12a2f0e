import gzip
import io
import os
import random
import tarfile

import pytest

from richsem_prep.sources.entry import read_entry
from richsem_prep.sources.imagenet import absent_classes, list_imagenet
from richsem_schemas.errors import SourceError
from richsem_schemas.vocabularies.lvis import class_ids_by_wnid, inet_lvis_categories
from tests.pipeline.sources.listings import split, write

CLASS = "n01440764"
IDS = {CLASS: 7, "n02000000": 8}
BLOCK = 512


def member(name, content=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tar_bytes(*members, tar_format=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format, errors="surrogateescape") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(root, *members, name=f"{CLASS}.tar", **options):
    (root / name).write_bytes(tar_bytes(*members, **options))


def listing(root, class_ids=IDS):
    return split(list_imagenet(root, class_ids))


# Folders


def test_folders_are_listed_by_class_and_name(tmp_path):
    write(tmp_path, "n02000000/b.JPEG", "n02000000/a.JPEG", f"{CLASS}/z.JPEG", f"{CLASS}/sub/y.JPEG")
    entries, rejected = listing(tmp_path)
    assert [(entry.name, entry.category_id) for entry in entries] == [
        (f"{CLASS}/sub/y.JPEG", 7),
        (f"{CLASS}/z.JPEG", 7),
        ("n02000000/a.JPEG", 8),
        ("n02000000/b.JPEG", 8),
    ]
    assert all(read_entry(tmp_path, entry).decode() == entry.name for entry in entries)
    assert all(entry.size == len(entry.name) for entry in entries)
    assert rejected == []


def test_other_classes_and_files_are_ignored(tmp_path):
    write(tmp_path, f"{CLASS}/a.JPEG", "n09999999/a.JPEG", "n09999999.tar", "words.txt", ".DS_Store")
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}/a.JPEG"]
    assert rejected == []


def test_every_file_counts_whatever_its_extension_but_hidden_ones(tmp_path):
    write(tmp_path, f"{CLASS}/notes.txt", f"{CLASS}/noextension", f"{CLASS}/.hidden.JPEG")
    entries, _ = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}/noextension", f"{CLASS}/notes.txt"]


# Tars


def test_a_tar_lists_like_the_same_folder_and_reads_in_place(tmp_path):
    names = ["b/2.JPEG", "b.JPEG", "a 1.JPEG", "./c.JPEG", "größe.JPEG", "b/.hidden", "._c.JPEG"]
    write_tar(tmp_path, member("b", type=tarfile.DIRTYPE), *(member(name, name.encode()) for name in names))
    entries, rejected = listing(tmp_path)
    assert [entry.name.removeprefix(f"{CLASS}.tar/") for entry in entries] == [
        "a 1.JPEG",
        "b/2.JPEG",
        "b.JPEG",
        "c.JPEG",
        "größe.JPEG",
    ]
    assert [read_entry(tmp_path, entry).decode().removeprefix("./") for entry in entries] == [
        entry.name.removeprefix(f"{CLASS}.tar/") for entry in entries
    ]
    assert {(entry.file, entry.category_id) for entry in entries} == {(f"{CLASS}.tar".encode(), 7)}
    assert rejected == []


def test_gzip_compressed_members_are_inflated(tmp_path):
    write_tar(tmp_path, member("a.JPEG", gzip.compress(b"picture")))
    entries, _ = listing(tmp_path)
    assert read_entry(tmp_path, entries[0]) == b"picture"


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_strange_names_in_tars(tmp_path, tar_format):
    names = [
        "a/" * 40 + "x" * 60,
        "größe",
        "with space",
        "back\\slash",
        "new\nline",
        "a.b.c",
        b"inv\xff".decode("utf8", "surrogateescape"),
    ]
    if tar_format != tarfile.USTAR_FORMAT:
        names.append("l" * 200 + "/" + "日本" * 50)
    write_tar(tmp_path, *(member(name, os.fsencode(name)) for name in names), tar_format=tar_format)
    entries, rejected = listing(tmp_path)
    assert sorted(read_entry(tmp_path, entry) for entry in entries) == sorted(os.fsencode(name) for name in names)
    assert f"{CLASS}.tar/inv\\xff" in {entry.name for entry in entries}
    assert rejected == []


def test_a_folder_is_used_rather_than_its_tar(tmp_path):
    write(tmp_path, f"{CLASS}/a.JPEG")
    write_tar(tmp_path, member("b.JPEG", b"b"))
    write(tmp_path, f"{CLASS}.tgz")
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}/a.JPEG"]
    reason = f"{CLASS} of the same class is used instead"
    assert rejected == [(f"{CLASS}.tar", reason), (f"{CLASS}.tgz", reason)]


def test_links_devices_and_sparse_files_in_tars_are_rejected(tmp_path):
    kinds = {"s": tarfile.SYMTYPE, "h": tarfile.LNKTYPE, "c": tarfile.CHRTYPE, "f": tarfile.FIFOTYPE}
    members = [member(name, type=kind, linkname="/etc/passwd") for name, kind in kinds.items()]
    sparse = member("sp.JPEG", b"x", type=tarfile.GNUTYPE_SPARSE)
    pax_sparse = member("ps.JPEG", b"x", pax_headers={"GNU.sparse.major": "1"})
    write_tar(tmp_path, *members, sparse, pax_sparse, member("a.JPEG", b"a"), tar_format=tarfile.PAX_FORMAT)
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}.tar/a.JPEG"]
    assert {name.rpartition("/")[2] for name, _ in rejected} == {*kinds, "sp.JPEG", "ps.JPEG"}
    assert all(reason.startswith("not a regular file") for _, reason in rejected)


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "a/..", "//x", ".", "./"])
def test_unsafe_member_names_are_rejected(tmp_path, name):
    write_tar(tmp_path, member(name, b"x"), member("a..b.JPEG", b"a"))
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}.tar/a..b.JPEG"]
    assert len(rejected) == 1
    assert rejected[0][1].startswith("unsafe member name")


def test_the_last_of_two_members_with_one_name_counts(tmp_path):
    write_tar(tmp_path, member("a.JPEG", b"first"), member("b.JPEG", b"b"), member("./a.JPEG", b"second"))
    entries, rejected = listing(tmp_path)
    assert [read_entry(tmp_path, entry) for entry in entries] == [b"second", b"b"]
    assert rejected == [(f"{CLASS}.tar/a.JPEG", "given twice in the archive; the last one counts, as when unpacked")]


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"])
def test_a_compressed_tar_is_rejected_with_the_remedy(tmp_path, suffix):
    write(tmp_path, "n02000000/a.JPEG")
    (tmp_path / f"{CLASS}{suffix}").write_bytes(gzip.compress(tar_bytes(member("a", b"a"))))
    entries, rejected = listing(tmp_path)
    assert len(entries) == 1
    assert rejected[0][0] == f"{CLASS}{suffix}"
    assert "unpack it to a plain tar" in rejected[0][1]
    assert absent_classes(tmp_path, IDS) == [CLASS]


@pytest.mark.parametrize("mode", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_known_by_its_content(tmp_path, mode):
    write(tmp_path, "n02000000/a.JPEG")
    with tarfile.open(tmp_path / f"{CLASS}.tar", f"w:{mode}") as archive:
        info, content = member("a", b"a")
        archive.addfile(info, io.BytesIO(content))
    _, rejected = listing(tmp_path)
    assert rejected[0][1].startswith("compressed with")


def test_a_tar_cut_anywhere_lists_what_is_whole_and_says_so(tmp_path):
    contents = [os.urandom(size) for size in (10, 511, 512, 513, 0, 2000)]
    whole = tar_bytes(*(member(f"{row}.JPEG", content) for row, content in enumerate(contents)))
    ends = []
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        ends = [info.offset_data + info.size for info in archive]
        end_of_data = archive.offset
    write(tmp_path, "n02000000/a.JPEG")
    tar = tmp_path / f"{CLASS}.tar"
    for length in range(0, len(whole) + 1, 32):
        tar.write_bytes(whole[:length])
        entries, rejected = listing(tmp_path)
        members = [entry for entry in entries if entry.category_id == 7]
        # A member of no bytes counts once its header is whole.
        assert len(members) == sum(end <= length for end in ends), length
        assert [read_entry(tmp_path, entry) for entry in members] == contents[: len(members)]
        assert (rejected == []) == (length >= end_of_data + BLOCK), length


A, B = (tar_bytes(member(f"{name}.JPEG", name.encode())) for name in "ab")
BOTH = bytearray(tar_bytes(member("a.JPEG", b"a"), member("b.JPEG", b"b")))
BOTH[2 * BLOCK + 5] ^= 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (A[: 2 * BLOCK], "ends without its end marker; it may be cut short"),
        (BOTH, "no tar header at byte 1,024; what follows is not listed"),
        (A + B, "other bytes follow its end marker (a second archive appended?); they are not listed"),
    ],
)
def test_damage_behind_a_member_is_reported_and_the_member_listed(tmp_path, content, reason):
    (tmp_path / f"{CLASS}.tar").write_bytes(content)
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}.tar/a.JPEG"]
    assert rejected == [(f"{CLASS}.tar", reason)]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("content", [b"", b"not a tar at all", bytes(BLOCK), bytes(10240), b"\xff" * 4096])
def test_files_that_are_no_tar(tmp_path, content):
    write(tmp_path, "n02000000/a.JPEG")
    (tmp_path / f"{CLASS}.tar").write_bytes(content)
    entries, rejected = listing(tmp_path)
    assert len(entries) == 1
    assert len(rejected) == (0 if content.startswith(bytes(BLOCK)) else 1)


@pytest.mark.timeout(20)
def test_a_fifo_or_folder_named_like_a_tar_is_rejected(tmp_path):
    write(tmp_path, f"{CLASS}.tar/inner.JPEG", "n02000000/a.JPEG", "n03000000")
    os.mkfifo(tmp_path / "n04000000.tar")
    ids = {**IDS, "n03000000": 3, "n04000000": 4}
    entries, rejected = listing(tmp_path, ids)
    assert [entry.name for entry in entries] == ["n02000000/a.JPEG"]
    assert [name for name, _ in rejected] == [f"{CLASS}.tar", "n03000000", "n04000000.tar"]
    assert all(reason.startswith("neither a folder nor a tar") for _, reason in rejected)


def hostile_header(**fields):
    """One ustar header with chosen raw bytes and a fitting checksum."""
    places = {"name": 0, "size": 124, "type": 156, "magic": 257, "is_extended": 482}
    block = bytearray(BLOCK)
    for field, value in {
        "name": b"a.JPEG",
        "size": b"00000000001\0",
        "type": b"0",
        "magic": b"ustar\x0000",
        **fields,
    }.items():
        block[places[field] : places[field] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "header",
    [
        hostile_header(size=b"\xff" * 12),  # negative: tarfile 3.11 loops here
        hostile_header(size=b"\xff" * 8 + b"\xff\xff\xfe\x00"),
        hostile_header(size=b"\x80" + b"\xff" * 11),
        hostile_header(size=b"-0000000512\0"),
        hostile_header(size=b"0_0000001_1\0"),
        hostile_header(size=b"\x80\0\0\0\0\0\0\0\xff\xff\xff\xff"),
        hostile_header(type=b"x", size=b"77777777777\0"),
        hostile_header(type=b"L", size=b"77777777777\0"),
        hostile_header(type=b"x", size=b"00000000012\0") + b"99 path=x\n".ljust(BLOCK, b"\0"),
        hostile_header(type=b"x", size=b"00000000012\0") + b"-1 path=x\n".ljust(BLOCK, b"\0"),
        hostile_header(type=b"x", size=b"00000000013\0") + b"11 size=-5\n".ljust(BLOCK, b"\0") + hostile_header(),
        hostile_header(type=b"x", size=b"00000000001\0") + b"1".ljust(BLOCK, b"\0"),
        hostile_header(type=b"x", size=b"00000000000\0") * 3000,
        hostile_header(type=b"S", is_extended=b"\1"),
        hostile_header(type=b"x", size=b"00000000020\0"),
    ],
)
def test_hostile_headers_end_in_a_rejection(tmp_path, header):
    good = tar_bytes(member("good.JPEG", b"good"))[: 2 * BLOCK]
    (tmp_path / f"{CLASS}.tar").write_bytes(good + header)
    entries, rejected = listing(tmp_path)
    assert [entry.name for entry in entries] == [f"{CLASS}.tar/good.JPEG"]
    assert len(rejected) == 1


def reference_listing(path):
    """What tarfile, the standard library's reader, sees: the last of each name, regular files only."""
    with tarfile.open(path, "r:") as archive:
        members = [info for info in archive if info.isreg() and not info.issparse()]
        return {os.fsencode(info.name): (info.offset_data, info.size) for info in members}


@pytest.mark.parametrize("seed", range(20))
def test_listings_agree_with_tarfile(tmp_path, seed):
    generator = random.Random(seed)
    kinds = [tarfile.REGTYPE] * 6 + [tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]
    members = []
    for row in range(40):
        kind = generator.choice(kinds)
        # tarfile takes a pre-POSIX file for a folder where its name is cut behind a slash, and loses its way.
        length = 3 if kind == tarfile.AREGTYPE else generator.choice([3, 90, 150, 300])
        stem = "".join(generator.choice("ab /é日.") for _ in range(length))
        name = f"{row}" + "/".join(part for part in stem.split("/") if part.strip(". "))
        content = bytes(generator.choice([0, 1, 512, 700])) if kind in tarfile.REGULAR_TYPES else b""
        members.append(member(name, content, type=kind, linkname="l" * generator.choice([1, 200]), mtime=1.5))
    tar_format = generator.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    write_tar(tmp_path, *members, tar_format=tar_format)
    tar = tmp_path / f"{CLASS}.tar"
    entries, _ = listing(tmp_path)
    hidden_free = {
        name: place
        for name, place in reference_listing(tar).items()
        if not any(part.startswith(b".") for part in name.split(b"/"))
    }
    prefix = f"{CLASS}.tar/"
    ours = {entry.name.removeprefix(prefix).encode(): (entry.offset, entry.size) for entry in entries}
    assert ours == hidden_free


@pytest.mark.timeout(60)
def test_damaged_tars_neither_hang_nor_raise(tmp_path):
    write(tmp_path, "n02000000/a.JPEG")
    long_names = [member("l" * 150 + f"{row}.JPEG", b"x" * 600) for row in range(5)]
    generator = random.Random(0)
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        whole = tar_bytes(*long_names, tar_format=tar_format)
        for _ in range(200):
            damaged = bytearray(whole)
            for _ in range(generator.randint(1, 5)):
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
            (tmp_path / f"{CLASS}.tar").write_bytes(damaged)
            entries, _ = listing(tmp_path)
            for entry in entries:
                assert len(read_entry(tmp_path, entry)) == entry.size


# The whole


def test_a_foreign_root_is_an_error_at_once(tmp_path):
    write(tmp_path, "train/n01440764/a.JPEG", "val/n01440764/a.JPEG")
    with pytest.raises(SourceError, match=r"none of the 2 classes.*found train, val.*--root"):
        list_imagenet(tmp_path, IDS)


def test_only_compressed_tars_are_an_error_that_says_so(tmp_path):
    write(tmp_path, f"{CLASS}.tar.gz")
    with pytest.raises(SourceError, match=r"n01440764\.tar\.gz: a compressed archive; unpack it"):
        list_imagenet(tmp_path, IDS)


def test_absent_classes_are_named(tmp_path):
    write(tmp_path, "n02000000/a.JPEG", "n05000000.tar")
    ids = {"n05000000": 5, "n02000000": 2, "n04000000": 4, "n03000000": 3}
    assert absent_classes(tmp_path, ids) == ["n03000000", "n04000000"]


def test_the_listing_is_lazy(tmp_path):
    write(tmp_path, f"{CLASS}/a.JPEG", "n02000000/a.JPEG")
    items = list_imagenet(tmp_path, IDS)
    assert next(items).name == f"{CLASS}/a.JPEG"
    write(tmp_path, "n02000000/b.JPEG")
    assert [item.name for item in items] == ["n02000000/a.JPEG", "n02000000/b.JPEG"]


def test_the_real_sample_is_listed_whole(sample_pictures):
    class_ids = class_ids_by_wnid(inet_lvis_categories())
    entries, rejected = listing(sample_pictures, class_ids)
    assert len(entries) == 160
    assert rejected == []
    assert len(absent_classes(sample_pictures, class_ids)) == 997 - 160
    assert len(read_entry(sample_pictures, entries[0])) == entries[0].size
