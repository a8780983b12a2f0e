"""`richsem-prep teachers` as a user types it; figures equal those computed by open_clip, PIL and SciPy."""

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from richsem_prep.teacher.text import TEMPLATES
from richsem_prep.teacher_choice import label_shape
from richsem_schemas.cache.manifest import ViewGeometry
from richsem_schemas.cache.recipes import AnnotatedPicture, whole_view
from richsem_schemas.cache.render import render_view
from richsem_schemas.vocabularies.known import known_vocabulary
from tests.integration.programs import error_of
from tests.pipeline.analyses.split import NAMES, content, write_split
from tests.pipeline.teachers import MEAN, STD


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return write_split(tmp_path_factory.mktemp("split"))


def asked(split, *teachers, **options):
    options = {"wider": "none"} | options
    flags = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return ["teachers", *teachers, "--annotations", split / "val.json", "--images", split, *flags]


def answered(answer):
    code, output = answer
    assert code == 0, output
    # Progress, on standard error, stands behind it.
    return json.JSONDecoder().raw_decode(output)[0]


class Direct:
    """A teacher's embeddings of all boxes, by open_clip."""

    def __init__(self, teacher, split):
        self.model = open_clip.create_model(teacher, precision="fp32").eval()
        self.tokenizer = open_clip.get_tokenizer(teacher)
        self.scale = self.model.logit_scale.exp().item()
        self.features, self.rows = self.boxes(split)

    @torch.inference_mode()
    def boxes(self, split):
        crops, rows = [], []
        for image in content()["images"]:
            mine = [each for each in content()["annotations"] if each["image_id"] == image["id"]]
            xywh = np.array([each["bbox"] for each in mine], np.float32).reshape(-1, 4)
            xyxy = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
            picture = Image.open(split / image["file_name"]).convert("RGB")
            annotated = AnnotatedPicture(0, (picture.height, picture.width), 0, xyxy, np.arange(len(mine)))
            view = whole_view(annotated, ViewGeometry())
            shown = Image.fromarray(render_view(view, {0: picture}))
            for left, top, right, bottom in view.regions["box_xyxy_px"]:
                box = (
                    int(left),
                    int(top),
                    min(int(np.ceil(right - 1e-3)), shown.width),
                    min(int(np.ceil(bottom - 1e-3)), shown.height),
                )
                crops.append(np.asarray(shown.crop(box).resize((32, 32), Image.Resampling.BICUBIC)))
            rows += [each["category_id"] for each in mine]
        pixels = (np.stack(crops).astype(np.float32) / 255 - np.array(MEAN)) / np.array(STD)
        features = self.model.encode_image(torch.tensor(pixels).permute(0, 3, 1, 2).float(), normalize=True)
        return features.numpy().astype(np.float16).astype(np.float64), np.array(rows)

    @torch.inference_mode()
    def log_probs(self, names):
        prompts = [["none"], *([template.format(name) for template in TEMPLATES] for name in names)]
        text = [self.model.encode_text(self.tokenizer(each)).double().mean(dim=0).numpy() for each in prompts]
        text = np.stack([each / np.linalg.norm(each) for each in text])
        units = self.features / np.linalg.norm(self.features, axis=1, keepdims=True)
        return log_softmax(self.scale * units @ text.T, axis=1)


@pytest.fixture(scope="module")
def direct(vit, split):
    return Direct(vit, split)


def test_figures_equal_those_of_open_clip_and_scipy(prep, split, vit, direct):
    found = answered(prep(*asked(split, vit), "--json"))
    (teacher,) = found["teachers"]
    log_probs, rows = direct.log_probs(NAMES), direct.rows
    ranks = (log_probs > log_probs[np.arange(len(rows)), rows][:, None]).sum(axis=1)
    assert (found["boxes"], found["of_boxes"], found["classes"]) == (len(rows), len(rows), 4)
    for top, name in ((1, "top_1"), (5, "top_5")):
        by_class = [(ranks[rows == row] < top).mean() for row in (1, 2, 3, 4)]
        assert [each[name] for each in teacher["classes"]] == pytest.approx(by_class)
        assert teacher[name]["over_classes"] == pytest.approx(np.mean(by_class))
        # Every box was drawn, so the estimate is the share itself.
        assert teacher[name]["over_boxes"] == pytest.approx((ranks < top).mean())

    def nll(log_temperature):
        return -log_softmax(log_probs / np.exp(log_temperature), axis=1)[np.arange(len(rows)), rows].mean()

    best = minimize_scalar(nll, bounds=(np.log(0.01), np.log(100)), method="bounded", options={"xatol": 1e-9})
    assert teacher["before"]["nll"] == pytest.approx(nll(0), rel=1e-4)
    assert teacher["after"]["nll"] == pytest.approx(best.fun, rel=1e-4)
    assert teacher["weights_bytes"] == sum(4 * each.numel() for each in direct.model.state_dict().values())
    # 24 numbers of float16, 6 classes of 4 and 2 bytes, and the rest.
    assert (teacher["stored"]["embedding"], teacher["stored"]["labels"]) == (48, 40)
    assert teacher["regions_per_second"] == pytest.approx(teacher["boxes"] / teacher["seconds"])
    assert found["recommended"]["teacher"] == vit


def test_wider_names_stand_beside_ones_own(prep, split, vit, direct, monkeypatch):
    monkeypatch.setattr(label_shape, "NEARLY_ONE_HOT", 0.0)
    code, output = prep(*asked(split, vit, wider="coco"))
    assert code == 0
    assert "are nearly one-hot" in output
    found = answered(prep(*asked(split, vit, wider="coco"), "--json"))
    wider = [name for name in known_vocabulary("coco").class_names[1:] if name not in NAMES]
    assert len(wider) == 78
    (plain,) = (each for each in found["labels"] if each["names"] == "own and coco" and each["temperature"] == 1)
    log_probs = direct.log_probs([*NAMES, *wider])
    assert plain["classes"] == 84
    assert plain["entropy"] == pytest.approx(-(np.exp(log_probs) * log_probs).sum(axis=1).mean(), rel=1e-3)
    assert plain["own_share"] == pytest.approx(np.exp(log_probs[:, 1:6]).sum(axis=1).mean(), rel=1e-3)
    own = next(each for each in found["labels"] if each["names"] == "own" and each["temperature"] == 1)
    assert own["entropy"] < plain["entropy"]


def test_teachers_that_cannot_be_had_are_told_and_the_others_go_on(prep, split, vit, resnet):
    found = answered(prep(*asked(split, "local-dir:nowhere", vit, resnet, region_encoder="roi-align"), "--json"))
    assert [each["name"] for each in found["teachers"]] == [resnet]
    reasons = {each["name"]: each["reason"] for each in found["absent"]}
    assert "its weights can't be fetched" in reasons["local-dir:nowhere"]
    assert "needs a CLIP ResNet" in reasons[vit]
    message = error_of(prep(*asked(split, vit, region_encoder="roi-align")))
    assert "none of the 1 teachers could be judged" in message


def test_two_teachers_are_compared_on_the_same_boxes(prep, split, vit, resnet):
    found = answered(prep(*asked(split, vit, resnet, boxes=8), "--json"))
    assert found["boxes"] == 8
    assert [each["boxes"] for each in found["teachers"]] == [8, 8]
    code, output = prep(*asked(split, vit, resnet, boxes=8))
    assert code == 0
    assert "recommended: local-dir:" in output
    # Random weights.
    assert "no teacher knows these classes" in output


def test_pictures_that_cannot_be_read_are_left_out_and_told(prep, tmp_path, vit):
    split = write_split(tmp_path)
    (split / "003.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (split / "004.jpg").unlink()
    code, output = prep(*asked(split, vit))
    assert code == 0, output
    assert "left out: 2 pictures that can't be read, such as 003.jpg" in output


@pytest.mark.parametrize(
    ("teachers", "told"),
    [
        (["RN51:openai"], "no model of open_clip"),
        (["RN50:nobody"], "neither a file nor pretrained weights of RN50"),
        (["demo", "demo"], "'demo' is named twice"),
        (["anything"], "not of the form MODEL:PRETRAINED"),
    ],
)
def test_unknown_teachers_are_refused_before_any_work(prep, split, teachers, told):
    assert told in error_of(prep(*asked(split, *teachers)))


def test_bad_annotations_are_refused(prep, split, tmp_path):
    for change, told in (
        ({"annotations": []}, "has no boxes to show"),
        ({"categories": [{"id": n} for n in range(1, 6)]}, "a text is needed"),
        ({"categories": [{"id": n, "name": "same"} for n in range(1, 6)]}, "stands twice"),
    ):
        (tmp_path / "val.json").write_text(json.dumps(content() | change))
        for picture in split.glob("*.jpg"):
            (tmp_path / picture.name).write_bytes(picture.read_bytes())
        assert told in error_of(prep(*asked(tmp_path, "demo")))
    assert "can't be read" in error_of(prep(*asked(tmp_path / "nowhere", "demo")))
