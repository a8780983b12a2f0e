"""The scales of the demo's views."""

from richsem_schemas.cache.manifest import ViewGeometry

GEOMETRY = ViewGeometry(
    short_sides=tuple(range(96, 161, 8)),
    longest_side=267,
    first_short_sides=(80, 100, 120),
    crop_sides=(77, 120),
    mosaic_tile=96,
    whole_short_side=128,
    whole_longest_side=267,
)
"""The reference's scales divided by five, as pictures of the demo are smaller than COCO's. Mosaics by a little more, so
that their canvas has just the size at which the teacher sees it."""

SCENE_GEOMETRY = GEOMETRY.model_copy(update={"short_sides": (128,), "first_short_sides": ()})
"""Detection scenes as the demo's training shows them: at their own size and whole."""
