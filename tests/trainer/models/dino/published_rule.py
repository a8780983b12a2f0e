"""What published weights compute: DINO's inference, put together from parts of transformers and torchvision.

It shares no code with the detector. Weights are taken by the names of published checkpoints.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet50
from torchvision.models.feature_extraction import create_feature_extractor
from transformers import DeformableDetrConfig
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoderLayer,
    DeformableDetrEncoder,
    DeformableDetrEncoderLayer,
    DeformableDetrModel,
)
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding
from transformers.models.grounding_dino.modeling_grounding_dino import encode_sinusoidal_position_embedding

State = dict[str, Tensor]

ENCODER_NAMES = {
    "norm1": "self_attn_layer_norm",
    "norm2": "final_layer_norm",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
}
DECODER_NAMES = {
    "norm1": "encoder_attn_layer_norm",
    "norm2": "self_attn_layer_norm",
    "norm3": "final_layer_norm",
    "linear1": "mlp.fc1",
    "linear2": "mlp.fc2",
    "cross_attn": "encoder_attn",
    "self_attn.out_proj": "self_attn.o_proj",
}


class Shape(NamedTuple):
    """What a state dict doesn't tell of its detector."""

    heads: int
    points: int
    queries: int


class Found(NamedTuple):
    """Logits [B, Q, C], boxes [B, Q, 4] cxcywh, and whether a query began at no real proposal, bool [B, Q]."""

    logits: Tensor
    boxes: Tensor
    is_stray: Tensor


@torch.no_grad()
def detect(
    state: State, shape: Shape, pictures: Sequence[Tensor], *, size_divisor: int, text_features: Tensor
) -> Found:
    """Detect in float64, in one batch.

    Args:
        state: weights by their published names.
        shape: the rest.
        pictures: normalised, [3, H, W] each, of any sizes.
        size_divisor: the batch's height and width are multiples of it.
        text_features: raw means [C, D], for heads that project to them.
    """
    state = {name: weight.double() for name, weight in state.items()}
    pixels, is_padding = _batch(pictures, size_divisor)
    maps, masks = _levels(state, pixels, is_padding)
    width = maps[0].shape[1]
    sizes = [tuple(each.shape[-2:]) for each in maps]
    ratios = torch.stack([DeformableDetrModel.get_valid_ratio(None, ~mask, torch.float64) for mask in masks], dim=1)
    tokens, mask = torch.cat([_tokens(each) for each in maps], dim=1), torch.cat([m.flatten(1) for m in masks], dim=1)
    positions = torch.cat(
        [
            _sine_position(mask_of_level, width) + state["transformer.level_embed"][level]
            for level, mask_of_level in enumerate(masks)
        ],
        dim=1,
    )
    config = _config(state, shape, len(maps), width)
    places = {
        "spatial_shapes": torch.tensor(sizes),
        "spatial_shapes_list": sizes,
        "level_start_index": torch.tensor([0, *[h * w for h, w in sizes]]).cumsum(0)[:-1],
    }
    for layer in range(_count(state, "transformer.encoder.layers")):
        encode = as_transformers(
            DeformableDetrEncoderLayer(config), ENCODER_NAMES, _below(state, f"transformer.encoder.layers.{layer}")
        )
        tokens = encode(
            tokens,
            ~mask,
            spatial_position_embeddings=positions,
            reference_points=DeformableDetrEncoder.get_reference_points(sizes, ratios, "cpu"),
            **places,
        )
    boxes, is_stray = _anchors(state, tokens, mask, sizes, shape.queries, text_features)
    ratios_4 = torch.cat([ratios, ratios], dim=-1)
    queries = state["transformer.tgt_embed.weight"].expand(len(tokens), -1, -1)
    for layer in range(_count(state, "transformer.decoder.layers")):
        before = boxes
        # What published weights have learnt: boxes as shares of the padded batch.
        in_batch = before[:, :, None] * ratios_4[:, None]
        sines = encode_sinusoidal_position_embedding(in_batch[:, :, 0], width // 2)
        decode = as_transformers(
            DeformableDetrDecoderLayer(config), DECODER_NAMES, _below(state, f"transformer.decoder.layers.{layer}")
        )
        queries = decode(
            queries,
            object_queries_position_embeddings=_mlp(state, "transformer.decoder.ref_point_head", sines),
            reference_points=in_batch,
            encoder_hidden_states=tokens,
            encoder_attention_mask=~mask,
            **places,
        )
        boxes = (_mlp(state, f"bbox_embed.{layer}", queries) + _logit(before)).sigmoid()
    final = _norm(state, "transformer.decoder.norm", queries)
    layer = _count(state, "transformer.decoder.layers") - 1
    return Found(
        logits=_classify(state, "class_embed", final, text_features, layer=layer),
        boxes=(_mlp(state, f"bbox_embed.{layer}", final) + _logit(before)).sigmoid(),
        is_stray=is_stray,
    )


def _batch(pictures: Sequence[Tensor], size_divisor: int) -> tuple[Tensor, Tensor]:
    height, width = (-(-max(each.shape[axis] for each in pictures) // size_divisor) * size_divisor for axis in (1, 2))
    pixels = torch.zeros(len(pictures), 3, height, width, dtype=torch.float64)
    is_padding = torch.ones(len(pictures), height, width, dtype=torch.bool)
    for row, picture in enumerate(pictures):
        _, h, w = picture.shape
        pixels[row, :, :h, :w] = picture
        is_padding[row, :h, :w] = False
    return pixels, is_padding


def _levels(state: State, pixels: Tensor, is_padding: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    network = resnet50().double()
    network.load_state_dict(_below(state, "backbone.0.body"), strict=False)
    extract = create_feature_extractor(network.eval(), ["layer2", "layer3", "layer4"])
    network.eval()
    maps = list(extract(pixels).values())
    projected = [_project(state, level, each) for level, each in enumerate(maps)]
    projected.append(_project(state, len(maps), maps[-1], stride=2, padding=1))
    masks = []
    for each in projected:
        # Nearest: the cell's upper left pixel.
        rows, columns = (
            (torch.arange(cells) * (pixels_of_side / cells)).long()
            for cells, pixels_of_side in zip(each.shape[-2:], is_padding.shape[-2:], strict=True)
        )
        masks.append(is_padding[:, rows][:, :, columns])
    return projected, masks


def _project(state: State, level: int, features: Tensor, **options: int) -> Tensor:
    part = _below(state, f"input_proj.{level}")
    convolved = functional.conv2d(features, part["0.weight"], part["0.bias"], **options)
    return functional.group_norm(convolved, 32, part["1.weight"], part["1.bias"])


def _sine_position(mask: Tensor, width: int) -> Tensor:
    embed = DetrSinePositionEmbedding(width // 2, temperature=20, normalize=True)
    found = embed(torch.Size((len(mask), 3, *mask.shape[1:])), "cpu", torch.float64, mask=~mask)
    return found if found.dim() == 3 else _tokens(found)


def _config(state: State, shape: Shape, levels: int, width: int) -> DeformableDetrConfig:
    ffn_dim = len(state["transformer.encoder.layers.0.linear1.bias"])
    return deformable_detr(width, heads=shape.heads, points=shape.points, levels=levels, ffn_dim=ffn_dim)


def deformable_detr(width: int, *, heads: int, points: int, levels: int, ffn_dim: int) -> DeformableDetrConfig:
    """Sizes of transformers' layers, which drop nothing out."""
    return DeformableDetrConfig(
        d_model=width,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_n_points=points,
        decoder_n_points=points,
        encoder_ffn_dim=ffn_dim,
        decoder_ffn_dim=ffn_dim,
        num_feature_levels=levels,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        use_timm_backbone=False,
    )


def as_transformers(module: nn.Module, names: dict[str, str], state: State) -> nn.Module:
    """A layer of transformers with weights of ours, in float64."""
    renamed = {}
    for name, weight in state.items():
        if "in_proj_" in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                renamed[f"self_attn.{part}_proj.{name.rsplit('_', 1)[1]}"] = rows
            continue
        old = next((old for old in names if name.startswith(f"{old}.")), None)
        renamed[name if old is None else names[old] + name.removeprefix(old)] = weight
    module.load_state_dict(renamed)
    return module.double().eval()


def _anchors(
    state: State, memory: Tensor, mask: Tensor, sizes: list[tuple[int, ...]], queries: int, text_features: Tensor
) -> tuple[Tensor, Tensor]:
    holder = SimpleNamespace(
        enc_output=lambda x: functional.linear(
            x, state["transformer.enc_output.weight"], state["transformer.enc_output.bias"]
        ),
        enc_output_norm=lambda x: _norm(state, "transformer.enc_output_norm", x),
    )
    features, proposals = DeformableDetrModel.gen_encoder_output_proposals(holder, memory, mask, sizes)
    logits = _classify(state, "transformer.enc_out_class_embed", features, text_features)
    chosen = logits.amax(-1).topk(queries, dim=1).indices
    boxes = (_mlp(state, "transformer.enc_out_bbox_embed", features) + proposals).sigmoid()
    rows = torch.arange(len(memory))[:, None]
    return boxes[rows, chosen], proposals[rows, chosen].isinf().any(-1)


def _classify(state: State, name: str, hidden: Tensor, text_features: Tensor, *, layer: int | None = None) -> Tensor:
    projection = state.get(f"{name}.dino_visual_proj.weight")
    if projection is None:
        name = name if layer is None else f"{name}.{layer}"
        return functional.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"])
    cosine = functional.cosine_similarity((hidden @ projection.T)[..., None, :], text_features.double(), dim=-1)
    return state[f"{name}.logit_scale"].exp() * cosine


def _mlp(state: State, name: str, x: Tensor) -> Tensor:
    count = _count(state, f"{name}.layers")
    for layer in range(count):
        x = functional.linear(x, state[f"{name}.layers.{layer}.weight"], state[f"{name}.layers.{layer}.bias"])
        x = x.relu() if layer < count - 1 else x
    return x


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _logit(boxes: Tensor) -> Tensor:
    """With both of its parts at least 0.001, as DINO has it."""
    return torch.log(boxes.clamp(min=1e-3) / (1 - boxes).clamp(min=1e-3))


def _tokens(features: Tensor) -> Tensor:
    return features.flatten(2).transpose(1, 2)


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(f"{prefix}."): weight for name, weight in state.items() if name.startswith(f"{prefix}.")}


def _count(state: State, prefix: str) -> int:
    return 1 + max(int(name.split(".")[0]) for name in _below(state, prefix))
