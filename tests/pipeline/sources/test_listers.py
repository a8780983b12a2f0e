"""What holds for every lister that walks folders, or for every one there is."""

import os
from functools import partial

import pytest

from richsem_prep.sources.cc3m import list_cc3m
from richsem_prep.sources.entry import read_entry
from richsem_prep.sources.folder import folder_classes, list_folder
from richsem_prep.sources.imagenet import list_imagenet
from richsem_prep.sources.webdataset import list_webdataset
from richsem_schemas.errors import SourceError
from tests.pipeline.sources.listings import split, write

IDS = {"cat": 1, "dog": 2}
WALKERS = {
    "folder": (partial(list_folder, class_ids=IDS), "no file that could be a picture"),
    "imagenet": (partial(list_imagenet, class_ids=IDS), "no file in them"),
}
LISTERS = {name: lister for name, (lister, _) in WALKERS.items()} | {
    "webdataset": list_webdataset,
    "cc3m": partial(list_cc3m, with_captions=True),
}


@pytest.mark.parametrize("lister", [*LISTERS.values(), folder_classes], ids=[*LISTERS, "classes"])
def test_a_root_that_is_missing_empty_or_a_file_is_an_error_at_once_that_says_what_to_do(lister, tmp_path):
    write(tmp_path, "file")
    (tmp_path / "empty").mkdir()
    for name, said in (("missing", "doesn't exist"), ("empty", "is empty"), ("file", "is no folder")):
        with pytest.raises(SourceError, match=rf"{name} {said}; expected .*--root"):
            lister(tmp_path / name)


@pytest.mark.parametrize(("lister", "said"), WALKERS.values(), ids=WALKERS)
def test_folders_without_files_are_an_error_at_the_end(lister, said, tmp_path):
    (tmp_path / "cat").mkdir()
    listing = lister(tmp_path)
    with pytest.raises(SourceError, match=said):
        list(listing)


@pytest.mark.parametrize(("lister", "said"), WALKERS.values(), ids=WALKERS)
def test_names_of_any_bytes_are_listed_in_their_order_and_read_back(lister, said, tmp_path):
    names = [b"a b.JPEG", b"a.b.c", "größe/日本.jpg".encode(), b"inv\xff\xfelid.JPEG", b"new\nline.JPEG", b"b\\n/c.jpg"]
    write(tmp_path, *(b"cat/" + name for name in names))
    entries, rejected = split(lister(tmp_path))
    assert [entry.file for entry in entries] == sorted(b"cat/" + name for name in names)
    assert all(read_entry(tmp_path, entry) == entry.file for entry in entries)
    assert "cat/inv\\xff\\xfelid.JPEG" in {entry.name for entry in entries}
    assert rejected == []


@pytest.mark.timeout(20)
@pytest.mark.parametrize(("lister", "said"), WALKERS.values(), ids=WALKERS)
def test_links_are_followed_once_loops_end_and_what_is_no_file_is_rejected(lister, said, tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    write(root, "cat/1.jpg", "cat/sub/3.jpg")
    write(elsewhere, "2.jpg")
    (root / "dog").symlink_to(elsewhere)
    links = {"up": root, "self": root / "cat", "me": "me", "gone": "nowhere", "picture.jpg": elsewhere / "2.jpg"}
    for name, target in links.items():
        (root / "cat" / name).symlink_to(target)
    (root / "cat" / "sub" / "loop").symlink_to("../sub")
    os.mkfifo(root / "cat" / "fifo")
    entries, rejected = split(lister(root))
    assert [entry.name for entry in entries] == ["cat/1.jpg", "cat/picture.jpg", "cat/sub/3.jpg", "dog/2.jpg"]
    assert [entry.size for entry in entries] == [9, 5, 13, 5]
    assert [read_entry(root, entry) for entry in entries] == [b"cat/1.jpg", b"2.jpg", b"cat/sub/3.jpg", b"2.jpg"]
    listed = "a link to a folder that is already listed"
    assert dict(rejected) == {
        "cat/up": listed, "cat/self": listed, "cat/sub/loop": listed,
        "cat/me": "a broken link", "cat/gone": "a broken link", "cat/fifo": "not a regular file",
    }  # fmt: skip
    assert folder_classes(root) == ["cat", "dog"]


def test_folders_of_any_bytes_are_classes_as_people_read_them(tmp_path):
    names = [b"with space/a", b"dots.in.it/a", "größe/a".encode(), b"inv\xff/\xfe", b"b\\n/c\n"]
    write(tmp_path, *names)
    classes = folder_classes(tmp_path)
    assert classes == ["b\\n", "dots.in.it", "größe", "inv\\xff", "with space"] == sorted(classes)
    entries, _ = split(list_folder(tmp_path, {name: row for row, name in enumerate(classes, 1)}))
    assert {entry.category_id for entry in entries} == {1, 2, 3, 4, 5}
    assert sorted(entry.file for entry in entries) == sorted(names)
