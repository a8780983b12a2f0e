import errno
import gzip
import io
import os
import tarfile

import pytest

from richsem_prep.sources.entry import SourceEntry, read_entry
from richsem_schemas.errors import PictureError, SourceError
from richsem_schemas.io.words import printable
from richsem_schemas.pictures import originals
from richsem_schemas.pictures.originals import WHOLE_FILE


def whole(file, size=0):
    return SourceEntry(printable(file), file, WHOLE_FILE, size, 0)


def test_a_whole_file_is_read(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.jpg").write_bytes(b"abc")
    assert read_entry(tmp_path, whole(b"a/b.jpg", 3)) == b"abc"


def test_an_empty_file_reads_as_no_bytes(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert read_entry(tmp_path, whole(b"empty")) == b""


def test_a_member_is_read_in_place(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in (("a", b"first"), ("b", b"second!")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with tarfile.open(tmp_path / "x.tar") as archive:
        offset = archive.getmember("b").offset_data
    assert read_entry(tmp_path, SourceEntry("x.tar/b", b"x.tar", offset, 7, 0)) == b"second!"


def test_gzip_compressed_pictures_are_inflated(tmp_path):
    (tmp_path / "a.JPEG").write_bytes(gzip.compress(b"abc"))
    assert read_entry(tmp_path, whole(b"a.JPEG")) == b"abc"


def test_a_member_beyond_the_end_is_truncated(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(1000))
    with pytest.raises(PictureError, match="truncated: 100 of 200"):
        read_entry(tmp_path, SourceEntry("x.tar/a", b"x.tar", 900, 200, 0))
    with pytest.raises(PictureError, match="truncated: 0 of 200"):
        read_entry(tmp_path, SourceEntry("x.tar/a", b"x.tar", 9000, 200, 0))


def test_names_of_any_bytes_read_back(tmp_path):
    for name in ("with space.jpg", "a.b.c.jpg", "größe.jpg", "日本.jpg", "new\nline.jpg", "back\\slash.jpg"):
        (tmp_path / name).write_bytes(name.encode())
        assert read_entry(tmp_path, whole(name.encode())) == name.encode()
    invalid = b"inv\xff\xfelid.jpg"
    with open(os.path.join(os.fsencode(tmp_path), invalid), "wb") as file:
        file.write(b"abc")
    assert read_entry(tmp_path, whole(invalid)) == b"abc"
    assert printable(invalid) == "inv\\xff\\xfelid.jpg"


def test_too_many_bytes_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "MAX_PICTURE_BYTES", 10)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(PictureError, match="11 bytes"):
        read_entry(tmp_path, whole(b"large"))
    with pytest.raises(PictureError, match="11 bytes"):
        read_entry(tmp_path, SourceEntry("large", b"large", 0, 11, 0))
    assert read_entry(tmp_path, SourceEntry("large", b"large", 0, 10, 0)) == bytes(10)


def test_a_sparse_giant_is_refused_at_once(tmp_path):
    with open(tmp_path / "giant", "wb") as file:
        file.truncate(2**40)
    with pytest.raises(PictureError, match="bytes"):
        read_entry(tmp_path, whole(b"giant"))


def test_paths_outside_of_root_are_refused(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    for file in (b"../secret", os.fsencode(tmp_path / "secret"), b"a/../../secret", b"..", b"", b"a\0b"):
        with pytest.raises(SourceError, match="no path below"):
            read_entry(tmp_path / "root", whole(file))


def test_links_are_followed(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"abc")
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    assert read_entry(tmp_path / "root", whole(b"link")) == b"abc"


@pytest.mark.timeout(20)
def test_only_regular_files_are_read_and_nothing_hangs(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    for file in (b"fifo", b"zero", b"folder"):
        with pytest.raises(PictureError, match="not a regular file"):
            read_entry(tmp_path, whole(file))


def test_io_errors_are_no_picture_errors(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_entry(tmp_path, whole(b"gone"))

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "a").write_bytes(b"abc")
    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(OSError, match="Input/output"):
        read_entry(tmp_path, whole(b"a"))


def test_a_picture_that_was_removed_from_its_folder_is_missing_and_the_rest_goes_on(tmp_path):
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "other.jpg").write_bytes(b"abc")
    for entry in (whole(b"class/gone.jpg"), SourceEntry("class/gone.tar/a", b"class/gone.tar", 512, 3, 0)):
        with pytest.raises(PictureError, match="missing, though it was there when the source was listed"):
            read_entry(tmp_path, entry)


@pytest.mark.parametrize("what", ["empty folder", "no folder", "link"])
def test_a_picture_on_a_disk_that_may_come_back_is_not_given_up(tmp_path, what):
    (tmp_path / "other.jpg").write_bytes(b"abc")
    if what == "empty folder":
        (tmp_path / "disk").mkdir()
    elif what == "link":
        (tmp_path / "disk").mkdir()
        (tmp_path / "disk" / "other.jpg").write_bytes(b"abc")
        (tmp_path / "disk" / "gone.jpg").symlink_to("/nowhere/gone.jpg")
    with pytest.raises(FileNotFoundError):
        read_entry(tmp_path, whole(b"disk/gone.jpg"))


def test_no_descriptor_is_left_open(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        read_entry(tmp_path, whole(b"a"))
        with pytest.raises(PictureError):
            read_entry(tmp_path, whole(b"fifo"))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert before == after
