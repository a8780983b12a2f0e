import math

import pytest
import torch
from torch import Tensor

from richsem_train.losses.centernet_cascade.proposals import CellTargets, cell_targets, count_positives
from richsem_train.outputs.centernet_cascade import Grid
from tests.trainer.losses.batches import generator
from tests.trainer.losses.centernet_cascade.brute_force import cells_of_picture

CPU = torch.device("cpu")
Box = tuple[float, float, float, float]


def padded(pictures: list[list[Box]]) -> tuple[Tensor, Tensor]:
    """Boxes side by side, float64, with at least one row that is none."""
    most = max(map(len, pictures)) + 1
    boxes_BM4 = torch.full((len(pictures), most, 4), 7.0, dtype=torch.float64)
    is_object_BM = torch.zeros(len(pictures), most, dtype=torch.bool)
    for picture, boxes in enumerate(pictures):
        boxes_BM4[picture, : len(boxes)] = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
        is_object_BM[picture, : len(boxes)] = True
    return boxes_BM4, is_object_BM


def arguments(pictures: list[list[Box]], hw: list[tuple[int, int]], padded_hw, teaches=None):
    boxes_BM4, is_object_BM = padded(pictures)
    return (boxes_BM4, is_object_BM, Grid.over(*padded_hw, CPU)), {
        "image_hw_B2": torch.tensor(hw),
        "teaches_B": torch.tensor(teaches or [True] * len(pictures)),
    }


def targets_of(pictures: list[list[Box]], hw: list[tuple[int, int]], padded_hw, teaches=None) -> CellTargets:
    tensors, keywords = arguments(pictures, hw, padded_hw, teaches)
    return cell_targets(*tensors, **keywords)


def alone(boxes: list[Box], hw: tuple[int, int] = (256, 256)) -> tuple[CellTargets, Grid]:
    return targets_of([boxes], [hw], hw), Grid.over(*hw, CPU)


def cell(grid: Grid, level: int, row: int, column: int) -> int:
    return grid.firsts[level] + row * grid.shapes[level][1] + column


def levels_with_positives(boxes: list[Box], hw: tuple[int, int]) -> list[int]:
    targets, grid = alone(boxes, hw)
    return [level for level, each in enumerate(targets.positives[0].split(grid.sizes)) if each.sum()]


def random_pictures(seed: int) -> tuple[list[list[Box]], list[tuple[int, int]]]:
    """Boxes of all sizes, some beyond their picture, some twice, some of the same centre; a picture without any."""
    rng = generator(seed)
    pictures, sizes = [], []
    for count in (9, 0, 1, 14):
        height, width = (int(side) for side in torch.randint(40, 250, (2,), generator=rng))
        centres = torch.rand(count, 2, generator=rng, dtype=torch.float64) * torch.tensor([width, height])
        sides = torch.exp(torch.rand(count, 2, generator=rng, dtype=torch.float64) * 7.5 - 0.5)
        boxes = [tuple(box) for box in torch.cat([centres - sides / 2, centres + sides / 2], 1).tolist()]
        for x1, y1, x2, y2 in boxes[:2]:
            boxes += [(x1, y1, x2, y2), (x1 - 16, y1 - 8, x2 + 16, y2 + 8)]
        pictures.append(boxes)
        sizes.append((height, width))
    return pictures, sizes


@pytest.mark.parametrize("seed", range(4))
def test_vectors_equal_loops(seed):
    pictures, sizes = random_pictures(seed)
    padded_hw = (256, 288)
    targets = targets_of(pictures, sizes, padded_hw)
    expected = [cells_of_picture(boxes, hw, padded_hw) for boxes, hw in zip(pictures, sizes, strict=True)]

    heat = torch.tensor([[each.heat for each in cells] for cells in expected], dtype=torch.float64)
    torch.testing.assert_close(targets.heatmap, heat, rtol=1e-9, atol=0)
    assert targets.positives.tolist() == [[each.positives for each in cells] for cells in expected]
    assert targets.has_box.tolist() == [[each.ltrb is not None for each in cells] for cells in expected]
    ltrb = torch.tensor([[each.ltrb or (1.0,) * 4 for each in cells] for cells in expected], dtype=torch.float64)
    torch.testing.assert_close(targets.ltrb, ltrb, rtol=1e-9, atol=1e-12)
    # Else it would compare little.
    assert targets.has_box.sum() > 50
    assert (targets.positives > 1).any()


def test_a_box_of_64_px_is_learnt_on_the_finest_level_with_heat_on_all():
    targets, grid = alone([(32, 32, 96, 96)])
    assert levels_with_positives([(32, 32, 96, 96)], (256, 256)) == [0]
    radius2 = 2 * 64 * 64 / 81
    assert round(radius2, 1) == 101.1
    # The centre (64, 64) lies in cell 8 of P3, whose own centre is 68; cells 7 and 9 have theirs at 60 and 76.
    heat = targets.heatmap[0]
    assert heat[cell(grid, 0, 8, 8)] == 1
    assert heat[cell(grid, 0, 8, 7)].item() == pytest.approx(math.exp(-(16 + 16) / radius2))
    assert heat[cell(grid, 0, 8, 9)].item() == pytest.approx(math.exp(-(16 + 144) / radius2))
    # 28.3 px away 1e-4 would be 30.5 px.
    assert heat[cell(grid, 0, 8, 12)] == 0
    for level, index in ((1, 4), (2, 2), (3, 1), (4, 0)):
        assert heat[cell(grid, level, index, index)] == 1
    assert targets.has_box[0].nonzero().flatten().tolist() == [
        cell(grid, 0, row, column) for row in (7, 8, 9) for column in (7, 8, 9)
    ]
    assert targets.ltrb[0, cell(grid, 0, 7, 9)].tolist() == [44 / 8, 28 / 8, 20 / 8, 36 / 8]


def test_a_half_diagonal_of_70_px_is_learnt_on_two_levels():
    assert levels_with_positives([(50, 50, 149, 149)], (256, 256)) == [0, 1]


@pytest.mark.parametrize(
    ("height", "levels"),
    [
        (127.9, [0]), (128, [0, 1]), (160, [0, 1]), (160.1, [1]), (256, [1, 2]), (320, [1, 2]), (320.1, [2]),
        (512, [2, 3]), (640, [2, 3]), (640.1, [3]), (1024, [3, 4]), (1280, [3, 4]), (1280.1, [4]),
    ],
)  # fmt: skip
def test_both_ends_of_a_levels_sizes_belong_to_it(height, levels):
    assert levels_with_positives([(100, 10, 100, 10 + height)], (1408, 128)) == levels


def test_the_least_radius_is_four_pixels():
    targets, grid = alone([(66, 66, 70, 70)])
    assert targets.heatmap[0, cell(grid, 0, 8, 9)].item() == pytest.approx(math.exp(-64 / 16))


def test_heat_below_one_in_ten_thousand_is_none():
    # r2 = 101.1: at 30 px the heat is 1.36e-4, at 31 px 7.5e-5.
    for distance, is_hot in ((30, True), (31, False)):
        centre = 132 - distance
        targets, grid = alone([(centre - 32, 132 - 32, centre + 32, 132 + 32)])
        assert (targets.heatmap[0, cell(grid, 0, 16, 16)] > 0) == is_hot


def test_a_box_smaller_than_a_cell_has_a_centre_and_no_cell_inside():
    targets, _ = alone([(64.5, 64.5, 67, 67)])
    assert targets.positives.sum() == 1
    assert not targets.has_box.any()


def test_a_cell_on_a_boxs_side_is_not_inside():
    # Cell 8's centre is 68.
    for right, is_learnt in ((68, False), (68.5, True)):
        targets, grid = alone([(60.5, 60.5, right, 80)])
        assert targets.has_box[0, cell(grid, 0, 8, 8)] == is_learnt


def test_a_box_larger_than_the_picture_is_learnt_on_the_coarsest_level():
    targets, grid = alone([(-1000, -1000, 1256, 1256)])
    coarsest = slice(grid.firsts[4], None)
    assert targets.positives[0, coarsest].tolist() == [0, 0, 0, 1]
    assert targets.has_box[0, coarsest].all()
    assert targets.has_box.sum() == 4
    assert targets.ltrb[0, -1].tolist() == [1192 / 128, 1192 / 128, 1064 / 128, 1064 / 128]


def test_two_objects_in_one_cell_count_twice_and_the_larger_has_the_cells_about_it():
    small, large = (44.0, 44.0, 84.0, 84.0), (34.0, 34.0, 94.0, 94.0)
    for boxes in ([small, large], [large, small]):
        targets, grid = alone(boxes)
        middle = cell(grid, 0, 8, 8)
        assert targets.positives[0, middle] == 2
        assert targets.positives.sum() == 2
        # In the middle both distances are 0: the first one's.
        assert targets.ltrb[0, middle, 0] == (68 - boxes[0][0]) / 8
        assert targets.ltrb[0, cell(grid, 0, 8, 9), 0] == (76 - large[0]) / 8
        assert targets.has_box.sum() == 9


def test_a_picture_without_boxes_has_only_background():
    targets, grid = alone([])
    assert targets.learns.sum() == sum(grid.sizes)
    assert not targets.heatmap.any()
    assert not targets.positives.any()
    assert not targets.has_box.any()


def test_pictures_that_do_not_teach_have_nothing_to_learn():
    boxes = [(32.0, 32.0, 96.0, 96.0)]
    targets = targets_of([boxes, boxes], [(256, 256)] * 2, (256, 256), teaches=[True, False])
    for each in (targets.heatmap, targets.positives, targets.has_box, targets.learns):
        assert each[0].any()
        assert not each[1].any()


@pytest.mark.parametrize("seed", range(3))
def test_padding_changes_no_target_and_no_count(seed):
    pictures, sizes = random_pictures(seed)
    for boxes, hw in zip(pictures, sizes, strict=True):
        near, far = targets_of([boxes], [hw], hw), targets_of([boxes], [hw], (512, 640))
        for narrow, wide in (
            (near.heatmap, far.heatmap),
            (near.positives, far.positives),
            (near.ltrb, far.ltrb),
            (near.has_box, far.has_box),
        ):
            # Cells of pictures stand in the same order, whatever lies between them.
            assert torch.equal(narrow[near.learns], wide[far.learns])
        assert not far.heatmap[~far.learns].any()
        assert not far.positives[~far.learns].any()
        assert not far.has_box[~far.learns].any()


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_the_targets_on_any_grid_and_add_up(seed):
    pictures, sizes = random_pictures(seed)
    teaches = [True, True, False, True]
    targets = targets_of(pictures, sizes, (256, 288), teaches)
    expected = [targets.positives.sum(), targets.has_box.sum()]
    for padded_hw in ((256, 288), (640, 512)):
        tensors, keywords = arguments(pictures, sizes, padded_hw, teaches)
        counts = count_positives(*tensors, **keywords)
        assert counts.dtype == torch.float64
        assert counts.tolist() == expected
    each = []
    for boxes, hw, does in zip(pictures, sizes, teaches, strict=True):
        tensors, keywords = arguments([boxes], [hw], hw, [does])
        each.append(count_positives(*tensors, **keywords))
    assert torch.stack(each).sum(0).tolist() == expected


def test_every_object_of_a_picture_has_a_centre_to_be_found():
    # At the very corner of a picture that ends in the first pixels of a cell of every level.
    height, width = 641, 1025
    for side in (4, 150, 300, 600):
        box = (width - side, height - side, width, height)
        assert levels_with_positives([box], (height, width))
    # Half a diagonal of 320.5 px; the cells of 64 px that hold its centre have a column of pixels in the picture.
    assert levels_with_positives([(width - 1, 0, width, height)], (height, width)) == [3]
