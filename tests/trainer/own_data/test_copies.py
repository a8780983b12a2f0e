"""Pictures are known again by their bytes, or by how they look."""

from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from richsem_train.console import ConsoleReporter
from richsem_train.own_data.looked_at import groups_of_copies, look_at_pictures
from richsem_train.own_data.near_copies import groups_of_near_copies

QUIET = ConsoleReporter(Console(quiet=True))
COCO = Path(__file__).parents[4] / "shared" / "data" / "coco128" / "train2017"


def drawn(seed):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((160, 128), Image.Resampling.BICUBIC)


def test_files_of_the_same_bytes_are_copies_and_those_of_the_same_size_are_not(tmp_path):
    data = bytearray(100_000)
    files = []
    drawn(0).save(tmp_path / "x.bmp")
    picture = (tmp_path / "x.bmp").read_bytes()
    for name, byte in (("a", 0), ("b", 0), ("c", 1)):
        data[50_000] = byte
        # They differ in the middle alone, behind what is looked at first.
        files.append(tmp_path / f"{name}.bmp")
        files[-1].write_bytes(picture + bytes(data))
    looks = look_at_pictures(files, QUIET)
    assert [look.hw for look in looks] == [(128, 160)] * 3
    assert groups_of_copies(files, looks, QUIET) == [[0, 1]]


def test_pictures_that_were_saved_anew_or_resized_look_the_same(tmp_path):
    files = []
    for name, image, options in (
        ("a.png", drawn(1), {}),
        ("b.png", drawn(2), {}),
        ("a.jpg", drawn(1), {"quality": 80}),
        ("a_small.jpg", drawn(1).resize((80, 64)), {"quality": 90}),
        ("flat_1.png", Image.new("RGB", (64, 64), "white"), {}),
        ("flat_2.png", Image.new("RGB", (64, 64), "white"), {}),
    ):
        files.append(tmp_path / name)
        image.save(files[-1], **options)
    assert groups_of_near_copies(files, QUIET) == [[0, 2, 3]]


def test_broken_and_missing_pictures_are_told(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8\xffnothing")
    (tmp_path / "b.jpg").write_bytes(b"")
    looks = look_at_pictures([tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"], QUIET)
    assert [look.hw for look in looks] == [None] * 3
    assert looks[1].problem == "an empty file: 0 bytes"
