"""Batches of pictures of like size: nothing is lost, nothing padded further, and all comes in its order."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from richsem_train.config import CenternetCascadeConfig, DinoConfig
from richsem_train.data.collate import Sample
from richsem_train.models.inputs import Normalise
from richsem_train.results import like_sizes
from richsem_train.results.inference import BatchDetector, detect_all
from richsem_train.results.like_sizes import batches_of_like_size, collate_alike, in_order
from tests.trainer.steps import CLASSES, make_batch, make_trainer
from tests.trainer.tiny import TWO_STAGE, VALUES

SIZES = [(40, 64), (64, 64), (40, 60), (64, 40), (40, 64), (64, 64), (64, 64), (33, 61), (40, 64)]


@pytest.mark.parametrize("divisor", [1, 32])
def test_each_picture_is_in_one_batch_of_its_padded_size(divisor):
    batches = batches_of_like_size(SIZES, batch_size=2, size_divisor=divisor)
    assert sorted(chain(*batches)) == list(range(len(SIZES)))
    padded = [{tuple(-(-side // divisor) for side in SIZES[index]) for index in batch} for batch in batches]
    assert all(len(sizes) == 1 for sizes in padded)
    assert max(map(len, batches)) == 2
    # Two sizes are there three times, three once; by 32 all are padded to one.
    assert len(batches) == (7 if divisor == 1 else 5)


def test_no_picture_goes_further_than_a_window(monkeypatch):
    monkeypatch.setattr(like_sizes, "_WINDOW", 4)
    order = list(chain(*batches_of_like_size(SIZES, batch_size=8, size_divisor=1)))
    assert sorted(order[:4]) == [0, 1, 2, 3]
    assert sorted(order[4:8]) == [4, 5, 6, 7]


def test_what_comes_early_waits():
    found = [(3, "c"), (1, "a"), (2, "b"), (4, "d")]
    assert list(in_order(iter(found), [1, 2, 3, 4])) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]


@pytest.mark.parametrize("values", [VALUES, TWO_STAGE], ids=["dino", "two stages"])
def test_what_is_found_in_a_picture_is_the_same_alone_and_beside_others(values):
    config = (DinoConfig if values is VALUES else CenternetCascadeConfig).model_validate(values["model"])
    model = make_trainer(model=config, dtype=torch.float32).learner.detector.eval()
    names = ("none", *(f"class {row}" for row in range(1, CLASSES)))
    detector = BatchDetector(
        model, Normalise((120.0,) * 3, (60.0,) * 3), "fp32", names, keep=20, short_side=64, longest_side=64
    )
    samples = [sample(number, hw) for number, hw in enumerate(SIZES)]
    alone = dict(detect_all(detector, (collate_alike([each], size_divisor=1)[0] for each in samples)))
    batches = batches_of_like_size(SIZES, batch_size=4, size_divisor=model.size_divisor)
    together = chain.from_iterable(
        collate_alike([samples[index] for index in batch], size_divisor=model.size_divisor) for batch in batches
    )
    assert len(batches) < len(SIZES)
    for image_id, found in in_order(detect_all(detector, together), range(len(SIZES))):
        wanted = alone[image_id]
        assert len(found) == len(wanted) > 0
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes_xyxy_px, wanted.boxes_xyxy_px, atol=1e-2)


def sample(number, hw):
    rng = np.random.default_rng(number)
    target = make_batch(range(number, number + 1)).targets[0]
    pixels = torch.from_numpy(rng.integers(0, 256, (3, *hw), np.uint8))
    return Sample(pixels, replace(target, image_hw=hw, original_hw=hw), str(number))
