import pytest
import torch
from torch.testing import assert_close
from transformers.models.deformable_detr.modeling_deformable_detr import (
    DeformableDetrDecoderLayer,
    DeformableDetrEncoder,
    DeformableDetrEncoderLayer,
    DeformableDetrModel,
)
from transformers.models.grounding_dino.modeling_grounding_dino import encode_sinusoidal_position_embedding

from richsem_train.models.dino.decoder import Decoder, DecoderLayer, sine_embedding_of_boxes
from richsem_train.models.dino.encoder import EncoderLayer, token_centres, valid_ratios
from richsem_train.models.dino.heads import BoxHead, inverse_sigmoid
from richsem_train.models.dino.query_selection import at_least_tokens, best_tokens, encoder_proposals
from tests.trainer.models.dino.published_rule import DECODER_NAMES, ENCODER_NAMES, as_transformers, deformable_detr
from tests.trainer.models.dino.tiny_dino import shaken

WIDTH, HEADS, POINTS, FFN = 16, 4, 2, 24
SHAPES = ((6, 8), (3, 4))
TOKENS = sum(height * width for height, width in SHAPES)
LAYER = {"levels": 2, "heads": HEADS, "points": POINTS, "ffn_dim": FFN, "dropout": 0.0, "backend": "torch"}


@pytest.fixture
def config():
    return deformable_detr(WIDTH, heads=HEADS, points=POINTS, levels=2, ffn_dim=FFN)


def masks(*hw_of_pictures: tuple[int, int]) -> list[torch.Tensor]:
    """Padding masks of both levels, for pictures that fill so many cells of the first."""
    levels = []
    for level, (height, width) in enumerate(SHAPES):
        mask = torch.ones(len(hw_of_pictures), height, width, dtype=torch.bool)
        for row, (valid_h, valid_w) in enumerate(hw_of_pictures):
            mask[row, : valid_h >> level, : valid_w >> level] = False
        levels.append(mask)
    return levels


def flat(levels):
    return torch.cat([mask.flatten(1) for mask in levels], dim=1)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def where_levels_start():
    return torch.tensor([0, SHAPES[0][0] * SHAPES[0][1]])


def test_an_encoder_layer_equals_that_of_transformers(config):
    ours = shaken(EncoderLayer(WIDTH, **LAYER)).double()
    theirs = as_transformers(DeformableDetrEncoderLayer(config), ENCODER_NAMES, ours.state_dict())
    levels = masks((6, 8), (4, 6))
    tokens, position = random(2, TOKENS, WIDTH), random(2, TOKENS, WIDTH, seed=1)
    centres = token_centres(SHAPES, valid_ratios(levels, torch.float64))
    expected = theirs(
        tokens,
        ~flat(levels),
        spatial_position_embeddings=position,
        reference_points=centres,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
        level_start_index=where_levels_start(),
    )
    assert_close(ours(tokens, position, centres, SHAPES, flat(levels)), expected)


def test_a_decoder_layer_equals_that_of_transformers(config):
    ours = shaken(DecoderLayer(WIDTH, **LAYER)).double()
    theirs = as_transformers(DeformableDetrDecoderLayer(config), DECODER_NAMES, ours.state_dict())
    queries, position, memory = random(2, 5, WIDTH), random(2, 5, WIDTH, seed=1), random(2, TOKENS, WIDTH, seed=2)
    boxes = random(2, 5, 2, 4, seed=3).sigmoid()
    padding = flat(masks((6, 8), (4, 6)))
    expected = theirs(
        queries,
        object_queries_position_embeddings=position,
        reference_points=boxes,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
        level_start_index=where_levels_start(),
        encoder_hidden_states=memory,
        encoder_attention_mask=~padding,
    )
    assert_close(ours(queries, position, boxes, memory, SHAPES, padding, None), expected)


def test_token_centres_equal_those_of_transformers():
    ratios = valid_ratios(masks((6, 8), (4, 6)), torch.float32)
    assert ratios[1].tolist() == [[0.75, pytest.approx(2 / 3)], [0.75, pytest.approx(2 / 3)]]
    expected = DeformableDetrEncoder.get_reference_points(torch.tensor(SHAPES), ratios, "cpu")
    assert_close(token_centres(SHAPES, ratios), expected)


def test_proposals_equal_those_of_transformers():
    levels = masks((6, 8), (4, 6))
    holder = type("Holder", (), {"enc_output": torch.nn.Identity(), "enc_output_norm": torch.nn.Identity()})()
    memory, expected = DeformableDetrModel.gen_encoder_output_proposals(
        holder, torch.ones(2, TOKENS, 1, dtype=torch.float64), flat(levels), SHAPES
    )
    proposals, valid = encoder_proposals(levels, torch.float64)
    assert torch.equal(valid, memory[..., 0] == 1)
    assert_close(proposals, expected)


def test_proposals_double_their_side_with_each_level():
    proposals, valid = encoder_proposals(masks((6, 8)), torch.float64)
    sides = proposals.sigmoid()[0, :, 2:]
    assert_close(sides[: 6 * 8], torch.full((48, 2), 0.05, dtype=torch.float64))
    assert_close(sides[6 * 8 :], torch.full((12, 2), 0.1, dtype=torch.float64))
    assert valid.all()


def test_proposals_wider_than_the_picture_are_not_valid():
    levels = [torch.zeros(1, 2, 2, dtype=torch.bool)] * 6
    proposals, valid = encoder_proposals(levels, torch.float32)
    assert valid[0].reshape(6, 4).all(dim=1).tolist() == [True] * 5 + [False]
    assert not proposals.isnan().any()


def test_padding_is_chosen_only_when_nothing_else_is_left():
    scores = torch.tensor([[1.0, 9.0, 3.0, 2.0]])
    valid = torch.tensor([[True, False, True, True]])
    assert best_tokens(scores, valid, 3).tolist() == [[2, 3, 0]]
    assert best_tokens(scores, valid, 4)[0, 3] == 1


def test_small_pictures_have_tokens_for_all_queries():
    memory, proposals, valid = at_least_tokens(
        torch.ones(1, 3, 2), torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), 5
    )
    assert memory.shape == (1, 5, 2)
    assert (proposals[0, 3:] == torch.inf).all()
    assert valid.tolist() == [[True, True, True, False, False]]


def test_sine_embedding_equals_that_of_transformers():
    boxes = random(2, 5, 4).sigmoid()
    assert_close(
        sine_embedding_of_boxes(boxes, 8), encode_sinusoidal_position_embedding(boxes, 8), rtol=1e-6, atol=1e-6
    )


def decoder(layers=3, *, padded_query_positions=False, **changes):
    stack = (DecoderLayer(WIDTH, **LAYER | changes) for _ in range(layers))
    return shaken(Decoder(stack, hidden_dim=WIDTH, padded_query_positions=padded_query_positions)).double()


def decode(module, head, anchors, *, queries=None, mask=None, hw=((6, 8), (6, 8))):
    levels = masks(*hw)
    return module(
        random(2, anchors.shape[1], WIDTH) if queries is None else queries,
        anchors,
        random(2, TOKENS, WIDTH, seed=2),
        SHAPES,
        valid_ratios(levels, torch.float64),
        flat(levels),
        attention_mask_BQQ=mask,
        box_head=head,
    )


@pytest.fixture
def head():
    return shaken(BoxHead(WIDTH)).double()


@pytest.fixture
def anchors():
    return random(2, 5, 4, seed=5).sigmoid()


def test_each_layer_starts_from_the_boxes_of_the_one_before(head, anchors):
    """Refinement sees the output before the norm; what later layers sample follows it."""
    module = decoder()
    before_norm = []
    for layer in module.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: before_norm.append(output))
    hidden, references = decode(module, head, anchors)
    assert_close(references[0], anchors)
    for index in (1, 2):
        moved = (head(before_norm[index - 1]) + inverse_sigmoid(references[index - 1])).sigmoid()
        assert_close(references[index], moved)
    for index in range(3):
        assert_close(hidden[index], module.norm(before_norm[index]))


def test_gradients_reach_one_layer_back_through_references_and_no_further(head, anchors):
    """Look forward twice: the references that heads move are not detached, those that layers sample from are."""
    module = decoder()
    outputs = []
    for layer in module.layers:
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    _, references = decode(module, head, anchors)
    first, second, _ = outputs
    to_second = torch.autograd.grad(references[2].sum(), second, retain_graph=True)
    assert to_second[0].abs().sum() > 0
    through_reference = torch.autograd.grad(references[2].sum(), references[1], allow_unused=True, retain_graph=True)
    assert through_reference[0] is None
    assert torch.autograd.grad(references[1].sum(), first)[0].abs().sum() > 0


@pytest.mark.parametrize("padded", [False, True])
def test_positions_of_queries_follow_the_padding_only_where_asked(head, anchors, padded):
    """All boxes are in the picture's own units, and the switch restores those of the batch."""
    module = decoder(layers=1, padded_query_positions=padded)
    seen = []
    module.ref_point_head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    for hw in (((6, 8), (6, 8)), ((6, 8), (4, 4))):
        decode(module, head, anchors, hw=hw)
    whole, cut = seen
    assert torch.equal(whole[0], cut[0])
    assert torch.equal(whole[1], cut[1]) is not padded
