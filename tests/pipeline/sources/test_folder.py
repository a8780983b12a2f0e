import os
import sys

import pytest

from richsem_prep.sources.folder import folder_classes, list_folder
from richsem_schemas.errors import SourceError
from tests.pipeline.sources.listings import split, write


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
    assert rejected == []


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
    assert rejected == []


def test_archives_are_rejected_not_opened(tmp_path):
    write(tmp_path, "cat/1.jpg", "cat/more.tar", "dog.TAR.GZ", "all.zip")
    entries, rejected = split(list_folder(tmp_path, {}))
    assert [entry.name for entry in entries] == ["cat/1.jpg"]
    assert sorted(rejected) == [(name, "an archive; unpack it") for name in ("all.zip", "cat/more.tar", "dog.TAR.GZ")]


def test_order_does_not_depend_on_the_file_system(tmp_path):
    names = ["b/2", "b/10", "b/1", "a/z", "a/Z", "a.b/1", "a/c/1", "a/c.d", "1"]
    write(tmp_path, *names)
    entries, _ = split(list_folder(tmp_path, {}))
    assert [entry.name for entry in entries] == ["1", "a/Z", "a/c/1", "a/c.d", "a/z", "a.b/1", "b/1", "b/10", "b/2"]


def test_what_is_no_file_is_rejected(tmp_path):
    write(tmp_path, "cat/1.jpg")
    os.mkfifo(tmp_path / "cat" / "fifo.jpg")
    os.mkfifo(tmp_path / "fifo.jpg")
    _, rejected = split(list_folder(tmp_path, {}))
    assert rejected == [("cat/fifo.jpg", "not a regular file"), ("fifo.jpg", "not a regular file")]


def test_deep_folders_do_not_exhaust_the_stack(tmp_path):
    write(tmp_path, "d/" * 400 + "1.jpg")
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(300)
        entries, _ = split(list_folder(tmp_path, {}))
    finally:
        sys.setrecursionlimit(limit)
    assert [entry.name for entry in entries] == ["d/" * 400 + "1.jpg"]


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
