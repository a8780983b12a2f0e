import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richsem_schemas.errors import RichSemError
from richsem_train.results.compare_detectors import Contender, compare_detectors, titles_of, unshared_classes_note
from richsem_train.results.found_tables import found_line
from richsem_train.results.matching import Tally
from richsem_train.results.predict import predict
from tests.trainer.results.classes import class_table, detections

CLASSES_A = class_table({1: "cat", 2: "gas_mask", 3: "zebra"}, {1: "f", 2: "r", 3: "c"})
CLASSES_B = class_table({1: "gas_mask", 2: "cat", 3: "ox"}, {1: "r", 2: "f", 3: "c"})
FOUND_A = detections([1, 0, 0, 20, 20, 0.9], [2, 30, 0, 50, 20, 0.8], [3, 0, 20, 20, 40, 0.7], [2, 0, 0, 9, 9, 0.1])
FOUND_B = detections([2, 0, 0, 20, 18, 0.2], [3, 40, 20, 60, 40, 0.6], [1, 0, 20, 20, 40, 0.5])[[1, 2, 0]]
WANTED = {
    "all": Tally(both=1, only_a=1, only_b=1, unknown_to_a=1, unknown_to_b=1),
    "rare": Tally(only_a=1, only_b=1),
    "common": Tally(unknown_to_a=1, unknown_to_b=1),
    "frequent": Tally(both=1),
}


def contender(title, classes, found):
    return Contender(title, Path(f"{title}.pt"), classes, lambda _: found)


A, B = contender("a", CLASSES_A, FOUND_A), contender("b", CLASSES_B, FOUND_B)


@pytest.fixture
def paths(tmp_path):
    for name in ("one.jpg", "two.png"):
        Image.new("RGB", (60, 40), (100, 120, 140)).save(tmp_path / name)
    return [tmp_path / name for name in ("one.jpg", "two.png")]


def report(out):
    return json.loads((out / "predictions.json").read_text())


def test_what_was_found_by_whom_is_told_of_each_detection_picture_and_in_total(paths, tmp_path):
    done = compare_detectors(paths, A, B, tmp_path / "out")
    assert done.found_in == [WANTED, WANTED]
    assert done.found["all"] == Tally(2, 2, 2, 2, 2)
    told = report(tmp_path / "out")
    assert told["a"] == {"title": "a", "checkpoint": "a.pt", "only_it_knows": ["zebra"]}
    assert told["b"]["only_it_knows"] == ["ox"]
    assert told["score_threshold"] == 0.3
    assert told["found"] == {name: asdict(each) for name, each in done.found.items()}
    for picture in told["pictures"]:
        assert picture["found"] == {name: asdict(each) for name, each in WANTED.items()}
        a, b = picture["detections"]["a"], picture["detections"]["b"]
        assert [(each["name"], each["found_by_other"], each["score_of_other"]) for each in a] == [
            ("cat", True, 0.2),
            ("gas_mask", False, None),
            ("zebra", None, None),
            ("gas_mask", None, None),
        ]
        assert [(each["name"], each["found_by_other"], each["score_of_other"]) for each in b] == [
            ("ox", None, None),
            ("gas_mask", False, None),
            ("cat", True, 0.9),
        ]


def test_detections_are_those_that_each_detector_alone_gives(paths, tmp_path):
    ids = replace(CLASSES_B, category_ids=(-1, 70, 80, -1))
    compare_detectors(paths, A, replace(B, classes=ids), tmp_path / "both")
    for name, classes, found in (("a", CLASSES_A, FOUND_A), ("b", ids, FOUND_B)):
        predict(paths, lambda _, found=found: found, tmp_path / name, classes=classes)
        for alone, both in zip(report(tmp_path / name)["pictures"], report(tmp_path / "both")["pictures"], strict=True):
            records = [dict(each) for each in both["detections"][name]]
            for each in records:
                del each["found_by_other"], each["score_of_other"]
            assert records == alone["detections"]
            assert {key: both[key] for key in ("name", "source", "height", "width")} == {
                key: alone[key] for key in ("name", "source", "height", "width")
            }


def test_files_are_called_as_those_of_one_detector(paths, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    seen = []
    done = compare_detectors(
        [*paths, tmp_path / "bad.jpg"],
        A,
        B,
        tmp_path / "out",
        on_picture=lambda path, problem: seen.append((path.name, problem is None)),
    )
    assert seen == [("one.jpg", True), ("two.png", True), ("bad.jpg", False)]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *["one.jpg", "two.png", "predictions.json", "sheet.jpg"]
    }
    assert [path.name for path in done.pictures] == ["one.jpg", "two.png"]
    assert [path for path, _ in done.failed] == [tmp_path / "bad.jpg"]
    assert len(done.found_in) == 2
    with Image.open(tmp_path / "out" / "two.png") as pair:
        assert pair.format == "PNG"
        # Two copies of 60 x 40, eight times as large.
        assert pair.width > 2 * 480
        assert 320 < pair.height < 480


def test_no_pictures_give_an_empty_report(tmp_path):
    done = compare_detectors([], A, B, tmp_path)
    assert done.found["all"] == Tally()
    assert report(tmp_path)["pictures"] == []


def test_vocabularies_without_frequencies_are_counted_together(paths, tmp_path):
    plain = [replace(each, classes=replace(each.classes, frequencies=("",) * 4)) for each in (A, B)]
    assert list(compare_detectors(paths, *plain, tmp_path / "out").found) == ["all"]


@pytest.mark.parametrize("which", ["a", "b"])
def test_detections_that_are_no_numbers_name_the_detector(paths, tmp_path, which):
    broken = detections([1, 0, 0, 9, np.nan, 0.9])
    pair = [replace(each, detect=lambda _: broken) if each.title == which else each for each in (A, B)]
    with pytest.raises(RichSemError, match=rf"not finite, the first in .*one\.jpg by {which}\.pt"):
        compare_detectors(paths, *pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_classes_that_only_one_knows_are_named():
    assert unshared_classes_note(A, B) == (
        "classes: 1 that only a knows (zebra) and 1 that only b knows (ox); what is found of them is drawn without "
        "arrows and counted apart"
    )
    assert unshared_classes_note(A, A) is None
    one = contender("one", class_table({1: "cat"}), detections())
    assert unshared_classes_note(A, one).startswith("classes: 2 that only a knows (gas_mask, zebra); ")
    with pytest.raises(RichSemError, match="no class in common"):
        unshared_classes_note(A, contender("c", class_table({1: "yak"}), detections()))


@pytest.mark.parametrize(
    ("names", "paths", "titles"),
    [
        (("base", "rich"), ("a.pt", "b.pt"), ("base", "rich")),
        (("x", "x"), ("runs/x-0/checkpoints/best.pt", "runs/x-1/checkpoints/best.pt"), ("x-0", "x-1")),
        (("x", "x"), ("runs/x/checkpoints/best.pt", "runs/x/checkpoints/last.pt"), ("best.pt", "last.pt")),
        (("x", "x"), ("/a/one/b/best.pt", "/a/two/c/best.pt"), ("one/b", "two/c")),
        (("x", "x"), ("best.pt", "old/best.pt"), ("best.pt", "old/best.pt")),
        (("x", "x"), ("best.pt", "best.pt"), ("best.pt", "best.pt")),
    ],
)
def test_titles_are_names_of_configs_or_what_differs_in_the_paths(names, paths, titles):
    assert titles_of(names, tuple(map(Path, paths))) == titles


def test_a_line_tells_the_counts_of_a_picture():
    assert found_line(WANTED, "base", "rich") == (
        "1 by both, 1 by base alone (1 rare), 1 by rich alone (1 rare), 1 by base of classes that rich doesn't know, "
        "1 by rich of classes that base doesn't know"
    )
    assert found_line({"all": Tally(both=2)}, "a", "b") == "2 by both, 0 by a alone, 0 by b alone"
