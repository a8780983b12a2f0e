import numpy as np
import pytest

from richsem_prep.demo import world


def test_the_same_generator_state_draws_the_same_scene():
    first = world.draw_scene(np.random.default_rng([3, 1]), world.NAMES[:6])
    again = world.draw_scene(np.random.default_rng([3, 1]), world.NAMES[:6])
    other = world.draw_scene(np.random.default_rng([3, 2]), world.NAMES[:6])

    np.testing.assert_array_equal(first.pixels, again.pixels)
    assert [each.box_xyxy_px for each in first.objects] == [each.box_xyxy_px for each in again.objects]
    assert not np.array_equal(first.pixels, other.pixels)


def test_the_same_generator_state_draws_the_same_picture():
    first = world.draw_picture(np.random.default_rng(5), "dotted_blue_ring")
    again = world.draw_picture(np.random.default_rng(5), "dotted_blue_ring")

    np.testing.assert_array_equal(first.pixels, again.pixels)


@pytest.mark.parametrize("shape", world.SHAPES)
def test_boxes_are_tight_around_the_drawn_pixels_and_inside_the_picture(shape):
    names = [name for name in world.NAMES if name.endswith(shape)]
    for seed, name in enumerate(names):
        background = world.draw_picture(np.random.default_rng(seed), None, size=(120, 100))
        drawn = world.draw_picture(np.random.default_rng(seed), name, size=(120, 100))
        (painted,) = drawn.objects
        left, top, right, bottom = painted.box_xyxy_px

        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 120
        # The same generator state draws the same background first; only the grain, at most 7, differs besides.
        changed = np.abs(drawn.pixels.astype(int) - background.pixels).max(-1) > 20
        columns, rows = np.flatnonzero(changed.any(0)), np.flatnonzero(changed.any(1))
        found = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        np.testing.assert_allclose(painted.box_xyxy_px, found, atol=2)


def test_outlines_fill_their_boxes():
    for seed in range(20):
        scene = world.draw_scene(np.random.default_rng(seed), list(world.NAMES[seed : seed + 6]))
        for painted in scene.objects:
            outline = (*painted.polygon_xy_px.min(0), *painted.polygon_xy_px.max(0))
            np.testing.assert_allclose(painted.box_xyxy_px, outline, atol=2.5)


def test_scenes_hold_one_object_for_each_name_in_order():
    names = ["plain_red_star", "striped_blue_moon", "plain_red_star"]

    scene = world.draw_scene(np.random.default_rng(0), names)

    assert scene.pixels.shape == (*world.SCENE_SIZE, 3)
    assert [each.name for each in scene.objects] == names


def test_objects_of_a_scene_hardly_overlap():
    overlaps = []
    for seed in range(60):
        boxes = [each.box_xyxy_px for each in world.draw_scene(np.random.default_rng(seed), world.NAMES[::30]).objects]
        for index, first in enumerate(boxes):
            for second in boxes[index + 1 :]:
                width = min(first[2], second[2]) - max(first[0], second[0])
                height = min(first[3], second[3]) - max(first[1], second[1])
                smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
                overlaps.append(max(width, 0) * max(height, 0) / smaller)
    assert np.mean(overlaps) < 0.01
    assert np.quantile(overlaps, 0.99) < 0.3


def test_a_picture_without_a_name_is_background_only_and_muted():
    picture = world.draw_picture(np.random.default_rng(0), None)

    assert picture.objects == ()
    pixels = picture.pixels.astype(int)
    assert (pixels.max(-1) - pixels.min(-1)).max() < 100


def test_picture_sizes_vary_within_their_bounds():
    shapes = [world.draw_picture(np.random.default_rng(seed), None).pixels.shape for seed in range(40)]

    assert len(set(shapes)) > 20
    assert min(min(height, width) for height, width, _ in shapes) >= 96
    assert max(max(height, width) for height, width, _ in shapes) <= 160


def test_frequencies_are_as_stated():
    classes = world.assignment().detection

    assert len(classes) == 96
    assert [each.name for each in classes] == sorted(each.name for each in classes)
    for frequency, low, high in (("r", 2, 9), ("c", 12, 79), ("f", 130, 219)):
        counts = [each.instance_count for each in classes if each.frequency == frequency]
        assert len(counts) == 32
        assert (min(counts), max(counts)) == (low, high)


def test_every_word_occurs_among_the_frequent_names():
    frequent = [world.split_name(each.name) for each in world.assignment().detection if each.frequency == "f"]

    textures, colours, shapes = (set(words) for words in zip(*frequent, strict=True))

    assert textures == set(world.TEXTURES)
    assert colours == set(world.COLOURS)
    assert shapes == set(world.SHAPES)


def test_names_are_split_between_detection_held_out_and_teacher_only():
    detection, held_out, teacher_only = world.assignment()

    names = [each.name for each in detection] + [*held_out, *teacher_only]

    assert sorted(names) == sorted(world.NAMES)
    assert len(held_out) == 24


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="TEXTURE_COLOUR_SHAPE"):
        world.draw_picture(np.random.default_rng(0), "red_star")
