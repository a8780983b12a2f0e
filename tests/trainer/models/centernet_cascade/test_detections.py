import time

import pytest
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from richsem_train.models.centernet_cascade.detections import best_pairs

CLASSES, REGIONS = 6, 40
HW, ORIGINAL = [(100, 200), (150, 90)], [(50, 400), (150, 90)]
VOCABULARY = torch.tensor([False, True, True, True, False, True])


def scene(seed: int = 0, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, REGIONS, classes, generator=rng) ** 4
    corner = 40 * torch.rand(2, REGIONS, 2, generator=rng)
    return scores, torch.cat([corner, corner + 20 + 25 * torch.rand(2, REGIONS, 2, generator=rng)], dim=-1)


def find(scores: Tensor, boxes: Tensor, *, keep: int = 300, vocabulary: Tensor = VOCABULARY):
    return best_pairs(scores, boxes, image_hw=HW, original_hw=ORIGINAL, vocabulary_C=vocabulary, keep=keep)


@pytest.mark.parametrize("keep", [300, 10])
def test_pairs_are_those_that_torchvision_keeps_in_each_picture(keep):
    scores, boxes = scene()
    for picture, found in enumerate(find(scores, boxes, keep=keep)):
        allowed = scores[picture] * VOCABULARY
        region, row = (allowed > 0.02).nonzero(as_tuple=True)
        kept = batched_nms(boxes[picture, region], allowed[region, row], row, 0.5)
        assert 30 < len(kept) < len(region) - 30
        kept = kept[:keep]
        assert found.scores.tolist() == allowed[region, row][kept].tolist()
        assert found.labels.tolist() == row[kept].tolist()
        (height, width), (new_height, new_width) = HW[picture], ORIGINAL[picture]
        down, across = new_height / height, new_width / width
        expected = boxes[picture, region][kept] * torch.tensor([across, down, across, down])
        assert torch.equal(found.boxes_xyxy_px, expected)


def test_pictures_and_classes_suppress_only_themselves():
    box = torch.tensor([[10.0, 10, 50, 50], [10, 10, 50, 49]])
    scores = torch.zeros(2, 2, CLASSES)
    scores[:, 0, 1] = 0.9
    scores[:, 1, 1] = 0.8
    scores[0, 1, 2] = 0.7
    first, second = find(scores, box.expand(2, -1, -1))
    assert (first.labels.tolist(), first.scores.tolist()) == ([1, 2], pytest.approx([0.9, 0.7]))
    assert second.labels.tolist() == [1]


def test_overlap_is_exact_among_thousands_of_classes_in_many_pictures():
    """At IoU 0.5 nothing is suppressed, a hundredth of a pixel further it is; float32 would round both away."""
    classes, pictures = 1204, 16
    boxes = torch.tensor([[0.0, 0.0, 1000.0, 1000.0], [0.0, 0.0, 500.0, 1000.0], [0.0, 0.0, 500.01, 1000.0]])
    scores = torch.zeros(pictures, 3, classes)
    scores[:, 0, -2:] = 0.9
    scores[:, 1, -2] = 0.8
    scores[:, 2, -1] = 0.8
    hw = [(1000, 1000)] * pictures
    found = best_pairs(
        scores,
        boxes.expand(pictures, -1, -1),
        image_hw=hw,
        original_hw=hw,
        vocabulary_C=torch.arange(classes) > 0,
        keep=300,
    )
    assert all(sorted(each.labels.tolist()) == [classes - 2, classes - 2, classes - 1] for each in found)


def test_scores_of_two_hundredths_and_less_are_no_detections():
    scores, boxes = scene()
    scores = torch.full_like(scores, 0.02)
    scores[0, 0, 1] = 0.0201
    first, second = find(scores, boxes)
    assert first.labels.tolist() == [1]
    assert second.labels.shape == (0,)
    assert second.boxes_xyxy_px.shape == (0, 4)


def test_what_is_no_number_stays_to_be_told_of():
    scores, boxes = scene()
    scores[1, 3, 2] = torch.nan
    boxes[1, 3] = torch.nan
    assert find(scores, boxes)[1].scores.isnan().any()


def test_an_untrained_detector_with_a_large_vocabulary_is_cut_short():
    scores, boxes = torch.full((2, REGIONS, 1000), 0.5), scene()[1]
    found = find(scores, boxes, vocabulary=torch.arange(1000) > 0, keep=7)
    assert [len(each.scores) for each in found] == [7, 7]


def test_pictures_of_an_untrained_detector_cost_little_more_together_than_alone():
    """Not the square of their number, which is 64 here."""
    rng = torch.Generator().manual_seed(0)
    corner = 90 * torch.rand(8, 256, 2, generator=rng)
    boxes = torch.cat([corner, corner + 20 + 18 * torch.rand(8, 256, 2, generator=rng)], dim=-1)
    scores = torch.rand(8, 256, 97, generator=rng)

    def seconds(count):
        start = time.process_time()
        hw = [(128, 128)] * count
        vocabulary = torch.arange(97) > 0
        best_pairs(scores[:count], boxes[:count], image_hw=hw, original_hw=hw, vocabulary_C=vocabulary, keep=300)
        return time.process_time() - start

    alone, together = (min(seconds(count) for _ in range(2)) for count in (1, 8))
    assert together < 45 * alone
