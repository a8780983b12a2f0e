"""`richsem-train report`: a page and a JSON file of a run's last evaluation."""

import html
import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pytest

from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.config import config_yaml
from richsem_train.results.rank_files import rank_file, write_detections
from richsem_train.run.log import LOG_NAME, read_log
from tests.trainer.tiny import LINEAR


@pytest.fixture
def run(world, tmp_path):
    """A folder as a run leaves it, without its training: detections are the boxes, some of them shaken."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text(config_yaml(world.config(**LINEAR)))
    content = json.loads((world.data / "val.json").read_text())
    rng = np.random.default_rng(0)
    pictures = []
    for image in content["images"]:
        mine = [each for each in content["annotations"] if each["image_id"] == image["id"]]
        xywh = np.array([each["bbox"] for each in mine], np.float32).reshape(-1, 4)
        xywh[:, 2:] *= rng.choice([1.0, 0.6], (len(mine), 1)).astype(np.float32)
        boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        categories = np.array([each["category_id"] for each in mine], np.int64)
        pictures.append(
            (image["id"], PictureDetections(categories, boxes, np.linspace(0.9, 0.5, len(mine), dtype="f4")))
        )
    write_detections(rank_file(out / "detections", 0), pictures)
    names = [each["name"] for each in content["categories"]]
    lines = [{"event": "train", "step": step, "loss": 10 / step, "losses": {}, "lr": 1e-3} for step in range(1, 9)]
    for step, ap in ((4, 0.0), (8, 0.25)):
        lines.append({"event": "classes", "step": step, "names": names, "frequencies": "r" * 6, "ap": [ap] * 6})
        lines.append({"event": "eval", "step": step, "AP": ap, "APr": ap})
    write_log(out, lines)
    return out


def write_log(out, lines):
    (out / LOG_NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def detections(out):
    return rank_file(out / "detections", 0)


def report_of(out):
    return json.loads((out / "report.json").read_text())


def test_a_page_and_a_file_say_the_same_of_each_class(command, run):
    assert command("report", run) == 0, command.stderr
    assert command.stdout == f"{run / 'report.html'}  {run / 'report.json'}\n"
    report, page = report_of(run), (run / "report.html").read_text()
    assert report["compared_with"] == "its own first evaluation, after 4 steps"
    assert len(report["classes"]) == 6
    defined = [each["ap"] for each in report["classes"] if each["ap"] is not None]
    assert np.mean(defined) == pytest.approx(report["metrics"]["AP"], abs=1e-4)
    for each in report["classes"]:
        assert html.escape(each["name"]) in page
        assert each["found"] + sum(each["not_found"].values()) == each["val_boxes"]
        assert each["train_pictures"] == 5 + report["classes"].index(each) + 1
    assert sum(each["val_boxes"] for each in report["classes"]) == report["groups"][0]["val_boxes"]
    # What was drawn too small is no object that is found.
    assert page.count("data:image/jpeg;base64,") > 0
    assert f"AP of {report['metrics']['AP']:.4f} and the last evaluation" in report["notes"][0]


def test_the_page_needs_nothing_from_elsewhere_and_names_are_no_markup(command, run):
    assert command("report", run, "--json") == 0, command.stderr
    assert json.loads(command.stdout)["step"] == 8
    page = (run / "report.html").read_text()
    assert not re.search(r"https?://|<script|<link|@import|src=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_another_run_is_what_classes_are_compared_with(command, run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    assert command("report", run, "--against", other, "--out", tmp_path / "page") == 0, command.stderr
    report = report_of(tmp_path / "page")
    assert str(other) in report["compared_with"]
    assert {each["ap_before"] for each in report["classes"]} == {0.25}
    assert not (run / "report.html").exists()
    # One from before logs had the APs of classes is scored again.
    write_log(other, [{"event": "eval", "step": 8, "AP": 0.25}])
    assert command("report", run, "--against", other) == 0, command.stderr
    assert {each["gain"] for each in report_of(run)["classes"] if each["ap"] is not None} == {0.0}


def test_pictures_that_are_gone_leave_a_report_without_them(command, run, world, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(world.data, data)
    for picture in sorted((data / "val").iterdir())[1:]:
        picture.unlink()
    (run / "config.yaml").write_text(config_yaml(world.config(**LINEAR, data=str(data))))
    assert command("report", run) == 0, command.stderr
    assert "pictures can't be shown; the first: " in command.stderr
    assert "can't be shown" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "config.yaml").unlink(), r"holds no run \(.*config\.yaml is missing\); name"),
        (lambda run: (run / LOG_NAME).unlink(), r"no log yet \(.*\); let it train up to an evaluation"),
        (lambda run: write_log(run, []), r"no evaluation in it; .*--resume"),
        (
            lambda run: write_log(run, [{"event": "eval", "step": 1, "AP": 0.5}, {"event": "classes", "step": 1}] * 2),
            r"log\.jsonl: its APs of classes at step 1 .*mend or delete that line",
        ),
        (lambda run: detections(run).write_bytes(b"none"), r"can't be read as detections .* detects again"),
        (
            lambda run: detections(run).write_bytes(detections(run).read_bytes()[:700]),
            r"detections-00000\.arrow.* detects again: delete that folder",
        ),
        (lambda run: foreign(detections(run)), r"has fields \['a'\], not .* detects again"),
        (lambda run: write_detections(detections(run), []), r"of 4 pictures were never evaluated"),
        (
            lambda run: shutil.rmtree(run / "detections"),
            r"are missing, and so is .*last\.pt, which would detect again; bring either back",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_is_refused(command, run, damage, message):
    damage(run)
    command("report", run, "--against", run)
    assert re.search(message, command.error), command.error
    assert not (run / "report.html").exists()


def foreign(path):
    table = pa.table({"a": [1]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)


def test_what_is_read_is_not_written_over(command, run):
    (run / "report.json").symlink_to(run / LOG_NAME)
    command("report", run)
    assert "would be overwritten" in command.error


def test_a_trained_run_is_reported_and_detects_again_where_its_detections_are_gone(command, trained, tmp_path):
    log = read_log(trained / LOG_NAME)
    (record,) = log.class_aps
    out = tmp_path / "copy"
    shutil.copytree(trained, out)
    assert command("report", out) == 0, command.stderr
    report = report_of(out)
    assert not report["notes"]
    assert report["compared_with"] is None
    assert report["metrics"]["AP"] == pytest.approx(log.evaluations[-1]["metrics"]["AP"], abs=1e-5)
    assert [each["ap"] for each in report["classes"]] == pytest.approx(record["ap"], abs=1e-5)
    shutil.rmtree(out / "detections")
    assert command("report", out, "--device", "cpu") == 0, command.stderr
    assert "no detections; " in command.stderr
    assert report_of(out) == report


def test_compare_says_which_classes_gained(command, world, run, tmp_path):
    runs = []
    for name, ap in (("plain", (0.2, 0.21)), ("soft", (0.5, 0.53))):
        for seed in (0, 1):
            out = tmp_path / f"{name}-{seed}"
            shutil.copytree(run, out)
            (out / "config.yaml").write_text(config_yaml(world.config(**LINEAR, name=name, seed=seed)))
            lines = [json.loads(line) for line in (out / LOG_NAME).read_text().splitlines()]
            lines[-2]["ap"] = [ap[seed], *lines[-2]["ap"][1:]]
            write_log(out, lines)
            (out / "results.json").write_text(json.dumps({"step": 8, "metrics": {"AP": 0.2}, "seconds_a_step": 1}))
            runs.append(out)
    assert command("compare", *runs, "--json") == 0, command.stderr
    told = json.loads(command.stdout)["classes"]["soft"]
    assert told["seeds"] == [0, 1]
    first = told["classes"][0]
    assert first["gain"] == pytest.approx(0.31)
    assert 0 < first["p"] < 0.05
    assert command("compare", *runs) == 0, command.stderr
    assert "of 6 classes 1 gained and 0 lost, " in " ".join(command.stdout.split())
    assert command("compare", runs[0], runs[2]) == 0, command.stderr
    assert "can't be told from one seed" in " ".join(command.stdout.split())
