import errno
import os
import pickle
import shutil

import pytest

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.output_files import FullDiskError, full_disk_named, require_no_inputs
from richsem_schemas.io.words import told_in_one_line


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in" / "a.jpg"
    path.parent.mkdir()
    path.write_bytes(b"pixels")
    return path


def refused(output, *inputs):
    with pytest.raises(RichSemError) as error:
        require_no_inputs([output], inputs, remedy="name another --out")
    assert str(error.value).startswith(f"{output} would be overwritten")
    assert str(error.value).endswith("; name another --out")
    return str(error.value)


def test_an_output_that_is_an_input_is_refused_by_any_name(picture, tmp_path, monkeypatch):
    assert str(picture) not in refused(picture, picture).removeprefix(str(picture))
    monkeypatch.chdir(tmp_path)
    refused(picture.relative_to(tmp_path), picture)
    refused(tmp_path / "in" / ".." / "in" / "a.jpg", picture)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_links_are_followed_from_either_side(picture, tmp_path, link):
    link(picture, tmp_path / "b.jpg")
    assert f"(it is {picture})" in refused(tmp_path / "b.jpg", picture)
    refused(picture, tmp_path / "b.jpg")


def test_a_linked_folder_is_the_folder(picture, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "in")
    refused(tmp_path / "out" / "a.jpg", picture)


def test_new_files_missing_inputs_and_broken_links_are_no_matter(picture, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    outputs = [tmp_path / "new.jpg", tmp_path / "in" / "A.JPG", tmp_path / "loop", tmp_path / ("x" * 999)]
    require_no_inputs(outputs, [picture, tmp_path / "gone", tmp_path / "loop", tmp_path / ("x" * 999)], remedy="")
    assert picture.read_bytes() == b"pixels"


def test_a_copy_is_another_file(picture, tmp_path):
    copy = tmp_path / "copy.jpg"
    shutil.copy(picture, copy)
    require_no_inputs([copy], [picture], remedy="")


def test_a_full_disk_is_told_with_the_file_and_the_space(tmp_path):
    path = tmp_path / "not yet" / "x.bin"
    with pytest.raises(FullDiskError) as error, full_disk_named(path, needed=12_345):
        raise OSError(errno.ENOSPC, "No space left on device")
    free = shutil.disk_usage(tmp_path).free
    told = told_in_one_line(error.value)
    assert told.startswith(f"{path}: No space left on device (")
    assert told.endswith(" bytes are free, 12,345 are needed); free some, or write to another disk")
    assert int(told.partition("(")[2].partition(" ")[0].replace(",", "")) == pytest.approx(free, rel=0.2)
    # As from a worker of another process.
    assert told_in_one_line(pickle.loads(pickle.dumps(error.value))) == told


def test_of_a_quota_no_free_space_is_told_since_none_is_known(tmp_path):
    with pytest.raises(FullDiskError) as error, full_disk_named(tmp_path / "x"):
        raise OSError(errno.EDQUOT, "over")
    assert "free," not in error.value.strerror
    assert "(" not in error.value.strerror


def test_the_innermost_file_is_named(tmp_path):
    with (
        pytest.raises(FullDiskError) as error,
        full_disk_named(tmp_path / "outer"),
        full_disk_named(tmp_path / "inner"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "inner")


def test_other_errors_are_let_through(tmp_path):
    with pytest.raises(PermissionError), full_disk_named(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "Permission denied", "y")
    with pytest.raises(ValueError, match="x"), full_disk_named(tmp_path / "x"):
        raise ValueError("x")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/a/b"), "/a/b: No such file or directory"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", b"/a/\xff"),
            r"/a/\xff: No such file or directory",
        ),
        (OSError(errno.EXDEV, "Invalid cross-device link", "/a", None, "/b"), "/a -> /b: Invalid cross-device link"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (OSError("something"), "something"),
        (RichSemError("a message"), "a message"),
    ],
)
def test_errors_of_the_system_are_told_by_file_and_reason(error, told):
    assert told_in_one_line(error) == told
