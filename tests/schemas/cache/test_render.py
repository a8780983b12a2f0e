import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import PAD_VALUE, REGION_DTYPE, TILE_DTYPE, View
from richsem_schemas.pictures import resize
from richsem_schemas.pictures.resize import PackedPicture
from richsem_train.data.transforms import render as render_onto


@pytest.fixture(params=["cykooz-resizer", "pillow"])
def kernel(request, monkeypatch):
    """Both kernels render; the second where the first has no wheel."""
    if request.param == "pillow":
        monkeypatch.setattr(resize, "cykooz_resizer", None)
    elif resize.cykooz_resizer is None:
        pytest.skip("this machine has no wheel of cykooz-resizer")
    return request.param


pytestmark = pytest.mark.usefixtures("kernel")


def noise(height, width, seed=0):
    """Random pixels: any shift, flip or wrong picture shows."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def view(canvas_hw, *tiles):
    """Tiles are (sample, source_xyxy, paste_xyxy, flip)."""
    return View("mosaic", 0, canvas_hw, np.array(list(tiles), TILE_DTYPE), np.zeros(0, REGION_DTYPE))


def one_tile(out_hw, source, flip=False):
    return view(out_hw, (0, source, (0, 0, out_hw[1], out_hw[0]), flip))


def render(recipe, *arrays):
    """From pictures packed and not, which is the same, and by the trainer onto a part of something larger."""
    pictures = {index: Image.fromarray(array) for index, array in enumerate(arrays)}
    pixels = render_view(recipe, pictures)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*recipe.canvas_hw, 3)
    assert np.array_equal(pixels, render_view(recipe, {n: PackedPicture.of(each) for n, each in pictures.items()}))
    larger = np.full((recipe.canvas_hw[0] + 2, recipe.canvas_hw[1] + 3, 3), 201, np.uint8)
    render_onto(recipe, pictures).draw(larger[1:-1, 1:-2])
    assert np.array_equal(larger, np.pad(pixels, ((1, 1), (1, 2), (0, 0)), constant_values=201))
    return pixels


def triangle_weights(size, start, stop, out):
    """[out, size] weights of an antialiased bilinear resize of start..stop to `out` pixels, from its definition."""
    scale = (stop - start) / out
    support = max(scale, 1.0)
    centres = start + (np.arange(out) + 0.5) * scale
    distance = np.abs(np.arange(size) + 0.5 - centres[:, None]) / support
    weights = np.clip(1 - distance, 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def resample(array, source, out_hw):
    """An independent bilinear resize with antialiasing, in float64."""
    rows = triangle_weights(array.shape[0], source[1], source[3], out_hw[0])
    columns = triangle_weights(array.shape[1], source[0], source[2], out_hw[1])
    return np.einsum("ih,hwc,jw->ijc", rows, array.astype(np.float64), columns)


LEVELS_FROM_PIL = {"pillow": 0, "cykooz-resizer": 1}


def distance(ones, others):
    """The largest, in grey levels."""
    return np.abs(ones.astype(int) - others).max(initial=0)


@pytest.mark.parametrize("flip", [False, True])
def test_at_the_scale_of_the_picture_its_pixels_are_copied(flip):
    array = noise(20, 30)
    expected = array[3:15, 4:24]
    assert np.array_equal(
        render(one_tile((12, 20), (4, 3, 24, 15), flip), array), expected[:, ::-1] if flip else expected
    )


def test_the_whole_picture_at_its_own_size_is_itself():
    array = noise(20, 30)
    assert np.array_equal(render(one_tile((20, 30), (0, 0, 30, 20)), array), array)


@pytest.mark.parametrize("out_hw", [(40, 60), (7, 11), (20, 60), (33, 13), (1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_a_whole_picture_equals_pils_resize_then_flip(out_hw, flip, kernel):
    array = noise(20, 30)
    expected = np.asarray(Image.fromarray(array).resize(out_hw[::-1], Image.Resampling.BILINEAR))
    found = render(one_tile(out_hw, (0, 0, 30, 20), flip), array)
    assert distance(found, expected[:, ::-1] if flip else expected) <= LEVELS_FROM_PIL[kernel]


@pytest.mark.parametrize("out_hw", [(24, 40), (12, 20), (6, 5), (8, 10)])
def test_inside_an_integer_rectangle_it_equals_cutting_first_then_resizing(out_hw, kernel):
    array = noise(60, 80)
    box = (10, 8, 50, 32)
    expected = np.asarray(Image.fromarray(array).crop(box).resize(out_hw[::-1], Image.Resampling.BILINEAR))
    # At the rectangle's border the filter sees the pixels beyond it; a cut picture has none.
    found = render(one_tile(out_hw, box), array)
    assert distance(found[1:-1, 1:-1], expected[1:-1, 1:-1]) <= LEVELS_FROM_PIL[kernel]


@pytest.mark.parametrize(
    ("source", "out_hw"),
    [
        ((0, 0, 80, 60), (31, 47)),
        ((0, 0, 80, 60), (120, 160)),
        ((10.25, 7.5, 41.75, 52.125), (64, 64)),
        ((10.25, 7.5, 41.75, 52.125), (9, 5)),
        ((79.5, 59.5, 80, 60), (6, 6)),
        ((0, 0, 0.25, 0.25), (5, 4)),
    ],
)
def test_any_rectangle_equals_an_antialiased_bilinear_resize_written_out(source, out_hw):
    array = noise(60, 80)
    # Both round twice, after columns and after rows, in either order.
    assert np.abs(render(one_tile(out_hw, source), array) - resample(array, source, out_hw)).max() <= 1.01


def test_a_flip_mirrors_left_to_right():
    array = noise(20, 30)
    plain = render(one_tile((17, 23), (3, 2, 28, 19)), array)
    mirrored = render(one_tile((17, 23), (3, 2, 28, 19), True), array)
    assert np.array_equal(mirrored, plain[:, ::-1])
    assert not np.array_equal(mirrored, plain)


@settings(max_examples=200, deadline=None)
@given(
    hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    out_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    corners=st.lists(st.floats(0, 1), min_size=4, max_size=4),
)
@example(hw=(4, 50), out_hw=(3, 75), corners=[1.0, 0.9021667824491997, 0.0, 1.0])
def test_a_mirrored_part_is_the_part_mirrored(hw, out_hw, corners):
    height, width = hw
    x1, x2 = sorted(np.float32(corner * width) for corner in corners[:2])
    y1, y2 = sorted(np.float32(corner * height) for corner in corners[2:])
    source = (min(x1, width - 1), min(y1, height - 1), max(x2, x1 + 1e-3), max(y2, y1 + 1e-3))
    plain, mirrored = (render(one_tile(out_hw, source, flip), noise(height, width)) for flip in (False, True))
    assert np.array_equal(mirrored, plain[:, ::-1])


def test_mosaic_tiles_land_exactly_where_they_say_and_the_rest_is_114():
    pictures = [noise(20, 30, seed) for seed in range(4)]
    tiles = [
        (0, (0, 0, 10, 8), (2, 1, 12, 9), False),
        (1, (5, 5, 13, 9), (12, 5, 20, 9), True),
        (2, (20, 10, 30, 20), (2, 9, 12, 19), False),
        (3, (0, 0, 4, 4), (36, 20, 40, 24), True),
    ]
    found = render(view((24, 40), *tiles), *pictures)
    expected = np.full((24, 40, 3), 114, np.uint8)
    for sample, (x1, y1, x2, y2), (left, top, right, bottom), flip in tiles:
        part = pictures[sample][y1:y2, x1:x2]
        expected[top:bottom, left:right] = part[:, ::-1] if flip else part
    assert np.array_equal(found, expected)
    assert PAD_VALUE == 114


def test_a_later_tile_covers_an_earlier_one():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    whole = (0, 0, 4, 4)
    found = render(view((4, 6), (0, whole, whole, 0), (1, whole, (2, 0, 6, 4), 0)), black, white)
    assert np.array_equal(found[0, :, 0], [0, 0, 255, 255, 255, 255])


def test_one_tile_that_leaves_room_is_padded():
    found = render(view((4, 6), (0, (0, 0, 2, 2), (1, 1, 3, 3), 0)), np.zeros((2, 2, 3), np.uint8))
    assert found.sum() == 114 * 3 * (24 - 4)
    assert not found[1:3, 1:3].any()


def test_a_view_without_tiles_is_all_padding():
    assert (render(view((3, 5))) == 114).all()


def test_the_same_picture_may_fill_several_tiles():
    array = noise(4, 4)
    found = render(view((4, 8), (0, (0, 0, 4, 4), (0, 0, 4, 4), 0), (0, (0, 0, 4, 4), (4, 0, 8, 4), 1)), array)
    assert np.array_equal(found, np.concatenate([array, array[:, ::-1]], axis=1))


def test_pictures_are_left_as_they_were():
    array = noise(9, 9)
    picture = Image.fromarray(array)
    for flip in (True, False):
        rendered = render_view(one_tile((9, 9), (0, 0, 9, 9), flip), {0: picture})
        if rendered.flags.writeable:
            rendered[:] = 0
    assert np.array_equal(np.asarray(picture), array)


@pytest.mark.parametrize("shift", [1e-6, 1e-4, 2e-3])
@pytest.mark.parametrize(("height", "width"), [(60, 80), (1, 1), (1, 20_000), (20_000, 1)])
def test_a_rectangle_that_rounding_moved_past_the_border_renders_as_the_border_does(shift, height, width):
    array = noise(height, width)
    exact = render(one_tile((6, 8), (0, 0, width, height)), array)
    moved = render(one_tile((6, 8), (-shift, -shift, width + shift, height + shift)), array)
    assert np.array_equal(moved, exact)


@pytest.mark.parametrize("size", [1, 8, 20_000, 65_535])
@pytest.mark.parametrize("empty", ["at the start", "at the end", "beyond the start", "beyond the end", "inside"])
def test_a_rectangle_that_rounding_made_empty_still_shows_the_pixels_there(size, empty):
    # float32 steps are 0.002 at 20,000: a part of one pixel of an enlarged picture can lose its area.
    at = {"at the start": 0, "at the end": size, "beyond the start": -0.01, "beyond the end": size + 0.01}
    x = at.get(empty, size / 2)
    array = np.full((2, size, 3), 255, np.uint8)
    assert (render(one_tile((4, 4), (x, 0, x, 2)), array) == 255).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1)])
@pytest.mark.parametrize("out_hw", [(1, 1), (480, 480), (1, 1_333), (1_333, 1)])
def test_pictures_of_extreme_shapes_render(height, width, out_hw):
    found = render(one_tile(out_hw, (0, 0, width, height)), np.full((height, width, 3), 77, np.uint8))
    assert (found == 77).all()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=st.tuples(st.floats(-2, 42, width=32), st.floats(-2, 42, width=32)).map(sorted),
    y=st.tuples(st.floats(-2, 32, width=32), st.floats(-2, 32, width=32)).map(sorted),
)
def test_no_rectangle_makes_it_fail(x, y):
    found = render(one_tile((5, 7), (x[0], y[0], x[1], y[1])), np.full((30, 40, 3), 200, np.uint8))
    assert (found == 200).all()
