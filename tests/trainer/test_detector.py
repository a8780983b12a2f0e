"""The Python interface to a trained detector: the same detections as the command line's, from any kind of picture."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import richsem_train
from richsem_schemas.errors import PictureError, RichSemError
from richsem_train import Detector, train
from richsem_train.results.rank_files import merge_detections, rank_file
from tests.trainer.tiny import VAL, one_thread


@pytest.fixture(scope="module")
def run(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("detector") / "out"
    world.run(out, schedule__epochs=1, evaluation__detections=40)
    return out


@pytest.fixture(scope="module")
def detector(run):
    with one_thread():
        yield Detector.load(run, "cpu")


@pytest.fixture(scope="module")
def paths(world):
    return sorted((world.data / "val").iterdir())


def assert_same(one, other):
    assert one.class_names == other.class_names
    for field in ("boxes_xyxy_px", "scores", "category_ids"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def assert_equal(found, wanted):
    """But for the last bits, which the size of a batch changes."""
    assert found.class_names == wanted.class_names
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-6)
    np.testing.assert_allclose(found.boxes_xyxy_px, wanted.boxes_xyxy_px, atol=1e-3)


def test_the_package_offers_it_and_imports_no_torch_before_it_is_asked_for():
    assert richsem_train.Detector is Detector
    assert not hasattr(richsem_train, "Nothing")
    code = "import sys, richsem_train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_found_has_types_order_and_names(detector, paths):
    found = detector.predict(paths[0])
    assert len(found) == 40
    assert found.boxes_xyxy_px.dtype == found.scores.dtype == np.float32
    assert found.boxes_xyxy_px.shape == (40, 4)
    assert (np.diff(found.scores) <= 0).all()
    # In the tiny world a category's id is its row.
    assert found.class_names == tuple(detector.classes.names[number] for number in found.category_ids)
    assert set(found.category_ids.tolist()) <= set(range(1, 7))


def test_a_path_an_array_and_a_picture_of_pils_are_one_and_the_same(detector, paths):
    picture = Image.open(paths[0])
    found = detector.predict(paths[0])
    for same in (str(paths[0]), picture, picture.convert("RGBA"), np.asarray(picture.convert("RGB"))):
        assert_same(detector.predict(same), found)


def test_an_open_file_is_turned_upright_as_its_path_is(detector, paths, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[0]).convert("RGB").crop((0, 0, 60, 30)).save(path, exif=exif)
    found = detector.predict(path)
    assert_same(detector.predict(Image.open(path)), found)
    assert found.boxes_xyxy_px[:, 0::2].max() <= 30 < found.boxes_xyxy_px[:, 1::2].max() <= 60


def test_many_pictures_are_found_as_each_alone_in_their_order(detector, paths):
    """Of several sizes, and more than are read ahead."""
    many = [Image.open(path).convert("RGB").resize(size) for size in ((40, 60), (60, 40)) for path in paths] * 5
    found = detector.predict(iter(many))
    assert len(found) == 10 * VAL
    for one, picture in zip(found, many[: 2 * VAL], strict=False):
        assert_equal(one, detector.predict(picture))
    assert_equal(found[-1], found[2 * VAL - 1])
    assert detector.predict([]) == []


def test_the_threshold_and_the_number_cut_off_the_worst(detector, paths):
    all_found = detector.predict(paths[0])
    assert_same(detector.predict(paths[0], top_k=np.int64(40)), all_found)
    assert detector.predict(paths[0], top_k=3).scores.tolist() == all_found.scores[:3].tolist()
    # More than are scored: all pairs of 8 queries and 6 classes.
    assert len(detector.predict(paths[0], top_k=1000)) == 48
    kept = detector.predict(paths[0], score_threshold=float(all_found.scores[4]))
    assert kept.scores.tolist() == all_found.scores[:5].tolist()
    assert len(detector.predict(paths[0], score_threshold=1)) == 0
    assert detector.predict(paths[0], score_threshold=1).to_coco(3) == []


def test_the_predict_command_gives_the_same(command, detector, run, paths, tmp_path):
    with one_thread():
        assert command("predict", run / "checkpoints" / "best.pt", *paths, "--out", tmp_path, "--device", "cpu") == 0
        found = detector.predict(paths)
    records = json.loads((tmp_path / "predictions.json").read_text())["pictures"]
    assert [record["source"] for record in records] == list(map(str, paths))
    for record, one in zip(records, found, strict=True):
        listed = record["detections"]
        assert [each["name"] for each in listed] == list(one.class_names)
        assert [each["category_id"] for each in listed] == one.category_ids.tolist()
        np.testing.assert_allclose([each["score"] for each in listed], one.scores, atol=2e-6)
        np.testing.assert_allclose([each["box_xyxy_px"] for each in listed], one.boxes_xyxy_px, atol=0.01)


def test_what_eval_scores_is_the_same_in_the_result_format_of_coco(command, detector, run, paths, tmp_path):
    alone = ("--set", "evaluation.batch_size=1")
    with one_thread():
        assert command("eval", run / "checkpoints" / "best.pt", *alone, "--out", tmp_path, "--device", "cpu") == 0
        found = detector.predict(paths)
    scored = merge_detections([rank_file(tmp_path, 0)], range(1, VAL + 1)).as_results()
    results = [each for image_id, one in enumerate(found, start=1) for each in one.to_coco(image_id)]
    assert [(each["image_id"], each["category_id"]) for each in results] == [
        (each["image_id"], each["category_id"]) for each in scored
    ]
    np.testing.assert_allclose([each["score"] for each in results], [each["score"] for each in scored], atol=1e-6)
    np.testing.assert_allclose([each["bbox"] for each in results], [each["bbox"] for each in scored], atol=1e-3)
    json.dumps(results, allow_nan=False)


def test_checkpoints_runs_and_exported_weights_can_be_loaded(command, detector, run, paths, tmp_path):
    checkpoints, exported = run / "checkpoints", tmp_path / "weights.safetensors"
    assert command("export", checkpoints / "best.pt", "--out", exported) == 0
    with one_thread():
        found = detector.predict(paths[0])
        for path in (str(run), checkpoints / "best.pt", exported):
            assert_same(Detector.load(path, device=torch.device("cpu")).predict(paths[0]), found)


def test_a_run_without_a_best_checkpoint_gives_its_last(run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").symlink_to(run / "checkpoints" / "last.pt")
    assert Detector.load(tmp_path).info.class_names[1] == "a cat"


@pytest.mark.parametrize("name", ["", "none.pt"], ids=["an empty folder", "no file"])
def test_what_is_no_checkpoint_is_named(tmp_path, name):
    with pytest.raises(RichSemError, match="checkpoint") as caught:
        Detector.load(tmp_path / name)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(("path", "message"), [("", "a path is empty"), ("memory://run", "is a URL")])
def test_what_is_no_local_path_is_refused(path, message):
    with pytest.raises(RichSemError, match=message):
        Detector.load(path)
    with pytest.raises(RichSemError, match=message):
        train("demo", path)


RGB = np.zeros((4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (RGB / 255, r"images is an array float64 \[4, 6, 3\]; a picture is uint8 .*\(array \* 255\)\.round\(\)"),
        ([RGB, RGB.astype(np.int64)], r"images\[1\] is an array int64 .*array\.astype\(numpy\.uint8\)"),
        (RGB.transpose(2, 0, 1), r"\[3, 4, 6\].*array\.transpose\(1, 2, 0\)"),
        (RGB[..., 0], r"\[4, 6\].*numpy\.stack\(\[array\] \* 3, axis=2\)"),
        (np.zeros((4, 6, 4), np.uint8), r"\[4, 6, 4\].*array\[\.\.\., :3\]"),
        (RGB[None], r"\[1, 4, 6, 3\].*list\(array\)"),
        (RGB[:0], r"\[0, 6, 3\].*no pixels"),
        (RGB[..., :1], r"\[4, 6, 1\].*PIL\.Image\.open"),
        (7, "images is of type int; a picture is a path, a PIL picture, or a NumPy array"),
        ([RGB, None], r"images\[1\] is of type NoneType"),
        ("gone.jpg", r"gone\.jpg: no such file"),
        (["."], r"\.: a folder or a device"),
        (Image.new("F", (4, 4)), "images: floating-point pixels"),
        (Image.new("RGB", (0, 5)), "images: 0 x 5 pixels"),
        ("a\0b.jpg", "a\0b.jpg: "),
    ],
)
def test_what_is_no_picture_is_told_with_the_rule_and_a_remedy(detector, images, message):
    with pytest.raises(PictureError, match=message):
        detector.predict(images)


def test_a_file_that_is_damaged_when_pixels_are_read_is_told(detector, paths, tmp_path):
    (tmp_path / "cut.png").write_bytes(paths[0].read_bytes()[:2000])
    for picture in (tmp_path / "cut.png", Image.open(tmp_path / "cut.png")):
        with pytest.raises(PictureError, match=r"cut\.png: |images: "):
            detector.predict(picture)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": 1.5}, r"score_threshold is 1\.5; scores run from 0 to 1"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"top_k": 0}, "top_k is 0; give a whole number from 1 on"),
        ({"score_threshold": None}, "score_threshold is None"),
        ({"score_threshold": "0.5"}, r"score_threshold is '0\.5'"),
        ({"top_k": 2.0}, r"top_k is 2\.0"),
        ({"top_k": True}, "top_k is True"),
    ],
)
def test_options_that_cannot_be_are_refused(detector, options, message):
    with pytest.raises(RichSemError, match=message):
        detector.predict(RGB, **options)


def test_weights_that_give_no_numbers_are_told(run, paths):
    broken = Detector.load(run, "cpu")
    for weight in broken.batches.model.bbox_embed.parameters():
        weight.data.fill_(float("nan"))
    with pytest.raises(RichSemError, match=r"not finite, the first in images\[0\]"):
        broken.predict(paths[:2])


def test_classes_that_annotations_have_not_are_named_and_left_out_of_results(detector, paths):
    info = detector.info
    ids = tuple(-1 if row % 2 else 100 + row for row in range(len(info.class_names)))
    other = type(detector)(detector.batches, type(info)(**(vars(info) | {"category_ids": ids})))
    found = other.predict(paths[0])
    assert set(found.category_ids.tolist()) <= {-1, 102, 104, 106}
    results = found.to_coco(9)
    assert len(results) == int((found.category_ids > 0).sum()) > 0
    assert {each["image_id"] for each in results} == {9}
    assert {each["category_id"] for each in results} <= {102, 104, 106}
    left, top, right, bottom = found.boxes_xyxy_px[found.category_ids > 0][0].tolist()
    assert results[0]["bbox"] == pytest.approx([left, top, right - left, bottom - top])
