"""The targets of cells by loops over pictures, levels, cells and boxes."""

import math
from dataclasses import dataclass

STRIDES = (8, 16, 32, 64, 128)
ACCEPTED = ((0, 80), (64, 160), (128, 320), (256, 640), (512, math.inf))


@dataclass
class Cell:
    """What one cell is taught."""

    heat: float = 0.0
    positives: int = 0
    ltrb: tuple[float, ...] | None = None
    nearness: float = math.inf


def cells_of_picture(
    boxes: list[tuple[float, float, float, float]], image_hw: tuple[int, int], padded_hw: tuple[int, int]
) -> list[Cell]:
    """The cells of all levels, row by row, of one picture that teaches."""
    cells = []
    for stride, (low, high) in zip(STRIDES, ACCEPTED, strict=True):
        for row in range(math.ceil(padded_hw[0] / stride)):
            for column in range(math.ceil(padded_hw[1] / stride)):
                cell = Cell()
                cells.append(cell)
                if row * stride >= image_hw[0] or column * stride >= image_hw[1]:
                    continue
                for x1, y1, x2, y2 in boxes:
                    _teach(cell, (x1, y1, x2, y2), (column, row), stride, low, high)
    return cells


def _teach(cell, box, place, stride, low, high):
    x1, y1, x2, y2 = box
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    x, y = (index * stride + stride // 2 for index in place)
    away = [index - math.floor(centre / stride) for index, centre in zip(place, (centre_x, centre_y), strict=True)]
    distance2 = 0.0 if away == [0, 0] else (x - centre_x) ** 2 + (y - centre_y) ** 2
    nearness = distance2 / max(2 * (x2 - x1) * (y2 - y1) / 81, 16)
    heat = math.exp(-nearness)
    if heat >= 1e-4:
        cell.heat = max(cell.heat, heat)
    if not low <= math.hypot(x2 - x1, y2 - y1) / 2 <= high:
        return
    cell.positives += away == [0, 0]
    is_inside = x1 < x < x2 and y1 < y < y2
    if is_inside and max(map(abs, away)) <= 1 and nearness < cell.nearness:
        cell.nearness = nearness
        cell.ltrb = tuple(side / stride for side in (x - x1, y - y1, x2 - x, y2 - y))
