import os
import sys

import pytest

from richsem_prep.sources import Rejected, SourceEntry, folder_classes, list_folder, read_entry
from richsem_schemas.errors import SourceError


def write(root, *names):
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(os.fsencode(name))


def split(items):
    items = list(items)
    entries = [item for item in items if isinstance(item, SourceEntry)]
    return entries, {item.name: item.reason for item in items if isinstance(item, Rejected)}


def test_the_top_level_folder_is_the_class(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/deep/er/2.jpg", "dog/1.png", "loose.jpg")
    assert folder_classes(tmp_path) == ["cat", "dog"]
    entries, rejected = split(list_folder(tmp_path, {"cat": 1, "dog": 2}))
    assert [(entry.name, entry.category_id) for entry in entries] == [
        ("cat/1.jpg", 1),
        ("cat/deep/er/2.jpg", 1),
        ("dog/1.png", 2),
        ("loose.jpg", 0),
    ]
    assert [entry.size for entry in entries] == [len(entry.name) for entry in entries]
    assert rejected == {}


def test_a_folder_without_files_is_no_class(tmp_path):
    write(tmp_path, "full/1.jpg", "hidden/.DS_Store", "packed/a.zip")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    assert folder_classes(tmp_path) == ["full"]


def test_an_unknown_folder_has_no_label(tmp_path):
    write(tmp_path, "cat/1.jpg")
    entries, _ = split(list_folder(tmp_path, {}))
    assert [entry.category_id for entry in entries] == [0]


def test_hidden_names_are_skipped(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/.hidden.jpg", "cat/.thumbs/1.jpg", ".git/config", ".hidden.jpg")
    entries, rejected = split(list_folder(tmp_path, {}))
    assert [entry.name for entry in entries] == ["cat/1.jpg"]
    assert rejected == {}


def test_archives_are_rejected_not_opened(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/more.tar", "dog.TAR.GZ", "all.zip")
    entries, rejected = split(list_folder(tmp_path, {}))
    assert [entry.name for entry in entries] == ["cat/1.jpg"]
    assert rejected == dict.fromkeys(["cat/more.tar", "dog.TAR.GZ", "all.zip"], "an archive; unpack it")


def test_names_of_any_bytes_list_and_read_back(tmp_path):
    names = [
        b"with space/a b.jpg",
        b"dots.in.it/a.b.c",
        "größe/日本.jpg".encode(),
        b"inv\xff/\xfe.jpg",
        b"b\\n/c\n.jpg",
    ]
    write(tmp_path, *names)
    classes = folder_classes(tmp_path)
    assert classes == ["b\\n", "dots.in.it", "größe", "inv\\xff", "with space"] == sorted(classes)
    entries, _ = split(list_folder(tmp_path, {name: row for row, name in enumerate(classes, 1)}))
    assert sorted(entry.file for entry in entries) == sorted(names)
    assert all(read_entry(tmp_path, entry) == entry.file for entry in entries)
    assert {entry.category_id for entry in entries} == {1, 2, 3, 4, 5}


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = ["b/2", "b/10", "b/1", "a/z", "a/Z", "a.b/1", "a/c/1", "a/c.d", "1"]
    write(tmp_path, *names)
    entries, _ = split(list_folder(tmp_path, {}))
    assert [entry.name for entry in entries] == ["1", "a/Z", "a/c/1", "a/c.d", "a/z", "a.b/1", "b/1", "b/10", "b/2"]


@pytest.mark.timeout(20)
def test_links_are_followed_once_and_loops_end(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write(root, "cat/1.jpg")
    write(elsewhere, "2.jpg")
    (root / "dog").symlink_to(elsewhere)
    (root / "cat" / "up").symlink_to(root)
    (root / "cat" / "self").symlink_to(root / "cat")
    (root / "cat" / "me").symlink_to("me")
    (root / "cat" / "gone").symlink_to("nowhere")
    (root / "cat" / "picture.jpg").symlink_to(elsewhere / "2.jpg")
    entries, rejected = split(list_folder(root, {}))
    assert [entry.name for entry in entries] == ["cat/1.jpg", "cat/picture.jpg", "dog/2.jpg"]
    assert [entry.size for entry in entries] == [9, 5, 5]
    assert rejected["cat/up"] == rejected["cat/self"] == "a link to a folder that is already listed"
    assert rejected["cat/me"] == rejected["cat/gone"] == "a broken link"
    assert folder_classes(root) == ["cat", "dog"]


def test_what_is_no_file_is_rejected(tmp_path):
    write(tmp_path, "cat/1.jpg")
    os.mkfifo(tmp_path / "cat" / "fifo.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    _, rejected = split(list_folder(tmp_path, {}))
    assert rejected == dict.fromkeys(["cat/fifo.jpg", "fifo.jpg"], "not a regular file")


def test_deep_folders_do_not_exhaust_the_stack(tmp_path):
    write(tmp_path, "d/" * 400 + "1.jpg")
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(300)
        entries, _ = split(list_folder(tmp_path, {}))
    finally:
        sys.setrecursionlimit(limit)
    assert [entry.name for entry in entries] == ["d/" * 400 + "1.jpg"]


def test_a_root_without_pictures_is_an_error_that_says_what_to_do(tmp_path):
    with pytest.raises(SourceError, match=r"doesn't exist.*--root"):
        list_folder(tmp_path / "missing", {})
    with pytest.raises(SourceError, match=r"is empty.*--root"):
        list_folder(tmp_path, {})
    write(tmp_path, "file")
    with pytest.raises(SourceError, match=r"is no folder.*--root"):
        list_folder(tmp_path / "file", {})
    with pytest.raises(SourceError, match="doesn't exist"):
        folder_classes(tmp_path / "missing")


def test_folders_without_files_are_an_error_at_the_end(tmp_path):
    (tmp_path / "cat").mkdir()
    listing = list_folder(tmp_path, {})
    with pytest.raises(SourceError, match="no file that could be a picture"):
        list(listing)


def test_a_folder_that_cannot_be_listed_is_an_error_not_a_gap(tmp_path, monkeypatch):
    write(tmp_path, "cat/1.jpg", "dog/1.jpg")
    scandir = os.scandir

    def fail(path):
        if os.fsencode(path).endswith(b"dog"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(SourceError, match=r"dog can't be listed: Permission denied"):
        list(list_folder(tmp_path, {}))
