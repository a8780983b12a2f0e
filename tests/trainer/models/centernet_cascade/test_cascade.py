import math

import pytest
import torch
from torch.testing import assert_close

from richsem_train.models.centernet_cascade.cascade import DELTA_WEIGHTS, Cascade
from richsem_train.models.centernet_cascade.roi_pooler import pool_rois
from richsem_train.models.text_features import TextFeatures

CLASSES, TEXT, CHANNELS, SIDE = 7, 12, 4, 256
HW = torch.tensor([[256, 256], [200, 180]])


def make_cascade(*, semantic_dim: int | None = None, moves: float = 0.05) -> Cascade:
    torch.manual_seed(0)
    cascade = Cascade(CHANNELS, hidden_dim=16, text_dim=TEXT, semantic_dim=semantic_dim).double()
    for stage in cascade.stages:
        torch.nn.init.normal_(stage.bbox_pred[2].weight, std=moves)
    return cascade


def text(classes: int = CLASSES, width: int = TEXT, scale: float = 50.0) -> TextFeatures:
    raw = torch.randn(classes, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return TextFeatures.of(raw, torch.tensor(scale, dtype=torch.float64))


def maps() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, CHANNELS, SIDE // s, SIDE // s, generator=rng, dtype=torch.float64) for s in (8, 16, 32, 64, 128)
    ]


def boxes() -> torch.Tensor:
    rng = torch.Generator().manual_seed(2)
    corner = 120 * torch.rand(2, 9, 2, generator=rng, dtype=torch.float64)
    return torch.cat([corner, corner + 10 + 60 * torch.rand(2, 9, 2, generator=rng, dtype=torch.float64)], dim=-1)


ALL = torch.ones(2, 9, dtype=torch.bool)
SCORES = torch.linspace(0.9, 0.1, 18, dtype=torch.float64).view(2, 9)


def test_scores_and_boxes_against_a_loop_over_scalars():
    cascade = make_cascade()
    found = cascade.find(maps(), boxes(), SCORES, ALL, text=text(), image_hw_B2=HW)
    for picture, region in [(0, 0), (1, 3), (1, 8)]:
        box = boxes()[picture, region]
        summed = [0.0] * CLASSES
        for stage, weights in zip(cascade.stages, DELTA_WEIGHTS, strict=True):
            pooled = pool_rois([each[picture, None] for each in maps()], box[None, None], ALL[:1, :1], side=7)
            hidden = stage.fc2(stage.fc1(pooled.flatten()).relu()).relu()
            projected = stage.class_proj(hidden)
            for row in range(CLASSES):
                name = text().raw[row]
                cosine = (projected @ name / (projected.norm() * name.norm())).item()
                summed[row] += 1 / (1 + math.exp(-50 * cosine))
            dx, dy, dw, dh = (stage.bbox_pred(hidden) / torch.tensor(weights)).tolist()
            x1, y1, x2, y2 = box.tolist()
            x, y = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
            w, h = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
            height, width = HW[picture].tolist()
            corners = [(x - w / 2, width), (y - h / 2, height), (x + w / 2, width), (y + h / 2, height)]
            box = torch.tensor([min(max(value, 0), most) for value, most in corners], dtype=torch.float64)
        expected = [math.sqrt(each / 3 * float(SCORES[picture, region])) for each in summed]
        assert_close(found.scores[picture, region], torch.tensor(expected, dtype=torch.float64))
        assert_close(found.boxes_xyxy_px[picture, region], box)


def test_three_stages_that_move_nothing_are_one():
    cascade = make_cascade(moves=0.0)
    one = cascade[0].state_dict()
    for stage in cascade.stages:
        stage.load_state_dict(one)
    found = cascade.find(maps(), boxes(), SCORES, ALL, text=text(), image_hw_B2=HW)
    once = cascade.outputs(0, maps(), boxes(), ALL, text())
    assert_close(found.scores, (once.logits.sigmoid() * SCORES[..., None]).sqrt())
    assert_close(found.boxes_xyxy_px, boxes())


def test_maps_get_a_third_of_the_gradient_and_the_stage_all_of_its_own():
    cascade = make_cascade()
    features = [each.requires_grad_() for each in maps()]
    cascade.outputs(1, features, boxes(), ALL, text()).logits.square().sum().backward()
    ours = [each.grad for each in features[:3]]
    weight = cascade[1].fc1.weight.grad.clone()

    again = [each.detach().requires_grad_() for each in features]
    cascade.zero_grad()
    stage = cascade[1]
    pooled = pool_rois(again, boxes(), ALL, side=7)
    stage.logits(stage(pooled), text()).square().sum().backward()
    assert_close(weight, stage.fc1.weight.grad)
    assert ours[0].abs().sum() > 0
    for own, plain in zip(ours, again, strict=False):
        assert_close(own, plain.grad / 3)


def test_no_gradient_flows_into_boxes():
    moving = boxes().requires_grad_()
    outputs = make_cascade().outputs(0, maps(), moving, ALL, text())
    (outputs.logits.sum() + outputs.deltas.sum()).backward()
    assert moving.grad is None


def test_what_stands_for_nothing_scores_nothing():
    is_real = ALL.clone()
    is_real[1, 4:] = False
    found = make_cascade().find(maps(), boxes(), SCORES, is_real, text=text(), image_hw_B2=HW)
    assert (found.scores[1, 4:] == 0).all()
    assert (found.scores[1, :4] > 0).all()


def test_a_picture_alone_is_found_as_in_a_batch():
    cascade = make_cascade()
    together = cascade.find(maps(), boxes(), SCORES, ALL, text=text(), image_hw_B2=HW)
    alone = cascade.find(
        [each[1:] for each in maps()], boxes()[1:], SCORES[1:], ALL[1:], text=text(), image_hw_B2=HW[1:]
    )
    assert_close(alone.scores, together.scores[1:])
    assert_close(alone.boxes_xyxy_px, together.boxes_xyxy_px[1:])


def test_boxes_begin_where_they_are():
    torch.manual_seed(0)
    cascade = Cascade(CHANNELS, hidden_dim=64, text_dim=TEXT, semantic_dim=None).double()
    outputs = cascade.outputs(0, maps(), boxes(), ALL, text())
    assert_close(cascade.refined(0, outputs.deltas, boxes(), HW), boxes(), atol=0.2, rtol=0)


def test_layers_before_a_relu_begin_as_wide_as_detectron2s():
    """Uniform within the root of 3 over the inputs, fvcore's `c2_xavier_fill`."""
    torch.manual_seed(0)
    cascade = Cascade(CHANNELS, hidden_dim=64, text_dim=TEXT, semantic_dim=None)
    for stage in cascade.stages:
        for layer in (stage.fc1, stage.fc2, stage.bbox_pred[0]):
            most = math.sqrt(3 / layer.in_features)
            assert 0.99 * most < layer.weight.abs().max() <= most
            assert not layer.bias.any()


@pytest.mark.parametrize("number", range(3))
def test_the_branch_is_a_head_of_each_stage_with_names_of_its_own(number):
    cascade = make_cascade(semantic_dim=5)
    teacher = text(width=5, scale=100.0)
    hidden = torch.randn(4, 16, dtype=torch.float64)
    projected = hidden @ cascade[number].semantic_proj.weight.T
    expected = 100 * torch.nn.functional.cosine_similarity(projected[:, None], teacher.raw, dim=-1)
    assert_close(cascade[number].semantic_logits(hidden, teacher), expected)


def test_cosines_and_deltas_are_float32_under_autocast():
    cascade = make_cascade().float()
    names = TextFeatures.of(text().raw.float(), torch.tensor(50.0))
    hidden = torch.randn(4, 16)
    expected = cascade[0].logits(hidden, names), cascade[0].deltas(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cascade[0].logits(hidden, names), expected[0])
        assert torch.equal(cascade[0].deltas(hidden), expected[1])
