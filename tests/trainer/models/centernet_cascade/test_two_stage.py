import torch

from tests.trainer.learners.cascade_steps import make_cascade_trainer


def found_with(bias: float) -> list[torch.Tensor]:
    detector = make_cascade_trainer().learner.detector.eval()
    torch.nn.init.constant_(detector.centernet.heatmap.bias, bias)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = detector.detect(
        pixels,
        torch.zeros(2, 64, 64, dtype=torch.bool),
        image_hw=[(64, 64)] * 2,
        original_hw=[(64, 64)] * 2,
        vocabulary_C=torch.arange(detector.num_classes) > 0,
        keep=5,
    )
    return [each.scores for each in found]


def test_weights_that_give_no_numbers_are_not_taken_for_empty_pictures():
    assert all(len(scores) == 5 and scores.isnan().all() for scores in found_with(float("nan")))
    assert all(len(scores) and scores.isfinite().all() for scores in found_with(2.0))
