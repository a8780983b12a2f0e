"""What is written whole takes the place of files alone: never of a pipe (or a device, which tests leave alone)."""

import os
import stat

import pytest

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import commit, temporary_path, write_atomically


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_pipe_is_not_replaced_and_nothing_is_left_beside_it(pipe):
    with pytest.raises(RichSemError, match=r"pipe is a pipe, a device or a socket.*name a file"):
        write_atomically(pipe, b"page")
    assert stat.S_ISFIFO(pipe.lstat().st_mode)
    assert os.listdir(pipe.parent) == ["pipe"]


def test_neither_is_a_link_to_one(pipe):
    link = pipe.with_name("link")
    link.symlink_to(pipe)
    with pytest.raises(RichSemError, match="link is a pipe"):
        write_atomically(link, b"page")
    assert link.is_symlink()


def test_a_pipe_that_came_while_the_file_was_written_stays(tmp_path):
    path = tmp_path / "page.html"
    temporary = temporary_path(path)
    temporary.write_bytes(b"page")
    os.mkfifo(path)
    with pytest.raises(RichSemError, match="is a pipe"):
        commit(temporary, path)
    assert stat.S_ISFIFO(path.lstat().st_mode)


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(RichSemError, match="is a folder, and a file is to be written there; name a file"):
        write_atomically(tmp_path, b"page")
    assert list(tmp_path.iterdir()) == []


def test_files_and_links_to_files_are_replaced_as_before(tmp_path):
    path = tmp_path / "page.html"
    path.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(path)
    for place in (path, link):
        write_atomically(place, b"new")
        assert place.read_bytes() == b"new"
