"""Published weights give their logits and boxes here, at any size, alone and beside other pictures."""

import pytest
import torch

from richsem_train.data.collate import Sample, collate
from richsem_train.models.dino.published import load_published
from richsem_train.targets import Target
from tests.trainer.models.dino.published_checkpoints import (
    CLASSES,
    HEADS,
    POINTS,
    QUERIES,
    SHAPES,
    TEXT,
    detector,
    random_weight,
    saved,
)
from tests.trainer.models.dino.published_rule import Shape, detect

TEXTS = torch.randn(CLASSES, TEXT, generator=torch.Generator().manual_seed(5))
DIVISORS = {"richsem": 32, "baseline": 32, "dino": 1}
"""What each published program pads batches to multiples of."""
SIZES = [(100, 75), (61, 131), (128, 97)]
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module", params=SHAPES)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def state(kind):
    made = {name: random_weight(name, shape) for name, shape in SHAPES[kind]().items()}
    projection = made.get("transformer.enc_out_class_embed.dino_visual_proj.weight")
    if projection is not None:
        # Proposals without a token look like no class, which trained weights have learnt.
        unlike = torch.linalg.pinv(projection) @ -TEXTS.sum(0)
        made["transformer.enc_output.bias"] = torch.zeros_like(unlike)
        made["transformer.enc_output_norm.bias"] = unlike / unlike.norm()
    return made


@pytest.fixture(scope="module")
def published(kind, state, tmp_path_factory):
    """Detectors that have read the checkpoint."""

    def make(**changes):
        if kind != "dino":
            changes["text_features_CD"] = TEXTS
        model = detector(kind, **changes)
        load_published(model, saved(tmp_path_factory.mktemp(kind) / "checkpoint.pth", state))
        return model.double().eval()

    return make


def pictures(sizes):
    """Bytes, and the same normalised, as floats."""
    drawn = [
        torch.randint(256, (3, *hw), generator=torch.Generator().manual_seed(sum(hw)), dtype=torch.uint8)
        for hw in sizes
    ]
    return drawn, [(each.double() / 255 - 0.45) / 0.22 for each in drawn]


def found_by(model, sizes):
    drawn, _ = pictures(sizes)
    nothing = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    batch = collate([Sample(each, Target(*nothing, 1, each.shape[1:], each.shape[1:]), "") for each in drawn])
    pixels = ((batch.pixels.double() / 255 - 0.45) / 0.22).masked_fill(batch.padding_mask[:, None], 0)
    with torch.no_grad():
        outputs = model(pixels, batch.padding_mask)
    return outputs.pred_logits[-1], outputs.pred_boxes[-1]


def expected_of(kind, state, sizes):
    _, normalised = pictures(sizes)
    found = detect(state, Shape(HEADS, POINTS, QUERIES), normalised, size_divisor=DIVISORS[kind], text_features=TEXTS)
    # There the reference would begin a query where this detector doesn't.
    assert not found.is_stray.any()
    return found.logits, found.boxes


@pytest.mark.parametrize("sizes", [SIZES[:1], SIZES[1:2], SIZES], ids=str)
def test_published_weights_give_their_logits_and_boxes(kind, state, published, sizes):
    model = published(size_divisor=DIVISORS[kind], padded_query_positions=True)
    for ours, theirs in zip(found_by(model, sizes), expected_of(kind, state, sizes), strict=True):
        torch.testing.assert_close(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("other", [{"size_divisor": 1}, {"padded_query_positions": False}])
@pytest.mark.parametrize("kind", ["richsem"], indirect=True)
def test_without_the_padding_or_the_positions_they_give_others(kind, state, published, other):
    model = published(**({"size_divisor": 32, "padded_query_positions": True} | other))
    logits, _ = found_by(model, SIZES)
    assert (logits - expected_of(kind, state, SIZES)[0]).abs().max() > 0.05
