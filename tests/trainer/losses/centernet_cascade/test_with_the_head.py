import torch

from richsem_train.losses.centernet_cascade.proposals import cell_targets, count_positives, proposal_losses
from richsem_train.models.centernet_cascade.centernet import CenterNetHead, decode
from richsem_train.outputs.centernet_cascade import PYRAMID_STRIDES, CellPredictions, Grid
from tests.trainer.losses.batches import generator

BOXES_BM4 = torch.tensor(
    [[[10.0, 12, 50, 70], [80, 20, 200, 180], [150, 150, 190, 230]], [[5, 5, 250, 251], [0, 0, 0, 0], [0, 0, 0, 0]]]
)
TRUTH = {
    "boxes_BM4": BOXES_BM4,
    "is_object_BM": BOXES_BM4.any(-1),
    "image_hw_B2": torch.tensor([[256, 256], [256, 256]]),
    "teaches_B": torch.tensor([True, True]),
}


def best_boxes(predictions: CellPredictions, picture: int, count: int) -> torch.Tensor:
    """In the order of their left sides."""
    proposals = decode(predictions, TRUTH["image_hw_B2"], pre_top_k=1000, post_top_k=count)
    boxes = proposals.boxes_xyxy_px[picture]
    return boxes[boxes[:, 0].argsort()]


def test_whoever_says_what_is_taught_proposes_the_objects():
    grid = Grid.over(256, 256, torch.device("cpu"))
    targets = cell_targets(grid=grid, **TRUTH)
    # Neighbours of a centre propose the same box with less of a score, and other levels than the object's none.
    logits_BN = (targets.heatmap * targets.has_box).logit(eps=1e-6)
    predictions = CellPredictions(logits_BN, targets.ltrb, grid)
    torch.testing.assert_close(best_boxes(predictions, 0, 3), BOXES_BM4[0])
    torch.testing.assert_close(best_boxes(predictions, 1, 1), BOXES_BM4[1, :1])


def test_a_head_learns_the_objects_of_two_pictures():
    torch.manual_seed(0)
    head = CenterNetHead(32)
    rng = generator()
    maps = [torch.randn(2, 32, 256 // stride, 256 // stride, generator=rng) for stride in PYRAMID_STRIDES]
    positives, cells = count_positives(grid=Grid.over(256, 256, torch.device("cpu")), **TRUTH).tolist()
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(60):
        predictions = head(maps)
        losses = proposal_losses(
            predictions, cell_targets(grid=predictions.grid, **TRUTH), positives=positives, cells=cells
        )
        optimiser.zero_grad()
        sum(losses.values()).backward()
        optimiser.step()
    predictions = head(maps)
    for picture, count in ((0, 3), (1, 1)):
        expected = BOXES_BM4[picture, :count]
        torch.testing.assert_close(best_boxes(predictions, picture, count), expected, rtol=0, atol=12)
