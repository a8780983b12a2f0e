import argparse
import json
import math
import os
import pickle
import zlib

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone import make_backbone
from richsem_train.models.dino import Dino
from richsem_train.models.published import load_published

WIDTH, FFN, HEADS, POINTS, LEVELS, LAYERS, QUERIES, CLASSES, TEXT = 32, 48, 4, 2, 4, 6, 10, 7, 20


def linear(name, rows, columns):
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name):
    return {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}


def deformable(name):
    return (
        linear(f"{name}.sampling_offsets", HEADS * LEVELS * POINTS * 2, WIDTH)
        | linear(f"{name}.attention_weights", HEADS * LEVELS * POINTS, WIDTH)
        | linear(f"{name}.value_proj", WIDTH, WIDTH)
        | linear(f"{name}.output_proj", WIDTH, WIDTH)
    )


def ffn(name):
    return linear(f"{name}.linear1", FFN, WIDTH) | linear(f"{name}.linear2", WIDTH, FFN)


def encoder_layer(name):
    return deformable(f"{name}.self_attn") | norm(f"{name}.norm1") | ffn(name) | norm(f"{name}.norm2")


def decoder_layer(name):
    return (
        deformable(f"{name}.cross_attn")
        | norm(f"{name}.norm1")
        | {
            f"{name}.self_attn.in_proj_weight": (3 * WIDTH, WIDTH),
            f"{name}.self_attn.in_proj_bias": (3 * WIDTH,),
        }
        | linear(f"{name}.self_attn.out_proj", WIDTH, WIDTH)
        | norm(f"{name}.norm2")
        | ffn(name)
        | norm(f"{name}.norm3")
    )


def box_head(name):
    return (
        linear(f"{name}.layers.0", WIDTH, WIDTH)
        | linear(f"{name}.layers.1", WIDTH, WIDTH)
        | linear(f"{name}.layers.2", 4, WIDTH)
    )


def resnet50():
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    return {
        f"backbone.0.body.{name}": tuple(weight.shape)
        for name, weight in state.items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


def trunk():
    """Names and shapes that all checkpoints with ResNet-50 and four scales have in common."""
    shapes = resnet50()
    for level, channels in enumerate((512, 1024, 2048, 2048)):
        side = 3 if level == 3 else 1
        shapes[f"input_proj.{level}.0.weight"] = (WIDTH, channels, side, side)
        shapes[f"input_proj.{level}.0.bias"] = (WIDTH,)
        shapes |= norm(f"input_proj.{level}.1")
    shapes["transformer.level_embed"] = (LEVELS, WIDTH)
    shapes["transformer.tgt_embed.weight"] = (QUERIES, WIDTH)
    for layer in range(LAYERS):
        shapes |= encoder_layer(f"transformer.encoder.layers.{layer}")
        shapes |= decoder_layer(f"transformer.decoder.layers.{layer}")
        shapes |= box_head(f"bbox_embed.{layer}")
        shapes |= box_head(f"transformer.decoder.bbox_embed.{layer}")
    shapes |= norm("transformer.decoder.norm")
    shapes |= linear("transformer.decoder.ref_point_head.layers.0", WIDTH, 2 * WIDTH)
    shapes |= linear("transformer.decoder.ref_point_head.layers.1", WIDTH, WIDTH)
    shapes |= linear("transformer.enc_output", WIDTH, WIDTH)
    shapes |= norm("transformer.enc_output_norm")
    shapes |= box_head("transformer.enc_out_bbox_embed")
    return shapes


def linear_heads():
    shapes = {}
    for layer in range(LAYERS):
        shapes |= linear(f"class_embed.{layer}", CLASSES, WIDTH)
        shapes |= linear(f"transformer.decoder.class_embed.{layer}", CLASSES, WIDTH)
    return shapes


def clip_teacher(name):
    """A few of the teacher's many weights."""
    return {
        f"{name}.logit_scale": (),
        f"{name}.clip.logit_scale": (),
        f"{name}.clip.positional_embedding": (77, TEXT),
        f"{name}.clip.visual.conv1.weight": (8, 3, 3, 3),
        f"{name}.clip.visual.attnpool.q_proj.weight": (TEXT, TEXT),
        f"{name}.clip.text_projection": (TEXT, TEXT),
    }


ENCODER_TEXT_HEAD = {"transformer.enc_out_class_embed.dino_visual_proj.weight": (TEXT, WIDTH)}

SHAPES = {
    "dino": lambda: (
        trunk()
        | linear_heads()
        | linear("transformer.enc_out_class_embed", CLASSES, WIDTH)
        | {"label_enc.weight": (CLASSES + 1, WIDTH)}
    ),
    "baseline": lambda: trunk() | linear_heads() | ENCODER_TEXT_HEAD | clip_teacher("transformer.enc_out_class_embed"),
    "richsem": lambda: (
        trunk()
        | {
            "class_embed.dino_visual_proj.weight": (TEXT, WIDTH),
            "class_embed.clip_visual_proj.weight": (TEXT, WIDTH),
            "class_embed.label_proj.weight": (WIDTH, TEXT),
        }
        | ENCODER_TEXT_HEAD
        | clip_teacher("class_embed")
        | clip_teacher("transformer.enc_out_class_embed")
    ),
}
"""Names and shapes in published checkpoints, written down from the structure of their modules."""

CHANGES = {
    "dino": {
        "classifier": "linear",
        "encoder_classifier": "linear",
        "semantic_branch": False,
        "label_embedding": "embedding",
        "text_features_CD": None,
        "logit_scale": None,
    },
    "baseline": {"classifier": "linear", "semantic_branch": False},
    "richsem": {},
}


def detector(kind, **changes):
    arguments = {
        "hidden_dim": WIDTH,
        "feature_levels": LEVELS,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "heads": HEADS,
        "points": POINTS,
        "ffn_dim": FFN,
        "queries": QUERIES,
        "num_classes": CLASSES,
        "text_features_CD": torch.ones(CLASSES, TEXT),
        "logit_scale": 100.0,
    }
    backbone = make_backbone("resnet50", weights=None, out_strides=(8, 16, 32), frozen_stages=2, frozen_norm=True)
    return Dino(backbone, **(arguments | CHANGES[kind] | changes))


def value_of(name):
    """What a weight of that name is filled with; layers share heads, so their number does not count."""
    for prefix in ("class_embed.", "bbox_embed."):
        if name.startswith(prefix) and name.split(".")[1].isdigit():
            name = prefix + "0." + name.split(".", 2)[2]
    return float(zlib.crc32(name.encode()) % 2**24)


def state_dict(kind):
    state = {
        name: torch.full((1,) * len(shape), value_of(name)).expand(shape) for name, shape in SHAPES[kind]().items()
    }
    for name in state:
        if name.endswith("logit_scale"):
            state[name] = torch.tensor(math.log(100))
    return state


def saved(path, state, **more):
    namespace = argparse.Namespace(num_classes=CLASSES, backbone="resnet50", lr=1e-4)
    torch.save({"model": state, "epoch": 11, "args": namespace} | more, path)
    return path


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
