import os
from pathlib import Path

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.results.picture_files import picture_files


@pytest.fixture
def folder(tmp_path):
    for name in (
        *("10.jpg", "2.JPG", "a10b.png", "a2b.png", "B.webp", "notes.txt", ".hidden.jpg", "._2.JPG"),
        *("night/3.jpg", "night/deep/1.gif", ".thumbs/2.jpg"),
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(paths, folder):
    return [path.relative_to(folder).as_posix() for path in paths]


def test_a_folder_gives_its_pictures_of_any_depth_in_natural_order_and_nothing_hidden(folder):
    assert names(picture_files(folder), folder) == [
        "2.JPG", "10.jpg", "a2b.png", "a10b.png", "B.webp", "night/3.jpg", "night/deep/1.gif"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["10.jpg"]),
        ("*", ["2.JPG", "10.jpg", "a2b.png", "a10b.png", "B.webp"]),
        ("**/[13]*", ["10.jpg", "night/3.jpg", "night/deep/1.gif"]),
        ("a?b.png", ["a2b.png"]),
    ],
)
def test_a_pattern_gives_the_pictures_that_it_matches(folder, pattern, wanted):
    assert names(picture_files(folder / pattern), folder) == wanted


def test_places_keep_their_order_and_each_file_comes_once(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    found = picture_files("photos/night", "photos/10.jpg", folder, "photos/*.jpg")
    assert [path.name for path in found] == ["3.jpg", "1.gif", "10.jpg", "2.JPG", "a2b.png", "a10b.png", "B.webp"]
    assert found[1] == Path("photos/night/deep/1.gif")


def test_a_file_that_is_named_counts_whatever_it_is_called_and_whether_it_is_there(folder):
    asked = [folder / "notes.txt", folder / "nowhere.jpg", folder / ".hidden.jpg"]
    assert picture_files(*asked) == asked


def test_what_exists_by_its_name_is_no_pattern(folder):
    for name in ("b[1].jpg", "b1.jpg"):
        (folder / name).touch()
    assert names(picture_files(folder / "b[1].jpg"), folder) == ["b[1].jpg"]
    (folder / "[new]").mkdir()
    (folder / "[new]" / "x.jpg").touch()
    assert names(picture_files(folder / "[new]"), folder) == ["[new]/x.jpg"]


def test_earlier_results_in_the_folder_are_left_out(folder):
    (folder / "seen").mkdir()
    (folder / "seen" / "10.jpg").touch()
    for place in (folder, folder / "**/10.jpg"):
        assert "seen/10.jpg" not in names(picture_files(place, leave_out=folder / "seen"), folder)
    # What is asked for itself is shown.
    assert names(picture_files(folder / "seen", leave_out=folder / "seen"), folder) == ["seen/10.jpg"]


def test_links_to_folders_are_not_followed_into_circles(folder):
    (folder / "night" / "again").symlink_to(folder, target_is_directory=True)
    assert len(picture_files(folder)) == 7


@pytest.mark.parametrize(
    ("files", "said"),
    [([], "it holds no file"), (["a.txt", "b/c.json"], r"none of its 2 files ends in \.jpg, .* or \.pnm")],
)
def test_a_folder_without_pictures_is_refused(tmp_path, files, said):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(RichSemError, match=rf"{tmp_path}: a folder without pictures: {said}.*; name a folder with"):
        picture_files(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "said"), [("*.bmp", "no file is called so"), ("n*.*", r"none of the 1 files ends in \.jpg")]
)
def test_a_pattern_that_matches_no_picture_is_refused(folder, pattern, said):
    with pytest.raises(RichSemError, match=rf"the pattern matches no picture: {said}"):
        picture_files(folder / pattern)


def test_a_url_is_refused():
    with pytest.raises(RichSemError, match="is a URL, and a local path is needed"):
        picture_files("s3://bucket/photos/*.jpg")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_refused(folder):
    (folder / "night").chmod(0)
    try:
        with pytest.raises(RichSemError, match="night: the folder can't be read"):
            picture_files(folder)
    finally:
        (folder / "night").chmod(0o755)
