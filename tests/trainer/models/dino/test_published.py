import json
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from richsem_schemas.errors import RichSemError
from richsem_train.models.dino.published import load_published
from tests.trainer.models.dino.published_checkpoints import (
    CLASSES,
    LAYERS,
    SHAPES,
    WIDTH,
    clip_teacher,
    detector,
    saved,
    state_dict,
    value_of,
)


@pytest.fixture
def load(tmp_path):
    """Gives a detector the weights of a state dict, by a file."""
    return lambda model, state, **options: load_published(model, saved(tmp_path / "checkpoint.pth", state), **options)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_weight_comes_from_the_checkpoint(kind, load):
    model = detector(kind)
    report = load(model, state_dict(kind))
    assert report.missing == ()
    for name, weight in model.state_dict().items():
        if name in ("text_features", "logit_scale"):
            continue
        assert name in report.loaded
        assert (weight == value_of(name)).all(), name


def test_the_report_says_what_was_left_out(load):
    state = state_dict("richsem") | {
        "mask_head.lay1.weight": torch.zeros(2),
        "bbox_attention.q_linear.weight": torch.zeros(2),
    }
    report = load(detector("richsem"), state)
    teacher = clip_teacher("class_embed") | clip_teacher("transformer.enc_out_class_embed")
    assert set(report.skipped["the CLIP teacher"]) == set(teacher)
    assert set(report.skipped["segmentation"]) == {"mask_head.lay1.weight", "bbox_attention.q_linear.weight"}
    assert len(report.skipped["repeated for each layer"]) == 6 * (2 * LAYERS - 1)
    assert set(report.skipped) == {"the CLIP teacher", "segmentation", "repeated for each layer"}
    assert "12 skipped (the CLIP teacher)" in report.summary()


def test_the_vocabulary_stays_the_detectors_own(load):
    model = detector("richsem")
    load(model, state_dict("richsem"))
    assert (model.text_features == 1).all()
    assert model.logit_scale == 100


def test_names_of_wrapped_models_are_unwrapped(load):
    state = {f"module.{name}": weight for name, weight in state_dict("richsem").items()}
    report = load(detector("richsem"), state)
    assert report.missing == ()


def test_a_plain_checkpoint_starts_a_text_classifier_and_says_which_heads_are_new(load):
    report = load(detector("richsem"), state_dict("dino"))
    assert set(report.missing) == {
        "class_embed.clip_visual_proj.weight",
        "class_embed.dino_visual_proj.weight",
        "class_embed.label_proj.weight",
        "transformer.enc_out_class_embed.dino_visual_proj.weight",
    }
    assert set(report.skipped["heads that this detector has not"]) == {
        "class_embed.0.weight",
        "class_embed.0.bias",
        "label_enc.weight",
        "transformer.enc_out_class_embed.weight",
        "transformer.enc_out_class_embed.bias",
    }


CLASS_ROWS = {
    "class_embed.0.weight",
    "class_embed.0.bias",
    "label_enc.weight",
    "transformer.enc_out_class_embed.weight",
    "transformer.enc_out_class_embed.bias",
}


def told(names):
    """What a checkpoint of this program says of its model."""
    return {"info": json.dumps({"class_names": list(names)})}


NAMES = ("none", "a", "b", "c", "d", "e", "f")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_belongs_to_other_classes_is_left_out_and_all_else_is_taken(tmp_path, suffix):
    state = {name: weight for name, weight in state_dict("dino").items() if not name.startswith("label_enc.x")}
    path = tmp_path / f"objects365{suffix}"
    if suffix == ".pth":
        saved(path, state, **told(reversed(NAMES)))
    else:
        save_file({name: weight.contiguous() for name, weight in state.items()}, path,
                  metadata={"richsem": told(reversed(NAMES))["info"]})  # fmt: skip
    model = detector("dino")
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    report = load_published(model, path, fresh_heads=True, class_names=NAMES)
    assert set(report.skipped["classifiers of other classes"]) == CLASS_ROWS == set(report.missing)
    assert "5 skipped (classifiers of other classes)" in report.summary()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) if name in CLASS_ROWS else (weight == value_of(name)).all(), name


def test_the_same_classes_or_unknown_ones_keep_their_rows(tmp_path):
    for more in ({}, told(NAMES), {"info": "no JSON"}):
        path = saved(tmp_path / "checkpoint.pth", state_dict("dino"), **more)
        report = load_published(detector("dino"), path, fresh_heads=True, class_names=NAMES)
        assert report.missing == ()


def test_another_number_of_classes_is_left_out_but_not_another_width(tmp_path):
    state = state_dict("dino") | {"class_embed.0.weight": torch.zeros(9, WIDTH), "class_embed.0.bias": torch.zeros(9)}
    for name in [name for name in state if name.startswith("class_embed.")]:
        state[name] = state[f"class_embed.0.{name.rpartition('.')[2]}"]
    path = saved(tmp_path / "checkpoint.pth", state)
    report = load_published(detector("dino"), path, fresh_heads=True)
    assert set(report.skipped["classifiers of other classes"]) == {"class_embed.0.weight", "class_embed.0.bias"}
    narrow = {name: weight[:-1] if name == "transformer.enc_output.bias" else weight for name, weight in state.items()}
    with pytest.raises(RichSemError, match=r"of another width .*transformer\.enc_output\.bias is"):
        load_published(detector("dino"), saved(tmp_path / "narrow.pth", narrow), fresh_heads=True)


def test_without_semantic_branch_its_projection_is_left_out(load):
    report = load(detector("richsem", semantic_branch=False), state_dict("richsem"))
    assert report.skipped["heads that this detector has not"] == ("class_embed.clip_visual_proj.weight",)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("dino", {"num_classes": CLASSES + 1}, r"class_embed\.0\.weight is \(7, 32\) instead of \(8, 32\)"),
        ("richsem", {"hidden_dim": 64}, r"another width or number of classes: .* instead of"),
        (
            "richsem",
            {"text_features_CD": torch.ones(CLASSES, 24)},
            r"class_embed\.dino_visual_proj\.weight is \(20, 32\) instead of \(24, 32\)",
        ),
        ("richsem", {"decoder_layers": 7}, r"lacks transformer\.decoder\.layers\.6"),
        ("richsem", {"encoder_layers": 5}, r"no place for transformer\.encoder\.layers\.5"),
        ("richsem", {"logit_scale": 50.0}, r"logit scale 100, the text bank's is 50"),
    ],
)
def test_another_architecture_is_refused_by_name_and_the_detector_stays_as_it_was(kind, changes, message, load):
    model = detector(kind, **changes)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(RichSemError, match=message):
        load(model, state_dict(kind))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_heads_that_differ_from_layer_to_layer_are_refused(load):
    state = state_dict("richsem")
    state["bbox_embed.3.layers.2.bias"] = torch.ones(4)
    with pytest.raises(RichSemError, match=r"bbox_embed\.3\.layers\.2\.bias differs from that of layer 0"):
        load(detector("richsem"), state)


class RunsCode:
    """Would leave a file behind, were it unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def small():
    return detector("richsem", encoder_layers=1, decoder_layers=1)


def save_pickled(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_pickled])
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(small, tmp_path, save):
    path = tmp_path / "checkpoint.pth"
    save({"model": {}, "optimizer": RunsCode(tmp_path / "trace")}, path)
    with pytest.raises(RichSemError, match=r"checkpoint\.pth"):
        load_published(small, path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint"])
def test_what_is_no_checkpoint_is_refused(content, small, tmp_path):
    path = tmp_path / "checkpoint.pth"
    path.write_bytes(content)
    with pytest.raises(RichSemError, match=r"checkpoint\.pth"):
        load_published(small, path)


def test_a_missing_file_is_named(small, tmp_path):
    with pytest.raises(RichSemError, match=r"absent\.pth"):
        load_published(small, tmp_path / "absent.pth")
