"""Checkpoints with the names and shapes of published ones, of narrow detectors, and the detectors that they fit."""

import argparse
import math
import re
import zlib

import torch
import torchvision

from richsem_train.models.backbone import make_backbone
from richsem_train.models.dino.dino import Dino

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


def random_weight(name, shape):
    """A weight of about unit gain; the layers of a head share theirs."""
    shared = re.sub(r"^(transformer\.decoder\.)?(bbox_embed|class_embed)\.\d+\.", r"\2.0.", name)
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(shared.encode())))
    if name.endswith("logit_scale"):
        return torch.tensor(math.log(100))
    if name.endswith("running_var"):
        return 1 + draw.square()
    if name.endswith("sampling_offsets.bias"):
        return 2 * draw
    if draw.dim() > 1:
        return draw / math.sqrt(draw[0].numel()) * (0.3 if "sampling_offsets" in name else 1)
    return 0.2 * draw + (name.endswith("weight") and 1)
