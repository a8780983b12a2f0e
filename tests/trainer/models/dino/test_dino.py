import pytest
import torch
from torch.testing import assert_close

from richsem_schemas.errors import RichSemError
from richsem_train.config import DinoConfig
from richsem_train.models.backbone import make_backbone
from richsem_train.models.dino.dino import Dino
from richsem_train.models.dino.heads import detections
from richsem_train.models.dino.neck import FeatureLevel, sine_position
from richsem_train.models.weight_casts import cast_weights
from richsem_train.outputs.dino import DinoOutputs
from richsem_train.run.build import build_detector
from tests.trainer.models.dino.published_checkpoints import CHANGES
from tests.trainer.models.dino.tiny_dino import CLASSES, QUERIES, denoising, pictures, shaken, tiny_dino
from tests.trainer.tiny import VALUES

VARIANTS = {
    "richsem": CHANGES["richsem"],
    "without semantic branch": {"semantic_branch": False},
    "baseline": CHANGES["baseline"],
    "plain": CHANGES["dino"],
}


def tensors(outputs: DinoOutputs) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(outputs).items() if value is not None}


def assert_same(one: DinoOutputs, other: DinoOutputs, **tolerance):
    for name, value in tensors(one).items():
        assert_close(value, tensors(other)[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("counts", [(3, 1), None])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_parameter_gets_a_gradient(variant, counts, precision):
    model = tiny_dino(**VARIANTS[variant]).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = model(*pictures(2), denoising(*counts) if counts else None)
    sum(value.square().sum() for value in tensors(outputs).values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_shapes_of_outputs():
    drawn = denoising(3, 1)
    outputs = tiny_dino()(*pictures(2), drawn)
    assert {name: tuple(value.shape) for name, value in tensors(outputs).items()} == {
        "pred_logits": (3, 2, QUERIES, CLASSES),
        "pred_boxes": (3, 2, QUERIES, 4),
        "hidden": (2, QUERIES, 32),
        "encoder_logits": (2, QUERIES, CLASSES),
        "encoder_boxes": (2, QUERIES, 4),
        "dn_logits": (3, 2, drawn.count, CLASSES),
        "dn_boxes": (3, 2, drawn.count, 4),
        "dn_hidden": (2, drawn.count, 32),
    }


def small_dino(backbone, **changes) -> Dino:
    """Without `changes`: a plain detector of one layer each."""
    arguments = {
        "hidden_dim": 32,
        "feature_levels": 3,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "heads": 4,
        "points": 1,
        "ffn_dim": 32,
        "queries": 5,
        "num_classes": 4,
        "classifier": "linear",
        "encoder_classifier": "linear",
        "semantic_branch": False,
    }
    return Dino(backbone, **(arguments | changes))


def decoder_inputs(model: Dino, *batch):
    """Contents and boxes that the decoder begins with, and the outputs."""
    seen = []
    hook = model.transformer.decoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs))
    outputs = model(*batch)
    hook.remove()
    ((contents, boxes, *_),) = seen
    return contents, boxes, outputs


def moved(drawn, *, group):
    """The same with the boxes of one group elsewhere."""
    boxes = drawn.boxes.clone()
    is_moved = drawn.group == group
    boxes[is_moved] = 1 - boxes[is_moved] * 0.9
    return type(drawn)(**{**vars(drawn), "boxes": boxes})


def test_matching_queries_see_no_denoising_ones():
    model, drawn = shaken(tiny_dino()).double(), denoising(3, 1)
    images, mask = pictures(2)
    with_noise, with_other, without = (
        model(images.double(), mask, queries) for queries in (drawn, moved(drawn, group=0), None)
    )
    for name, value in tensors(without).items():
        assert_close(getattr(with_other, name), getattr(with_noise, name), rtol=0, atol=0)
        assert_close(getattr(with_noise, name), value, rtol=1e-9, atol=1e-9)


def test_groups_see_themselves_and_no_other_group():
    model, drawn = shaken(tiny_dino()), denoising(3, 1, dn_queries=9)
    assert drawn.groups == (3, 3)
    before, after = model(*pictures(2), drawn), model(*pictures(2), moved(drawn, group=1))
    changed = (before.dn_logits != after.dn_logits).any(dim=-1).any(dim=0).reshape(2, 3, -1)
    assert not changed[:, [0, 2]].any()
    assert changed[:, 1].all()


def test_denoising_queries_see_matching_ones():
    model, drawn = shaken(tiny_dino()), denoising(3, 1)
    before = model(*pictures(2), drawn)
    with torch.no_grad():
        model.transformer.tgt_embed.weight.mul_(3)
    assert not torch.allclose(before.dn_logits, model(*pictures(2), drawn).dn_logits)


def test_a_batch_equals_its_pictures_one_by_one():
    model, drawn = shaken(tiny_dino()).double(), denoising(3, 3)
    images, mask = pictures(2)
    together = model(images.double(), mask, drawn)
    for row in range(2):
        one = type(drawn)(
            **{
                **vars(drawn),
                "labels": drawn.labels[[row]],
                "boxes": drawn.boxes[[row]],
                "padding": drawn.padding[[row]],
                "group": drawn.group[[row]],
                "groups": (drawn.groups[row],),
                "positives": (drawn.positives[row],),
            }
        )
        alone = model(images[[row]].double(), mask[[row]], one)
        for name, value in tensors(alone).items():
            of_row = tensors(together)[name]
            of_row = of_row[:, [row]] if of_row.dim() == 4 else of_row[[row]]
            assert_close(of_row, value, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


def levels_of(maps, *, padded_to=None) -> list[FeatureLevel]:
    """Levels of one picture; padded at the right and bottom with rubbish, and masked there."""
    levels = []
    for index, features in enumerate(maps):
        height, width = features.shape[-2:]
        full_h, full_w = (height, width) if padded_to is None else (padded_to[0] >> index, padded_to[1] >> index)
        padded = torch.full((*features.shape[:2], full_h, full_w), 7.0, dtype=torch.float64)
        padded[..., :height, :width] = features
        mask = torch.ones(1, full_h, full_w, dtype=torch.bool)
        mask[:, :height, :width] = False
        levels.append(FeatureLevel(padded, mask, sine_position(mask, features.shape[1]).double()))
    return levels


def transform(model: Dino, levels):
    drawn = denoising(3)
    text = model.text_bank()
    return model.transformer(
        levels,
        denoising=drawn,
        denoising_contents_BNE=model.class_embed.label_embeddings(drawn.labels, text),
        box_head=model.bbox_embed[0],
        text=text,
    )


@pytest.mark.parametrize("queries", [QUERIES, 40])
def test_padded_features_give_what_unpadded_ones_give(queries):
    """Also where queries outnumber the tokens of the picture."""
    model = shaken(tiny_dino(queries=queries, encoder_layers=2)).double()
    generator = torch.Generator().manual_seed(6)
    maps = [
        torch.randn(1, 32, 4, 6, generator=generator, dtype=torch.float64),
        torch.randn(1, 32, 2, 3, generator=generator, dtype=torch.float64),
    ]
    alone, padded = transform(model, levels_of(maps)), transform(model, levels_of(maps, padded_to=(8, 10)))
    for one, other in zip(
        (alone.hidden, alone.references, *alone.anchors),
        (padded.hidden, padded.references, *padded.anchors),
        strict=True,
    ):
        assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_padded_query_positions_are_another_model_where_there_is_padding():
    """The reference's behaviour; the test above would fail with it."""
    model = shaken(tiny_dino(padded_query_positions=True)).double()
    maps = [torch.ones(1, 32, 4, 6, dtype=torch.float64), torch.ones(1, 32, 2, 3, dtype=torch.float64)]
    alone, padded = transform(model, levels_of(maps)), transform(model, levels_of(maps, padded_to=(8, 10)))
    assert not torch.allclose(alone.hidden, padded.hidden)


def test_anchors_are_the_best_proposals_and_enter_the_decoder_without_gradient():
    model = shaken(tiny_dino())
    _, anchors, outputs = decoder_inputs(model, *pictures(1))
    assert not anchors.requires_grad
    assert_close(anchors, outputs.encoder_boxes)
    assert outputs.encoder_boxes.requires_grad
    best = outputs.encoder_logits.amax(dim=-1)[0]
    assert (best.diff() <= 1e-5).all()


def test_contents_of_matching_queries_belong_to_no_picture():
    model = shaken(tiny_dino())
    contents, _, _ = decoder_inputs(model, *pictures(2))
    for of_picture in contents:
        assert_close(of_picture, model.transformer.tgt_embed.weight)


def test_boxes_move_the_references_by_the_normed_output():
    model = shaken(tiny_dino())
    images, mask = pictures(1)
    made = []
    model.transformer.decoder.register_forward_hook(lambda _module, _inputs, output: made.append(output))
    outputs = model(images, mask)
    hidden, references = made[0]
    assert_close(outputs.pred_boxes, model.bbox_embed[0].refine(hidden, references))
    assert_close(outputs.hidden, hidden[-1])


def test_the_semantic_branch_adds_nothing_at_inference():
    model = shaken(tiny_dino()).eval()
    weights = model.inference_state_dict()
    assert set(model.state_dict()) - set(weights) == {"class_embed.clip_visual_proj.weight"}
    without = tiny_dino(semantic_branch=False).eval()
    without.load_state_dict(weights)
    with torch.no_grad():
        assert_same(model(*pictures(2)), without(*pictures(2)), rtol=0, atol=0)


def test_semantic_logits_come_from_a_projection_of_their_own():
    model = shaken(tiny_dino())
    hidden = torch.randn(5, 32, generator=torch.Generator().manual_seed(7))
    assert model.semantic_logits(hidden).shape == (5, CLASSES)
    model.semantic_logits(hidden).sum().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    assert trained == ["class_embed.clip_visual_proj.weight"]


def test_denoising_without_noise_is_told_its_labels_by_their_names():
    model, drawn = shaken(tiny_dino()), denoising(3, 1)
    contents, _, _ = decoder_inputs(model, *pictures(2), drawn)
    expected = model.class_embed.label_embeddings(drawn.labels, model.text_bank())
    expected[drawn.padding] = 0
    assert_close(contents[:, : drawn.count], expected)


def test_four_levels_and_a_real_backbone():
    backbone = make_backbone("resnet18", weights=None, out_strides=(8, 16, 32), frozen_stages=2, frozen_norm=True)
    names = {"text_features_CD": tiny_dino().text_features, "logit_scale": 100.0, "num_classes": CLASSES}
    text = {"classifier": "text", "encoder_classifier": "text", "semantic_branch": True}
    model = small_dino(backbone, feature_levels=4, decoder_layers=2, points=2, queries=50, **names, **text)
    outputs = model(*pictures(1, 128, 128), denoising(2))
    assert outputs.pred_boxes.shape == (2, 1, 50, 4)
    assert all(value.isfinite().all() for value in tensors(outputs).values())


def test_logits_and_boxes_stay_float32_under_autocast():
    model = shaken(tiny_dino())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(*pictures(2), denoising(3, 1))
    for name in ("pred_logits", "pred_boxes", "encoder_logits", "encoder_boxes", "dn_logits", "dn_boxes"):
        assert getattr(outputs, name).dtype == torch.float32, name


def test_detections_come_from_the_final_layer():
    model = shaken(tiny_dino()).eval()
    with torch.no_grad():
        outputs = model(*pictures(2))
    found = detections(outputs.pred_logits[-1], outputs.pred_boxes[-1], [(64, 96), (640, 960)], keep=5)
    scores = outputs.pred_logits[-1, 1, :, 1:].sigmoid()
    assert_close(found[1].scores, scores.flatten().sort(descending=True).values[:5])
    assert len(found) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_features_CD": None}, "needs text features"),
        ({"num_classes": 9}, "7 rows and the detector 9 classes"),
        ({"classifier": "linear"}, "semantic branch"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(RichSemError, match=message):
        tiny_dino(**changes)


def test_soft_labels_without_a_semantic_branch_are_refused():
    with pytest.raises(RichSemError, match=r"model\.semantic_branch=true"):
        tiny_dino(semantic_branch=False).semantic_logits(torch.zeros(1, 32))


@pytest.mark.parametrize("side", [96, 112, 127])
def test_a_backbone_that_pads_tells_the_mask_so(side):
    backbone = make_backbone(
        "clip-resnet", weights=None, out_strides=(8, 16, 32), clip_layers=(1, 1, 1, 1), clip_width=8
    )
    assert backbone.size_divisor == 32
    detector = small_dino(backbone).eval()
    levels = []
    detector.input_proj.register_forward_hook(lambda _module, _args, output: levels.extend(output))
    detector(torch.zeros(1, 3, side, side), torch.zeros(1, side, side, dtype=torch.bool))
    for level, stride in zip(levels, backbone.strides, strict=True):
        assert level.map.shape[-1] * stride == -(-side // 32) * 32
        shown_px = (~level.padding_mask[0, 0]).sum().item() * stride
        assert abs(shown_px - side) < stride


@pytest.mark.parametrize(("size_divisor", "padded_hw"), [(1, (48, 80)), (32, (64, 96)), (48, (48, 96))])
def test_a_batch_is_padded_to_multiples_with_its_mask(size_divisor, padded_hw):
    model = tiny_dino(size_divisor=size_divisor).eval()
    levels = []
    model.input_proj.register_forward_hook(lambda _module, _args, output: levels.extend(output))
    model(*pictures(1, 48, 80))
    for level, stride in zip(levels, (8, 16), strict=True):
        assert tuple(side * stride for side in level.map.shape[-2:]) == padded_hw
        assert (~level.padding_mask).sum() == (48 // stride) * (80 // stride)


@pytest.mark.parametrize("size_divisor", [1, 16, 32])
def test_padding_serves_the_backbone_as_well(size_divisor):
    model = tiny_dino(size_divisor=size_divisor)
    model.backbone[0].size_divisor = 48
    detector = small_dino(model.backbone[0], feature_levels=2, size_divisor=size_divisor)
    assert detector.size_divisor == {1: 48, 16: 48, 32: 96}[size_divisor]


@pytest.mark.parametrize(("positions", "is_padded"), [("padded", True), ("picture", False)])
def test_a_config_says_how_batches_are_padded_and_queries_placed(positions, is_padded):
    config = DinoConfig.model_validate(VALUES["model"] | {"size_divisor": 24, "query_positions": positions})
    detector = build_detector(
        config,
        num_classes=CLASSES,
        text_features_CD=torch.ones(CLASSES, 4),
        logit_scale=1.0,
        weights=None,
        device=torch.device("cpu"),
        semantic_branch=False,
    )
    # The backbone needs multiples of 16.
    assert detector.size_divisor == 48
    assert detector.transformer.decoder.padded_query_positions is is_padded


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_keeps_less_and_changes_nothing(precision):
    found = []
    for checkpoint_encoder in (False, True):
        model = shaken(tiny_dino(encoder_layers=2, checkpoint_encoder=checkpoint_encoder)).train()
        groups = model.half_weights() if precision == "bf16" else []
        kept = {}

        def pack(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with (
            torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
            cast_weights(model, groups, torch.bfloat16),
        ):
            outputs = model(*pictures(2), denoising(3, 1))
        sum(value.float().square().mean() for value in tensors(outputs).values()).backward()
        found.append((sum(kept.values()), [parameter.grad for parameter in model.parameters()]))
    (whole, gradients), (less, again) = found
    assert less < whole
    assert all(torch.equal(one, other) for one, other in zip(gradients, again, strict=True))
