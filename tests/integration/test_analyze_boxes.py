"""`richsem-prep analyze zero-shot` and `location-noise` as a user types them, on real pictures and the demo's world."""

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from PIL import Image
from scipy.special import log_softmax
from torchvision.transforms import v2

from richsem_prep.demo import TEACHER_DIR
from richsem_prep.demo.dataset import VAL_ANNOTATIONS, write_demo
from richsem_schemas.cache.reader import open_cache
from tests.integration.programs import error_of
from tests.integration.shard_job import shard
from tests.pipeline.analyses import direct
from tests.pipeline.analyses.split import cache_of, write_split
from tests.schemas.scoring.scoring_cases import lvis_oracle

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco128"
WHOLES = {"crops": None, "mosaics": None, "pictures": None, "teacher_size": 192, "windows": 0, "whole": True}
LETTERS = {"all": None, "rare": "r", "common": "c", "frequent": "f"}


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Wholes of real pictures, seen by the demo's teacher, whose text is that of 79 of LVIS's categories."""
    if not COCO.is_dir():
        pytest.skip(f"no real pictures at {COCO}")
    folder = tmp_path_factory.mktemp("real")
    data = json.loads((COCO / "annotations" / "lvis_style_train.json").read_text())
    # Other ids, since LVIS's own would have the teacher read all of LVIS's names.
    shown = sorted({annotation["category_id"] for annotation in data["annotations"]})
    number_of = {category_id: number for number, category_id in enumerate(shown, 1)}
    data["categories"] = [
        each | {"id": number_of[each["id"]]} for each in data["categories"] if each["id"] in number_of
    ]
    for annotation in data["annotations"]:
        annotation["category_id"] = number_of[annotation["category_id"]]
    for image in data["images"]:
        for lists in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[lists] = [number_of[each] for each in image[lists] if each in number_of]
    (folder / "few.json").write_text(json.dumps(data))
    names = {"annotations": folder / "few.json", "images": COCO / "train2017"}
    options = WHOLES | names | {"jitters": 1, "noise": "0.2,0.8", "limit": 48, "label_set": "real"}
    summary, _ = shard(COCO, folder / "out", "demo", dataset="lvis", **options)
    assert summary.complete
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Wholes of some of the demo's pictures to validate on, and noised copies of their boxes."""
    root = tmp_path_factory.mktemp("demo")
    write_demo(root / "data", pictures_per_class=1, val_instances_per_class=2)
    options = WHOLES | {"annotations": root / "data" / VAL_ANNOTATIONS, "jitters": 1, "noise": "1,0.1"}
    shard(root / "data", root / "out", "demo", dataset="demo-detection", label_set="demo", **options)
    return root


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A tiny cache of wholes with noised copies; for reading only."""
    split = write_split(tmp_path_factory.mktemp("split"))
    return split, cache_of(split, split / "out", jitters=2, noise=(0.1, 1.0)).layout.out


def figures_of(answer):
    code, output = answer
    assert code == 0, output
    return json.loads(output)


def test_figures_of_real_pictures_are_those_counted_box_by_box(prep, real):
    cache = open_cache(real / "out")
    text = cache.text_bank("real")
    boxes = list(direct.seen_boxes(real / "out", "real", scale=text.logit_scale))
    names, data = list(cache.manifest.plan.vocabulary.class_names), json.loads((real / "few.json").read_text())
    frequencies = {category["name"]: category["frequency"] for category in data["categories"]}
    found = figures_of(prep("analyze", "zero-shot", real / "out", "--annotations", real / "few.json", "--json"))
    clean = {box.place: box for box in boxes if box.scale == 0}
    assert found["groups"]["all"]["boxes"] == len(clean) > 200
    for accuracy in found["accuracies"]:
        for group, letter in LETTERS.items():
            expected = direct.accuracies(clean.values(), accuracy["top_k"], names, names, letter, frequencies)
            assert (accuracy["over_categories"][group], accuracy["over_boxes"][group]) == pytest.approx(expected)
    noise = figures_of(prep("analyze", "location-noise", real / "out", "--json"))
    for at in noise["scales"][1:]:
        here = [box for box in boxes if box.scale == at["noise_scale"]]
        kl = [direct.divergence(clean[box.place], box) for box in here]
        assert at["kl"] == pytest.approx({"mean": np.mean(kl), "median": np.median(kl)}, rel=1e-5)
        expected = direct.accuracies(here, 5, names, names)
        assert (at["accuracies"][1]["over_categories"]["all"], at["accuracies"][1]["over_boxes"]["all"]) == (
            pytest.approx(expected)
        )
    assert noise["scales"][1]["kl"]["mean"] < noise["scales"][2]["kl"]["mean"]


def test_precision_of_real_pictures_is_that_of_lvis(prep, real):
    cache = open_cache(real / "out")
    data = json.loads((real / "few.json").read_text())
    names = cache.manifest.plan.vocabulary.class_names
    number_of = {image["file_name"]: image["id"] for image in data["images"]}
    image_of, by_image = {}, {}
    for number in range(cache.manifest.plan.shards):
        for row in cache.picture_shard(number).rows():
            image_of[number, int(row["sample"])] = number_of[row["name"]]
    data["images"] = [image for image in data["images"] if image["id"] in set(image_of.values())]
    data["annotations"] = [each for each in data["annotations"] if each["image_id"] in set(image_of.values())]
    for annotation in data["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    found = figures_of(prep("analyze", "zero-shot", real / "out", "--annotations", real / "few.json", "--json"))
    for precision in found["precisions"]:
        rows = []
        for box in direct.seen_boxes(real / "out", "real", scale=cache.text_bank("real").logit_scale):
            if box.scale == 0:
                *place, number = box.place
                annotation = by_image[image_of[tuple(place)]][number]
                assert annotation["category_id"] == box.row
                for row in direct.top_classes(box, precision["top_k"]):
                    if row:
                        rows.append((annotation, row, np.exp(box.log_probs[row])))
        expected = lvis_oracle(data, Rows(rows), -1)
        assert names[1:] == tuple(category["name"] for category in data["categories"])
        for name, group in (("AP", "all"), ("APr", "rare"), ("APc", "common"), ("APf", "frequent")):
            value = None if expected[name] == -1 else pytest.approx(expected[name], abs=1e-6)
            assert precision["precision"][group] == value


class Rows:
    """Detections as `lvis` takes them: each an annotation's box, with a class and a score."""

    def __init__(self, rows):
        self._rows = rows

    def as_results(self):
        return [
            {"image_id": annotation["image_id"], "category_id": row, "bbox": annotation["bbox"], "score": float(score)}
            for annotation, row, score in self._rows
        ]


def test_labels_are_those_of_the_teacher_itself(real):
    """The demo's teacher in float64, by open_clip and torchvision, on what Pillow and torchvision make of pictures."""
    cache = open_cache(real / "out")
    text = cache.text_bank("real").features.astype(np.float64)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    visual = open_clip.create_model(f"local-dir:{TEACHER_DIR}").eval().double().visual
    teacher = cache.label_sets["real"].spec.teacher
    side = cache.label_sets["real"].spec.region_encoder.pooled_hw
    shard_0 = cache.label_shard("real", 0)
    rows = shard_0.rows()
    rows = rows[rows["kind"] == "whole"][:4]
    pictures = {int(row["sample"]): row["name"] for row in cache.picture_shard(0).rows()}
    agreed = []
    for row, labelled in zip(rows, shard_0.views(rows), strict=True):
        height, width = labelled.view.canvas_hw
        with Image.open(COCO / "train2017" / Path(pictures[int(row["sample"])]).name) as picture:
            canvas = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        ratio = 192 / max(height, width)
        seen = v2.functional.resize(canvas, [round(height * ratio), round(width * ratio)])
        pixels = v2.functional.to_dtype(v2.functional.to_image(seen), torch.float64, scale=True)
        pixels = v2.functional.normalize(pixels, teacher.mean, teacher.std)[None]
        ratios = np.tile([seen.width / width, seen.height / height], 2)
        boxes = labelled.view.regions["box_xyxy_px"].astype(np.float64) * ratios
        with torch.inference_mode():
            hidden = visual.forward_intermediates(pixels, indices=[4], intermediates_only=True)["image_intermediates"][
                0
            ]
            pooled = torchvision.ops.roi_align(
                hidden, [torch.from_numpy(boxes)], side, 1 / 32, sampling_ratio=0, aligned=True
            )
            embeddings = torch.nn.functional.normalize(visual.attnpool(pooled), dim=-1).numpy()
        log_probs = log_softmax(teacher.logit_scale * embeddings @ text.T, axis=1)
        cosines = (labelled.embeddings * embeddings).sum(axis=1)
        assert cosines.min() > 0.995
        agreed += (log_probs.argmax(axis=1) == labelled.labels.class_ids[:, 0]).tolist()
    assert len(agreed) > 10
    assert np.mean(agreed) > 0.9


def test_the_demos_teacher_knows_the_demos_world(prep, demo):
    annotations = ("--annotations", demo / "data" / VAL_ANNOTATIONS)
    found = figures_of(prep("analyze", "zero-shot", demo / "out", *annotations, "--json"))
    assert found["groups"]["all"]["categories"] == 96
    assert [found["groups"][group]["categories"] for group in ("rare", "common", "frequent")] == [32, 32, 32]
    first, _, tenth = found["accuracies"]
    assert first["over_categories"]["all"] > 0.85
    assert tenth["over_categories"]["all"] > 0.97
    assert found["precisions"][2]["precision"]["all"] > 0.9
    noise = figures_of(prep("analyze", "location-noise", demo / "out", *annotations, "--json"))
    clean, little, much = noise["scales"]
    assert [at["noise_scale"] for at in (clean, little, much)] == [0, 0.1, 1]
    assert clean["accuracies"] == found["accuracies"]
    assert 0 < little["kl"]["mean"] < much["kl"]["mean"]
    assert clean["cosine"]["mean"] > little["cosine"]["mean"] > much["cosine"]["mean"]


def row(table, name):
    """The cells beside a name in a printed table."""
    [line] = [line for line in table.splitlines() if line.strip(" │").startswith(name)]
    return line.strip(" │").removeprefix(name).replace("│", " ").split()


def test_tables_have_the_figures_and_say_what_is_left_out(prep, small, monkeypatch):
    split, out = small
    command = ("analyze", "zero-shot", out, "--top-k", "5,1", "--labels", "topk")
    found = figures_of(prep(*command, "--annotations", split / "val.json", "--json"))
    code, table = prep(*command, "--annotations", split / "val.json")
    assert code == 0
    assert row(table, "boxes") == [f"{found['groups'][group]['boxes']}" for group in LETTERS]
    tops = [line.replace("│", " ").split() for line in table.splitlines() if "top 5" in line]
    values = [found["accuracies"][1]["over_categories"], found["accuracies"][1]["over_boxes"]]
    for cells, by_group in zip(tops, [*values, found["precisions"][1]["precision"]], strict=True):
        assert cells == ["top", "5", *(f"{100 * value:.1f}" for value in by_group.values())]
    assert "without LVIS's limit of 300 a picture" in table
    code, table = prep(*command)
    assert "AP" not in table.split("no AP")[0]
    assert "no AP: it needs --annotations" in table
    assert "no frequencies" in table
    monkeypatch.setenv("COLUMNS", "160")
    noise = figures_of(
        prep("analyze", "location-noise", out, "--annotations", split / "val.json", "--top-k", "2", "--json")
    )
    code, table = prep("analyze", "location-noise", out, "--annotations", split / "val.json", "--top-k", "2")
    at = noise["scales"][2]
    shares = [at["accuracies"][0][over]["all"] for over in ("over_categories", "over_boxes")]
    expected = [f"{at['groups']['all']['boxes']}", *(f"{100 * share:.1f}" for share in shares)]
    expected += [f"{at['kl']['mean']:.4f}", f"{at['kl']['median']:.4f}", f"{at['cosine']['mean']:.4f}"]
    overview, by_frequency = (line for line in table.splitlines() if line.strip(" │").startswith("1 "))
    assert overview.replace("│", " ").split() == ["1", *expected]
    rare = at["accuracies"][0]["over_categories"]["rare"]
    assert by_frequency.replace("│", " ").split()[:2] == ["1", f"{100 * rare:.1f}"]


@pytest.mark.parametrize("analysis", ["zero-shot", "location-noise"])
def test_pictures_are_written_and_json_stays_json(prep, small, tmp_path, analysis):
    split, out = small
    svg, png = tmp_path / "figure.svg", tmp_path / "figure.png"
    options = ("--annotations", split / "val.json", "--top-k", "1,3")
    code, printed = prep("analyze", analysis, out, *options, "--json", "--figure", svg)
    assert code == 0
    assert json.loads(printed.replace(str(svg), ""))["label_set"] == "hashed"
    text = svg.read_text()
    assert text.startswith("<?xml")
    assert len(text) > 5000
    code, printed = prep("analyze", analysis, out, "--top-k", "1", "--figure", png)
    assert (code, str(png) in printed) == (0, True)
    with Image.open(png) as image:
        assert image.format == "PNG"


def test_mistakes_are_one_line_with_the_remedy(prep, small, tmp_path):
    split, out = small
    command = ("analyze", "zero-shot", out)
    assert "holds no cache" in error_of(prep("analyze", "zero-shot", tmp_path))
    assert "there is no finished label set 'x'" in error_of(prep(*command, "--label-set", "x"))
    assert "--top-k 20" in error_of(prep(*command, "--top-k", "20"))
    assert "such as 1,5,10" in error_of(prep(*command, "--top-k", "1;5"))
    assert "0" in error_of(prep(*command, "--top-k", "0"))
    assert "--labels" in error_of(prep(*command, "--labels", "hard"))
    assert "missing.json" in error_of(prep(*command, "--annotations", tmp_path / "missing.json"))
    assert "a figure is a .png or an .svg" in error_of(prep(*command, "--figure", tmp_path / "f.jpg"))
    linked = tmp_path / "linked.svg"
    linked.symlink_to(split / "val.json")
    assert "would be overwritten" in error_of(prep(*command, "--annotations", split / "val.json", "--figure", linked))
    for analysis in ("zero-shot", "location-noise"):
        broken = shutil.copytree(out, tmp_path / analysis)
        next(broken.glob("labels/*/*.tar")).unlink()
        assert ".tar is missing; delete" in error_of(prep("analyze", analysis, broken, "--top-k", "1"))
