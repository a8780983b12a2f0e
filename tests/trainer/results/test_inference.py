"""A detector shown pictures: names, sizes, and nothing of what else is in the batch."""

import numpy as np
import pytest
import torch
from PIL import Image

from richsem_schemas.cache.geometry import resized_hw
from richsem_train.data.collate import collate
from richsem_train.models.inputs import Normalise
from richsem_train.results.inference import BatchDetector, detect_all
from tests.trainer.models.dino.tiny_dino import CLASSES, shaken, tiny_dino

NAMES = ("none", "one", "two", "", "four", "five", "six")


@pytest.fixture(scope="module")
def detector():
    model = shaken(tiny_dino()).eval()
    normalise = Normalise((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert len(NAMES) == CLASSES
    return BatchDetector(model, normalise, "fp32", NAMES, keep=20, short_side=64, longest_side=96)


def picture(seed=0, hw=(48, 80)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8))


def test_detections_are_the_best_first_named_and_inside(detector):
    found = detector.detect_picture(picture())
    assert len(found) == 20
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    # Row 0 and rows without a name are no classes.
    assert set(found.category_ids.tolist()) <= {1, 2, 4, 5, 6}
    assert found.boxes_xyxy_px.min() >= 0
    assert (found.boxes_xyxy_px <= [80, 48, 80, 48]).all()


def test_a_picture_is_shown_at_the_configured_size(detector):
    sample = detector._sample(picture(hw=(480, 800)))
    assert sample.pixels.shape[1:] == resized_hw((480, 800), 64, 96) == (58, 96)
    assert sample.target.original_hw == (480, 800)


def test_boxes_are_in_pixels_of_the_picture_as_decoded(detector):
    small, large = picture(hw=(64, 96)), picture(hw=(64, 96)).resize((192, 128), Image.Resampling.NEAREST)
    one, other = detector.detect_picture(small), detector.detect_picture(large)
    assert one.boxes_xyxy_px.max() <= 96
    assert other.boxes_xyxy_px.max() > 96


def test_a_picture_is_detected_alike_alone_and_beside_another_of_its_size(detector):
    together = detector.detect_pictures([picture(seed) for seed in range(3)], batch_size=2)
    for seed, found in enumerate(together):
        alone = detector.detect_picture(picture(seed))
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes_xyxy_px, alone.boxes_xyxy_px, atol=1e-3)


def test_detections_come_with_the_ids_of_their_pictures(detector):
    samples = [detector._sample(picture(seed)) for seed in range(3)]
    found = list(detect_all(detector, [collate(samples[:2]), collate(samples[2:])]))
    assert [image_id for image_id, _ in found] == [-1, -1, -1]


def test_bf16_detects_about_the_same(detector):
    halved = BatchDetector(**(vars(detector) | {"precision": "bf16"}))
    one, other = detector.detect_picture(picture()), halved.detect_picture(picture())
    assert other.scores.dtype == other.boxes_xyxy_px.dtype == np.float32
    assert np.abs(one.scores[:5] - other.scores[:5]).max() < 0.1


def test_the_semantic_branch_takes_no_part():
    with_branch = shaken(tiny_dino()).eval()
    without = tiny_dino(semantic_branch=False).eval()
    without.load_state_dict(with_branch.inference_state_dict())
    assert with_branch.has_semantic_branch
    assert not any("clip_visual_proj" in name for name in without.state_dict())
    images, mask = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.bool)
    with torch.inference_mode():
        one, other = with_branch(images, mask), without(images, mask)
    assert torch.equal(one.pred_logits, other.pred_logits)
    assert torch.equal(one.pred_boxes, other.pred_boxes)
