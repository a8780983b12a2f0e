import os
import tarfile

import pytest

from richsem_prep.sources.entry import read_entry
from richsem_prep.sources.webdataset import list_webdataset
from richsem_schemas.errors import SourceError
from tests.pipeline.sources.img2dataset_tree import write_tar
from tests.pipeline.sources.listings import split


def test_members_that_are_called_like_pictures_are_listed_without_a_label(tmp_path):
    pictures = ["a.jpg", "b.PNG", "c.image.webp", "deep/d.jpeg"]
    others = ["a.json", "a.cls", "b.txt", "c.npy", "deep/d.jpg.txt"]
    write_tar(tmp_path / "x-000000.tar", {name: name.encode() for name in (*pictures, *others)})
    write_tar(tmp_path / "more" / "x-000001.tar", {"e.jpg": b"e.jpg"})
    (tmp_path / "README.md").write_text("ignored")
    (tmp_path / "loose.jpg").write_bytes(b"ignored")
    entries, rejected = split(list_webdataset(tmp_path))
    expected = ["more/x-000001.tar/e.jpg", *(f"x-000000.tar/{name}" for name in pictures)]
    assert [entry.name for entry in entries] == expected
    assert all(read_entry(tmp_path, entry).decode() == entry.name.partition(".tar/")[2] for entry in entries)
    assert {entry.category_id for entry in entries} == {0}
    assert {entry.caption for entry in entries} == {None}
    assert rejected == []


def test_tars_that_hold_no_picture_or_cannot_be_read_in_place_are_rejected(tmp_path):
    write_tar(tmp_path / "a.tar", {"a.jpg": b"a"})
    write_tar(tmp_path / "b.tar", {"b.npy": b"b"})
    (tmp_path / "c.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "d.tar").write_bytes(b"\x1f\x8b" + bytes(1000))
    (tmp_path / "e.tar").write_bytes(b"<html>not found</html>" * 50)
    os.mkfifo(tmp_path / "f.tar")
    (tmp_path / "g.tar").symlink_to("nowhere")
    entries, rejected = split(list_webdataset(tmp_path))
    assert [entry.name for entry in entries] == ["a.tar/a.jpg"]
    reasons = dict(rejected)
    assert set(reasons) == {"b.tar", "c.tar.gz", "d.tar", "e.tar", "f.tar", "g.tar"}
    assert "called like a picture" in reasons["b.tar"]
    assert "unpack it to a plain tar" in reasons["c.tar.gz"]
    assert "compressed with gzip" in reasons["d.tar"]
    assert "no tar header" in reasons["e.tar"]
    assert reasons["f.tar"] == "not a regular file"
    assert reasons["g.tar"] == "a broken link"


def test_names_that_escape_and_repeated_names_are_rejected(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../a.jpg", "/b.jpg", "c.jpg", "c.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    entries, rejected = split(list_webdataset(tmp_path))
    assert [entry.name for entry in entries] == ["x.tar/c.jpg"]
    assert [name for name, _ in rejected] == ["x.tar/../a.jpg", "x.tar//b.jpg", "x.tar/c.jpg"]
    assert "unsafe" in rejected[0][1]
    assert "given twice" in rejected[2][1]


def test_a_half_downloaded_tar_gives_what_is_whole(tmp_path):
    whole = write_tar(tmp_path / "x.tar", {f"{n}.jpg": bytes(3000) for n in range(4)}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:9000])
    entries, rejected = split(list_webdataset(tmp_path))
    assert [entry.name for entry in entries] == ["x.tar/0.jpg", "x.tar/1.jpg"]
    assert "cut short" in rejected[0][1]


def test_a_root_without_tars_or_pictures_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    with pytest.raises(SourceError, match=r"there is no tar in it.*--root"):
        list_webdataset(tmp_path)
    (tmp_path / "a.tgz").write_bytes(b"a")
    with pytest.raises(SourceError, match=r"a\.tgz: a compressed archive.*--root"):
        list_webdataset(tmp_path)
    write_tar(tmp_path / "x.tar", {"a.txt": b"a"})
    with pytest.raises(SourceError, match="hold no pictures"):
        list(list_webdataset(tmp_path))
