import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from richsem_train.models.centernet_cascade.centernet import CenterNetHead, Proposals, decode
from richsem_train.models.centernet_cascade.fpn import FeaturePyramid
from richsem_train.outputs.centernet_cascade import PYRAMID_STRIDES, CellPredictions, Grid
from tests.trainer.pretended_device import DEVICE, pretended_device

CPU = torch.device("cpu")
WIDTH = 64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pyramid_maps(pictures: int = 2, height: int = 128, width: int = 160, seed: int = 0) -> list[Tensor]:
    rng = generator(seed)
    return [
        torch.randn(pictures, WIDTH, math.ceil(height / stride), math.ceil(width / stride), generator=rng)
        for stride in PYRAMID_STRIDES
    ]


def head() -> CenterNetHead:
    torch.manual_seed(0)
    return CenterNetHead(WIDTH)


def random_head() -> CenterNetHead:
    """That differs from cell to cell."""
    random = head()
    with torch.no_grad():
        for parameter in random.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator(3))
    return random


def random_predictions(pictures: int, hw: tuple[int, int], *, seed: int = 0) -> CellPredictions:
    """Probabilities from 1e-6 to 1, and boxes of which many nearly agree."""
    grid = Grid.over(*hw, CPU)
    rng = generator(seed)
    cells = len(grid.centres_px)
    towards_N4 = torch.cat([grid.centres_px, -grid.centres_px], 1) / grid.strides_px[:, None]
    offset_4 = torch.tensor([-2.0, -2.0, 180.0, 120.0])
    agreeing_BN4 = towards_N4 + offset_4 / grid.strides_px[:, None]
    anything_BN4 = 6 * torch.rand(pictures, cells, 4, generator=rng)
    is_agreeing_BN1 = torch.rand(pictures, cells, 1, generator=rng) < 0.3
    noise_BN4 = torch.randn(pictures, cells, 4, generator=rng) / grid.strides_px[:, None]
    ltrb_BN4 = (agreeing_BN4 + noise_BN4).where(is_agreeing_BN1, anything_BN4).relu()
    return CellPredictions(5 * torch.randn(pictures, cells, generator=rng) - 4, ltrb_BN4, grid)


def sizes(*hw: tuple[int, int]) -> Tensor:
    return torch.tensor(hw)


def decoded_by_loops(
    predictions: CellPredictions, picture: int, hw: tuple[int, int], pre_top_k: int, post_top_k: int
) -> tuple[Tensor, Tensor, int]:
    """Boxes and scores of one picture, by loops over levels and cells; how many boxes overlapped a better one."""
    grid = predictions.grid
    boxes, scores = [], []
    for first, size, stride in zip(grid.firsts, grid.sizes, PYRAMID_STRIDES, strict=True):
        candidates = []
        for cell in range(first, first + size):
            probability = predictions.heatmap_logits[picture, cell].sigmoid().item()
            x, y = grid.centres_px[cell].tolist()
            left, top, right, bottom = (predictions.ltrb[picture, cell] * stride).tolist()
            x1, y1 = x - left, y - top
            x2, y2 = max(x + right, x1 + 0.01), max(y + bottom, y1 + 0.01)
            is_padding = x - stride // 2 >= hw[1] or y - stride // 2 >= hw[0]
            misses = x2 <= 0 or y2 <= 0 or x1 >= hw[1] or y1 >= hw[0]
            if probability > 1e-4 and not is_padding and not misses:
                candidates.append((math.sqrt(probability), (x1, y1, x2, y2)))
        candidates.sort(reverse=True)
        scores += [score for score, _ in candidates[:pre_top_k]]
        boxes += [box for _, box in candidates[:pre_top_k]]
    boxes_P4, scores_P = torch.tensor(boxes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
    survivors = nms(boxes_P4, scores_P, 0.9)
    kept = survivors[:post_top_k]
    return boxes_P4[kept].float(), scores_P[kept].float(), len(scores) - len(survivors)


def picture_of(proposals: Proposals, picture: int) -> tuple[Tensor, Tensor]:
    is_real_K = proposals.is_real[picture]
    return proposals.boxes_xyxy_px[picture, is_real_K], proposals.scores[picture, is_real_K]


def test_cells_lie_at_index_times_stride_plus_half_of_it():
    grid = Grid.over(64, 130, CPU)
    assert grid.shapes == ((8, 17), (4, 9), (2, 5), (1, 3), (1, 2))
    assert grid.centres_px[:2].tolist() == [[4, 4], [12, 4]]
    assert grid.centres_px[17].tolist() == [4, 12]
    assert grid.centres_px[grid.firsts[1]].tolist() == [8, 8]
    assert grid.centres_px[-2:].tolist() == [[64, 64], [192, 64]]
    assert grid.strides_px[[0, -1]].tolist() == [8, 128]
    assert len(grid.centres_px) == sum(grid.sizes) == grid.firsts[4] + 2


def test_cells_that_hold_a_pixel_of_the_picture_are_its_own():
    grid = Grid.over(64, 128, CPU)
    is_own_2N = grid.cells_of_pictures(sizes((64, 128), (17, 65)))
    assert is_own_2N[0].all()
    expected = [(3, 9), (2, 5), (1, 3), (1, 2), (1, 1)]
    for is_own_n, (rows, columns), (own_rows, own_columns) in zip(
        is_own_2N[1].split(grid.sizes), grid.shapes, expected, strict=True
    ):
        is_own_hw = is_own_n.view(rows, columns)
        assert is_own_hw[:own_rows, :own_columns].all()
        assert is_own_hw.sum() == own_rows * own_columns


def test_an_untrained_head_sees_objects_in_one_cell_of_a_hundred_eight_strides_wide():
    predictions = head()(pyramid_maps())
    probabilities = predictions.heatmap_logits.sigmoid()
    assert probabilities.mean().item() == pytest.approx(0.01, rel=0.1)
    assert predictions.ltrb.mean().item() == pytest.approx(8, rel=0.05)


def test_its_size_is_the_published_one():
    three_by_three = 9 * 256
    expected = 4 * (three_by_three * 256 + 256 + 2 * 256) + three_by_three * 5 + 5 + 5
    assert sum(parameter.numel() for parameter in CenterNetHead(256).parameters()) == expected


def test_all_levels_share_a_tower_and_have_a_scale_of_their_own():
    model, maps = random_head(), pyramid_maps()
    weights = model.state_dict()
    predictions = model(maps)
    grid = predictions.grid
    assert grid.shapes == tuple(tuple(each.shape[2:]) for each in maps)
    for level, seen in enumerate(maps):
        for layer in (0, 3, 6, 9):
            seen = functional.conv2d(seen, weights[f"tower.{layer}.weight"], weights[f"tower.{layer}.bias"], padding=1)
            norm = weights[f"tower.{layer + 1}.weight"], weights[f"tower.{layer + 1}.bias"]
            seen = functional.group_norm(seen, 32, *norm).relu()
        heatmap = functional.conv2d(seen, weights["heatmap.weight"], weights["heatmap.bias"], padding=1)
        sides = functional.conv2d(seen, weights["ltrb.weight"], weights["ltrb.bias"], padding=1)
        sides = (weights[f"scales.{level}"] * sides).relu()
        cells = slice(grid.firsts[level], grid.firsts[level] + grid.sizes[level])
        torch.testing.assert_close(predictions.heatmap_logits[:, cells], heatmap.flatten(1))
        torch.testing.assert_close(predictions.ltrb[:, cells], sides.permute(0, 2, 3, 1).flatten(1, 2))


@pytest.mark.parametrize(("width", "groups"), [(256, 32), (64, 32), (48, 16), (32, 16), (16, 8), (1, 1)])
def test_narrow_towers_have_fewer_groups_of_two_channels_at_least(width, groups):
    assert CenterNetHead(width).tower[1].num_groups == groups


def test_predictions_are_float32_under_autocast_and_gradients_finite():
    model, maps = random_head(), [each.requires_grad_() for each in pyramid_maps()]
    with torch.autocast("cpu", torch.bfloat16):
        assert model.tower(maps[0]).dtype == torch.bfloat16
        predictions = model(maps)
    assert predictions.heatmap_logits.dtype == predictions.ltrb.dtype == torch.float32
    assert not torch.equal(predictions.ltrb, predictions.ltrb.bfloat16().float())
    (predictions.heatmap_logits.square().mean() + predictions.ltrb.mean()).backward()
    for each in (*maps, *model.parameters()):
        assert each.grad.isfinite().all()
        assert each.grad.any()


@pytest.mark.parametrize(("pre_top_k", "post_top_k"), [(4000, 2000), (60, 2000), (60, 30)])
def test_decoding_equals_loops_over_levels_with_torchvisions_nms(pre_top_k, post_top_k):
    hw = [(128, 192), (100, 70), (30, 192)]
    predictions = random_predictions(3, (128, 192))
    proposals = decode(predictions, sizes(*hw), pre_top_k=pre_top_k, post_top_k=post_top_k)
    for picture in range(3):
        boxes, scores = picture_of(proposals, picture)
        expected_boxes, expected_scores, removed = decoded_by_loops(
            predictions, picture, hw[picture], pre_top_k, post_top_k
        )
        torch.testing.assert_close(boxes, expected_boxes)
        torch.testing.assert_close(scores, expected_scores)
        # Else it would say nothing of overlaps.
        assert removed > 5


def test_shapes_follow_from_the_grid_alone():
    grid = Grid.over(64, 64, CPU)
    cells = 64 + 16 + 4 + 1 + 1
    for logit in (-20.0, 0.0, 20.0):
        predictions = CellPredictions(torch.full((2, cells), logit), torch.ones(2, cells, 4), grid)
        for pre_top_k, post_top_k, count in ((100, 100, cells), (10, 100, 26), (100, 20, 20)):
            proposals = decode(predictions, sizes((64, 64), (9, 9)), pre_top_k=pre_top_k, post_top_k=post_top_k)
            assert proposals.boxes_xyxy_px.shape == (2, count, 4)
            assert proposals.scores.shape == proposals.is_real.shape == (2, count)


def test_a_picture_may_have_no_proposals():
    predictions = random_predictions(2, (64, 64))
    predictions.heatmap_logits[0] = -20
    proposals = decode(predictions, sizes((64, 64), (64, 64)), pre_top_k=50, post_top_k=40)
    assert not proposals.is_real[0].any()
    assert not proposals.scores[0].any()
    assert proposals.boxes_xyxy_px[0].tolist() == [[0, 0, 1, 1]] * 40
    assert proposals.is_real[1].any()


def test_real_proposals_come_first_and_best_first():
    proposals = decode(random_predictions(2, (64, 64)), sizes((64, 64), (20, 30)), pre_top_k=50, post_top_k=80)
    assert (proposals.scores.diff(dim=1) <= 0).all()
    assert torch.equal(proposals.is_real, proposals.scores > 0)
    assert not proposals.is_real.all(1).any()


def test_probabilities_of_one_in_ten_thousand_are_no_proposals_and_scores_are_roots():
    grid = Grid.over(8, 8, CPU)
    probabilities = torch.tensor([[0.99e-4, 1.01e-4, 0.25, 1e-6, 0.81]])
    sides = torch.arange(1.0, 6)[:, None].expand(1, 5, 4) / grid.strides_px[:, None] * 20
    proposals = decode(CellPredictions(probabilities.logit(), sides, grid), sizes((8, 8)), pre_top_k=9, post_top_k=9)
    assert proposals.scores[0].tolist() == pytest.approx([0.9, 0.5, math.sqrt(1.01e-4), 0, 0], rel=1e-5)
    assert proposals.boxes_xyxy_px[0, 0].tolist() == [-36, -36, 164, 164]


def test_boxes_have_a_hundredth_of_a_pixel_at_least():
    grid = Grid.over(8, 8, CPU)
    predictions = CellPredictions(torch.zeros(1, 5), torch.zeros(1, 5, 4), grid)
    proposals = decode(predictions, sizes((200, 200)), pre_top_k=9, post_top_k=9)
    sides = proposals.boxes_xyxy_px[0, :, 2:] - proposals.boxes_xyxy_px[0, :, :2]
    assert proposals.is_real.all()
    torch.testing.assert_close(sides, torch.full((5, 2), 0.01), rtol=1e-2, atol=0)


def test_no_proposal_comes_from_padding_or_lies_outside_the_picture():
    hw = [(40, 100), (97, 33)]
    predictions = random_predictions(2, (128, 128))
    # The smallest boxes lie wherever their cell's centre does.
    predictions.ltrb[:, ::3] = 0
    proposals = decode(predictions, sizes(*hw), pre_top_k=1000, post_top_k=1000)
    for picture, (height, width) in enumerate(hw):
        boxes, _ = picture_of(proposals, picture)
        assert len(boxes) > 20
        assert (boxes[:, 0] < width).all()
        assert (boxes[:, 1] < height).all()
        assert (boxes[:, 2:] > 0).all()
        # Of a picture alone, whose maps end where it does.
        grid = Grid.over(height, width, CPU)
        own = predictions.grid.cells_of_pictures(sizes((height, width)))[0]
        alone = CellPredictions(
            predictions.heatmap_logits[picture : picture + 1, own], predictions.ltrb[picture : picture + 1, own], grid
        )
        boxes_alone, scores_alone = picture_of(
            decode(alone, sizes((height, width)), pre_top_k=1000, post_top_k=1000), 0
        )
        torch.testing.assert_close(boxes_alone, boxes, rtol=0, atol=0)
        torch.testing.assert_close(scores_alone, proposals.scores[picture, : len(boxes)], rtol=0, atol=0)


def test_pictures_far_from_the_first_keep_what_they_keep_alone():
    one = random_predictions(1, (64, 96))
    pictures = 33
    predictions = CellPredictions(
        one.heatmap_logits.expand(pictures, -1).clone(), one.ltrb.expand(pictures, -1, -1).clone(), one.grid
    )
    # One wild box drives the pictures apart.
    predictions.ltrb[0, 0] = 1e5
    hw = sizes((64, 96)).expand(pictures, 2)
    together = decode(predictions, hw, pre_top_k=500, post_top_k=500)
    alone = decode(one, hw[:1], pre_top_k=500, post_top_k=500)
    for picture in range(1, pictures):
        for every, single in zip(picture_of(together, picture), picture_of(alone, 0), strict=True):
            assert torch.equal(every, single)


def test_a_picture_in_a_batch_has_the_proposals_it_has_alone():
    torch.manual_seed(0)
    pyramid = FeaturePyramid((6, 10, 14), width=WIDTH).double()
    model = random_head().double()
    rng = generator()
    maps = [
        torch.randn(3, channels, 128 // stride, 160 // stride, generator=rng, dtype=torch.float64)
        for channels, stride in ((6, 8), (10, 16), (14, 32))
    ]
    hw = sizes((128, 160), (90, 100), (128, 31))
    with torch.no_grad():
        together = decode(model(pyramid(maps)), hw, pre_top_k=300, post_top_k=200)
        for picture in range(3):
            only = slice(picture, picture + 1)
            alone = decode(model(pyramid([each[only] for each in maps])), hw[only], pre_top_k=300, post_top_k=200)
            torch.testing.assert_close(together.boxes_xyxy_px[only], alone.boxes_xyxy_px)
            torch.testing.assert_close(together.scores[only], alone.scores)
            assert torch.equal(together.is_real[only], alone.is_real)


def test_proposals_carry_no_gradient():
    predictions = random_head()([each.requires_grad_() for each in pyramid_maps()])
    proposals = decode(predictions, sizes((128, 160), (128, 160)), pre_top_k=50, post_top_k=50)
    assert predictions.ltrb.requires_grad
    assert not proposals.boxes_xyxy_px.requires_grad
    assert not proposals.scores.requires_grad


@pytest.mark.parametrize("pictures", [1, 5])
def test_one_nms_is_all_that_the_host_waits_for(pictures):
    with pretended_device() as device:
        model = random_head().to(DEVICE)
        maps, hw = [each.to(DEVICE) for each in pyramid_maps(pictures)], sizes(*[(128, 160)] * pictures).to(DEVICE)
        device.waits.clear()
        decode(model(maps), hw, pre_top_k=100, post_top_k=100)
    assert [reason.split(" at ")[0] for reason in device.waits.elements()] == ["shape of nms"]
