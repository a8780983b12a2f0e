"""The kernels behind `triton_backend`.

A row is one head of one query of one picture: rows = pictures * queries * heads, and each is one sum of LEVELS * POINTS
weighted samples. A program does TILE_ROWS of them. All arrays are contiguous; the value is [pictures, positions, HEADS,
CHANNELS], the locations are [rows, LEVELS, POINTS, 2], the weights [rows, LEVELS, POINTS], the maps [LEVELS, 3] with
height, width and first position. Sums have the type of the locations.
"""

# Triton has no types that a checker understands.
# mypy: disable-error-code="no-untyped-def, import-untyped"

import triton
import triton.language as tl

_NUMBERS = ["rows", "queries", "positions"]
"""No compiling anew where one of these is 1 or divisible by 16: denoising and the size of pictures change them."""


@triton.jit(do_not_specialize=_NUMBERS)
def forward_kernel(
    value_ptr,
    maps_ptr,
    locations_ptr,
    weights_ptr,
    out_ptr,
    rows,
    queries,
    positions,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """Write each row's weighted sum of samples."""
    row, is_row, channel, is_element, base = _tile(rows, queries, positions, HEADS, CHANNELS, TILE_ROWS, TILE_CHANNELS)
    total = tl.zeros((TILE_ROWS, TILE_CHANNELS), dtype=locations_ptr.dtype.element_ty)
    for level in range(LEVELS):
        height, width, level_base = _map(maps_ptr, level, base, HEADS, CHANNELS)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            weight = tl.load(weights_ptr + at, mask=is_row, other=0.0)
            left, top, right_share, lower_share = _cell(locations_ptr, at, is_row, height, width)
            for corner in tl.static_range(4):
                offset, is_inside, share_x, share_y = _corner(
                    corner, left, top, right_share, lower_share, height, width, HEADS, CHANNELS
                )
                value = tl.load(
                    value_ptr + (level_base + offset)[:, None] + channel[None, :],
                    mask=is_element & is_inside[:, None],
                    other=0.0,
                )
                total += (weight * share_x * share_y)[:, None] * value.to(total.dtype)
    tl.store(out_ptr + row[:, None] * CHANNELS + channel[None, :], total, mask=is_element)


@triton.jit(do_not_specialize=_NUMBERS)
def backward_kernel(
    value_ptr,
    maps_ptr,
    locations_ptr,
    weights_ptr,
    grad_out_ptr,
    grad_value_ptr,
    grad_locations_ptr,
    grad_weights_ptr,
    rows,
    queries,
    positions,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """Write the gradients of locations and weights; add to that of the value, which starts as zeros."""
    row, is_row, channel, is_element, base = _tile(rows, queries, positions, HEADS, CHANNELS, TILE_ROWS, TILE_CHANNELS)
    exact = locations_ptr.dtype.element_ty
    grad_out = tl.load(grad_out_ptr + row[:, None] * CHANNELS + channel[None, :], mask=is_element, other=0.0).to(exact)
    for level in range(LEVELS):
        height, width, level_base = _map(maps_ptr, level, base, HEADS, CHANNELS)
        for point in range(POINTS):
            at = (row * LEVELS + level) * POINTS + point
            weight = tl.load(weights_ptr + at, mask=is_row, other=0.0)
            left, top, right_share, lower_share = _cell(locations_ptr, at, is_row, height, width)
            grad_weight = tl.zeros((TILE_ROWS,), dtype=exact)
            grad_x = tl.zeros((TILE_ROWS,), dtype=exact)
            grad_y = tl.zeros((TILE_ROWS,), dtype=exact)
            for corner in tl.static_range(4):
                offset, is_inside, share_x, share_y = _corner(
                    corner, left, top, right_share, lower_share, height, width, HEADS, CHANNELS
                )
                elements = (level_base + offset)[:, None] + channel[None, :]
                is_read = is_element & is_inside[:, None]
                value = tl.load(value_ptr + elements, mask=is_read, other=0.0).to(exact)
                agreement = tl.sum(grad_out * value, axis=1)
                grad_weight += share_x * share_y * agreement
                # The share is a product of one factor an axis; its derivative is the other factor, with a sign.
                grad_x += (2 * (corner % 2) - 1) * share_y * agreement
                grad_y += (2 * (corner // 2) - 1) * share_x * agreement
                # Relaxed: nobody reads the sums before the kernel ends, and a stricter order costs a fence each.
                tl.atomic_add(
                    grad_value_ptr + elements,
                    (weight * share_x * share_y)[:, None] * grad_out,
                    mask=is_read,
                    sem="relaxed",
                )
            tl.store(grad_weights_ptr + at, grad_weight, mask=is_row)
            tl.store(grad_locations_ptr + 2 * at, grad_x * weight * width, mask=is_row)
            tl.store(grad_locations_ptr + 2 * at + 1, grad_y * weight * height, mask=is_row)


@triton.jit
def _tile(
    rows,
    queries,
    positions,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_CHANNELS: tl.constexpr,
):
    """This program's rows and channels, and each row's offset to its picture's and head's first value."""
    # 64 bits: a batch of large pictures has more than 2^31 elements.
    row = tl.program_id(0).to(tl.int64) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    channel = tl.arange(0, TILE_CHANNELS)
    is_row = row < rows
    is_element = is_row[:, None] & (channel < CHANNELS)[None, :]
    picture = row // (queries * HEADS)
    head = row % HEADS
    base = (picture * positions * HEADS + head) * CHANNELS
    return row, is_row, channel, is_element, base


@triton.jit
def _map(maps_ptr, level, base, HEADS: tl.constexpr, CHANNELS: tl.constexpr):
    """A map's height and width, and the rows' offsets to its first value."""
    height = tl.load(maps_ptr + 3 * level)
    width = tl.load(maps_ptr + 3 * level + 1)
    first = tl.load(maps_ptr + 3 * level + 2)
    return height, width, base + first.to(tl.int64) * (HEADS * CHANNELS)


@triton.jit
def _cell(locations_ptr, at, is_row, height, width):
    """Column and row of the upper left of the four values around a location, and how far on it lies, 0 to 1."""
    x = tl.load(locations_ptr + 2 * at, mask=is_row, other=0.0) * width - 0.5
    y = tl.load(locations_ptr + 2 * at + 1, mask=is_row, other=0.0) * height - 0.5
    left = tl.floor(x)
    top = tl.floor(y)
    return left, top, x - left, y - top


@triton.jit
def _corner(
    corner: tl.constexpr,
    left,
    top,
    right_share,
    lower_share,
    height,
    width,
    HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """One of the four values around a location: its offset, whether it is in the map, its share by either axis."""
    if corner % 2 == 1:
        x = left + 1
        share_x = right_share
    else:
        x = left
        share_x = 1 - right_share
    if corner // 2 == 1:
        y = top + 1
        share_y = lower_share
    else:
        y = top
        share_y = 1 - lower_share
    # Compared and clamped as numbers with fractions: far outside, they have no integer. Clamped rather than selected by
    # `is_inside`, whose layout Triton 3.6 and 3.7 can't propagate through a select.
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    column = tl.minimum(tl.maximum(x, 0.0), width - 1.0).to(tl.int64)
    line = tl.minimum(tl.maximum(y, 0.0), height - 1.0).to(tl.int64)
    return (line * width + column) * (HEADS * CHANNELS), is_inside, share_x, share_y
