import os
import time
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from richsem_schemas.annotations import read_annotations
from richsem_schemas.errors import RichSemError
from richsem_train.run import picture_check
from richsem_train.run.distributed import Ranks
from richsem_train.run.picture_check import look_at_all, require_pictures
from tests.trainer.tiny import TRAIN, Quiet, write_split

ALONE = Ranks(0, 1, torch.device("cpu"))


class Watching(Quiet):
    """Remembers how far it was told to be."""

    def __init__(self):
        super().__init__()
        self.total, self.moves = 0, []

    def begin(self, what, total, done=0):
        self.total = total

    def move(self, done, note=""):
        self.moves.append(done)


@pytest.fixture
def data(tmp_path):
    write_split(tmp_path, "train", TRAIN, seed=1)
    return read_annotations(tmp_path / "train.json", tmp_path / "train", may_miss=True)


def missing(data):
    return [each for _, found in look_at_all(data) for each in found]


def check(data, **options):
    reporter = Watching()
    require_pictures({"train": data}, ranks=ALONE, reporter=reporter, **options)
    return reporter


def test_whole_data_is_looked_at_to_the_end(data):
    reporter = Watching()
    require_pictures({"train": data, "val": data}, ranks=ALONE, reporter=reporter)
    assert reporter.total == reporter.moves[-1] == 2 * TRAIN
    assert reporter.said == []


@pytest.mark.parametrize("index", [0, 1, 7, TRAIN - 1])
def test_any_single_missing_picture_is_found_and_named(data, index):
    data.path(index).unlink()
    assert [each.index for each in missing(data)] == [index]
    with pytest.raises(RichSemError) as error:
        check(data)
    assert f"train: 1 of {TRAIN} pictures can't be read below {data.root}: {data.files[index]}" in str(error.value)
    assert "(No such file or directory)" in str(error.value)
    assert "or go on without them by detection.on_damage=skip" in str(error.value)
    assert check(data, skipping={"train"}).said == [
        f"train: 1 of {TRAIN} pictures can't be read below {data.root}: {data.files[index]} (No such file or "
        "directory); the next ones take their place"
    ]


def test_what_is_there_and_no_picture_file_is_missing_too(data, tmp_path):
    paths = [data.path(index) for index in range(5)]
    for path in paths:
        path.unlink()
    paths[0].mkdir()
    os.mkfifo(paths[1])
    paths[2].touch()
    paths[3].symlink_to(paths[3])
    paths[4].symlink_to(data.path(5))
    assert [(each.index, each.reason) for each in missing(data)] == [
        (0, "a folder or a device, no file"),
        (1, "a folder or a device, no file"),
        (2, "empty"),
        (3, "Too many levels of symbolic links"),
    ]


def test_both_splits_are_told_at_once_and_val_may_not_be_skipped(data):
    data.path(3).unlink()
    with pytest.raises(RichSemError) as error:
        require_pictures({"train": data, "val": data}, ranks=ALONE, reporter=Quiet())
    assert "train: 1 of 12" in str(error.value)
    assert "val: 1 of 12" in str(error.value)
    assert str(error.value).count("on_damage=skip") == 1
    with pytest.raises(RichSemError, match=r"^val: 1 of 12") as error:
        require_pictures({"train": data, "val": data}, skipping={"train"}, ranks=ALONE, reporter=Quiet())
    assert "on_damage" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "count", "is_refused"), [(0, 15, False), (0, 16, True), (30, 16, True), (30, 15, False)]
)
def test_more_in_a_row_than_loading_would_skip_are_refused(data, first, count, is_refused):
    files = [*data.files, *data.files, *data.files, *data.files[:2]]
    gone = {(first + number) % len(files) for number in range(count)}
    files = tuple("gone.png" if index in gone else name for index, name in enumerate(files))
    spoilt = replace(data, files=files)
    if is_refused:
        with pytest.raises(RichSemError, match="16 or more of them follow each other"):
            check(spoilt, skipping={"train"})
    else:
        assert len(check(spoilt, skipping={"train"}).said) == 1


def test_messages_name_three_and_count_the_others(data):
    for index in range(5):
        data.path(index).unlink()
    with pytest.raises(RichSemError) as error:
        check(data)
    assert "train: 5 of 12" in str(error.value)
    assert str(error.value).count(".png (No such file") == 3
    assert ", ...;" in str(error.value)


def test_a_slow_disk_is_asked_in_threads(data):
    """Each look takes 2 ms, as over a network: 3,072 of them would take 6 s one after the other."""
    many = replace(data, files=data.files * 256)
    real = os.stat

    def slow(path):
        time.sleep(0.002)
        return real(path)

    start = time.perf_counter()
    with patch.object(picture_check.os, "stat", slow):
        reporter = check(many)
    assert time.perf_counter() - start < 3
    assert reporter.moves == sorted(reporter.moves)
    assert len(reporter.moves) == 12


def test_other_ranks_look_at_nothing_and_stop_with_the_first(data):
    class Second(Ranks):
        def messages(self, ours):
            assert list(ours) == []
            return ["train: something is missing"]

    with (
        patch.object(picture_check, "look_at_all", None),
        pytest.raises(RichSemError, match=r"^rank 1 stops; rank 0 says why$"),
    ):
        require_pictures({"train": data}, ranks=Second(1, 2, torch.device("cpu")), reporter=Quiet())


@pytest.mark.parametrize(("name", "shown"), [("a\0b.png", "a\0b.png"), (os.fsdecode(b"a\xff.png"), r"a\xff.png")])
def test_names_that_no_file_can_have_are_missing_ones(data, name, shown):
    with pytest.raises(RichSemError) as error:
        check(replace(data, files=(name, *data.files[1:])))
    assert f"1 of {TRAIN} pictures can't be read below {data.root}: {shown} (" in str(error.value)
    str(error.value).encode()
