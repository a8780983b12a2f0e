"""`eval` by other protocols and of some pictures, and whose word it is that a class is rare."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest

from richsem_schemas.scoring.detections import Detections
from richsem_train.data.repeat_factor import LVIS_THRESHOLD
from richsem_train.run.checkpoint import load_checkpoint
from tests.integration.train_command import altered_data
from tests.schemas.scoring.scoring_cases import COCO_METRICS, coco_oracle, fixed_oracle, lvis_oracle
from tests.trainer.tiny import LINEAR, VAL, Quiet

QUERIES, CLASSES = 8, 6
ONE_EPOCH = {"schedule__epochs": 1}


def without_frequencies(content):
    for category in content["categories"]:
        del category["frequency"]


@pytest.fixture(scope="session")
def checkpoint(trained):
    return trained / "checkpoints" / "last.pt"


def kept_detections(out):
    """What `eval --out` left, as one alone has it."""
    with pa.ipc.open_stream(out / "detections-00000.arrow") as stream:
        rows = sorted(stream.read_all().to_pylist(), key=lambda row: row["image_id"])
    found = [
        (row["image_id"], category, box, score)
        for row in rows
        for category, box, score in zip(row["category_ids"], row["boxes_xywh_px"], row["scores"], strict=True)
    ]
    return Detections(*map(np.array, zip(*found, strict=True)))


def metrics_of(command, *arguments):
    assert command("eval", *arguments, "--json", "--device", "cpu") == 0, command.stderr
    printed = json.loads(command.stdout)
    printed["metrics"] = {name: -1.0 if value is None else value for name, value in printed["metrics"].items()}
    return printed


def test_fixed_ap_is_of_all_that_the_detector_gives_and_says_how_much_that_is(command, world, checkpoint, tmp_path):
    printed = metrics_of(command, checkpoint, "--protocol", "fixed", "--out", tmp_path / "all")
    detections = kept_detections(tmp_path / "all")
    assert len(detections) == VAL * QUERIES * CLASSES
    data = json.loads((world.data / "val.json").read_text())
    assert printed["metrics"] == pytest.approx(fixed_oracle(data, detections, 10_000), abs=1e-7)
    assert printed["protocol"].startswith("Fixed AP (arXiv 2102.01066), the best 10,000 detections of each class, any")
    said = " ".join(command.stderr.split())
    assert "matched by LVIS's protocol" in said
    assert "the detector gives 8 boxes x 6 classes of each picture, 48 detections" in said
    assert "6 of 6 classes have fewer than 10,000 detections (at least 32): all that the detector gave" in said
    official = metrics_of(command, checkpoint, "--protocol", "fixed", "--scorer", "lvis")
    assert official["metrics"] == pytest.approx(printed["metrics"], abs=1e-7)


def test_each_protocol_is_that_of_its_evaluator_on_the_same_detections(command, world, checkpoint, tmp_path):
    data = json.loads((world.data / "val.json").read_text())
    for annotation in data["annotations"]:
        # `pycocotools` needs it.
        annotation.setdefault("iscrowd", 0)
    for protocol, oracle, words in (
        ("lvis", lvis_oracle, "LVIS's protocol, at most 5 detections a picture"),
        ("coco", coco_oracle, "COCO's protocol, at most 5 detections a picture, 100 of them of a class"),
    ):
        out = tmp_path / protocol
        arguments = (checkpoint, "--set", "evaluation.detections=5", "--protocol", protocol, "--out", out)
        printed = metrics_of(command, *arguments)
        assert printed["metrics"] == pytest.approx(oracle(data, kept_detections(out)), abs=1e-7)
        assert (printed["protocol"], printed["pictures"]) == (words, VAL)
        assert f"4 pictures of val.json are scored by {words}" in " ".join(command.stderr.split())
        assert printed["frequencies"] == "as val.json gives them"


def test_a_list_of_pictures_is_scored_alone(command, world, checkpoint, tmp_path):
    def first_two(content):
        content["images"] = content["images"][:2]
        kept = {each["id"] for each in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]

    few = altered_data(world, tmp_path / "few", val=first_two)
    images = json.loads((world.data / "val.json").read_text())["images"]
    (tmp_path / "list.txt").write_text(f"{images[1]['id']}\n{images[0]['file_name']}\n")
    part = metrics_of(command, checkpoint, "--pictures", tmp_path / "list.txt")
    assert part["pictures"] == 2
    assert part["metrics"] == metrics_of(command, checkpoint, "--set", f"data={few}")["metrics"]
    assert command("eval", checkpoint, "--pictures", tmp_path / "none.txt") == 1
    assert "none.txt: can't be read" in command.error
    (tmp_path / "list.txt").write_text("17.jpg")
    assert command("eval", checkpoint, "--pictures", tmp_path / "list.txt") == 1
    assert re.search(
        r"list\.txt: 1 of 1 pictures are not among the annotations' 4, by id or by name: '17\.jpg'", command.error
    )


def test_frequencies_of_training_go_with_the_checkpoint_to_what_is_scored(command, world, tmp_path):
    data = altered_data(world, tmp_path / "data", train=without_frequencies, val=without_frequencies)
    assert command.train(data=data, detection__format="coco", **ONE_EPOCH, **LINEAR) == 0, command.stderr
    said = " ".join(command.stderr.split())
    assert re.search(
        r"APr, APc and APf are of classes rare, common and frequent by .*; pictures as of train\.json", said
    )
    results = json.loads((command.out / "results.json").read_text())
    assert list(results["metrics"]) == COCO_METRICS
    assert results["frequencies"].endswith("; pictures as of train.json")
    last = command.out / "checkpoints" / "last.pt"
    info = load_checkpoint(last).info
    assert info.frequency_rule == results["frequencies"]
    assert set(info.frequencies[1:]) <= {"r", "c", "f"}
    printed = metrics_of(command, last)
    assert printed["frequencies"] == results["frequencies"]
    letters = dict(zip(info.category_ids or range(7), info.frequencies, strict=True))
    # What the scored file gives comes first, and the log's figures are those of the letters.
    given = altered_data(world, tmp_path / "given", val=lambda content: give(content, letters))
    again = metrics_of(command, last, "--set", f"data={given}")
    assert again["frequencies"] == "as val.json gives them"
    assert again["metrics"] == printed["metrics"]


def give(content, letters):
    for category in content["categories"]:
        category["frequency"] = letters[category["id"]]


def test_lviss_protocol_is_refused_where_a_file_has_not_what_it_needs(command, world, checkpoint, tmp_path):
    data = altered_data(world, tmp_path / "data", val=without_frequencies)
    assert (
        command("eval", checkpoint, "--set", f"data={data}", "--set", "detection.format=coco", "--protocol", "lvis")
        == 1
    )
    assert "has no `frequency` r, c or f. LVIS's metric needs it" in command.error
    assert command("eval", checkpoint, "--set", "detection.format=openimages", "--protocol", "lvis") == 1
    assert "--protocol lvis: annotations of openimages don't say" in command.error
    assert command("eval", checkpoint, "--protocol", "coco", "--scorer", "lvis") == 1
    assert "--scorer lvis scores by LVIS's metric" in command.error


@pytest.mark.parametrize(
    ("threshold", "said"),
    [
        (
            "auto",
            r"\d of 12 detection pictures are repeated, those of categories in fewer than \d "
            r"\(detection\.repeat_threshold auto, here 0\.\d+\): by a factor of 1\.\d at most",
        ),
        (
            LVIS_THRESHOLD,
            "no detection picture is repeated: none shows a category in a smaller share of them "
            r"\(detection\.repeat_threshold 0\.001\)",
        ),
        (None, None),
    ],
    ids=["auto", "lvis", "none"],
)
def test_a_run_says_what_is_repeated(world, tmp_path, threshold, said):
    reporter = Quiet()
    world.run(tmp_path / "run", reporter=reporter, detection__repeat_threshold=threshold, **ONE_EPOCH, **LINEAR)
    words = "\n".join(reporter.said)
    assert "repeated" not in words if said is None else re.search(said, words)
