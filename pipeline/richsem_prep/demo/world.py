"""The demo's world: textured, coloured shapes on cluttered backgrounds, drawn by code.

A class name composes a texture, a colour and a shape (`striped_red_star`), so that a text encoder which knows
the words from frequent classes can tell the rare ones. Everything here is a pure function of its arguments;
randomness is a `numpy.random.Generator` the caller passes in, and the same generator state draws the same pixels
under the same numpy and Pillow.
"""

import colorsys
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

TEXTURES = ("striped", "dotted", "plain")
COLOURS = ("red", "yellow", "green", "cyan", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "moon")
NAMES = tuple("_".join(words) for words in itertools.product(TEXTURES, COLOURS, SHAPES))
"""All 144 names, underscored as in LVIS."""

SCENE_SIZE = (128, 128)
"""(height, width) of a detection scene."""

MAX_OBJECTS = 6
"""A detection scene holds 1..6 objects."""

Frequency = Literal["r", "c", "f"]

INSTANCE_RANGES: dict[Frequency, tuple[int, int]] = {"f": (219, 130), "c": (79, 12), "r": (9, 2)}
"""Training instances of the most and of the least frequent class of each kind."""

CLASSES_PER_FREQUENCY = 32

HELD_OUT_COUNT = 24

# Which names are frequent, rare, outside detection, or never shown to the teacher: fixed once for every demo, so that
# caches and numbers of two machines compare. A seed under which the frequent names hold every word (see the tests).
_ASSIGNMENT_SEED = 37

_HUES_DEGREES = {"red": 0, "yellow": 54, "green": 115, "cyan": 180, "blue": 222, "purple": 285}

# Shapes are drawn this many times larger and averaged down: smooth edges.
_SUPERSAMPLING = 4
_PADDING = 3

# Objects have a dark rim, so that their outline stands out from their texture.
_RIM_COLOUR = (22, 20, 26)
_RIM_BLUR = 0.08

# The rest of the range, 0..7, is for the grain.
_BRIGHTEST = 247


class DetectionClass(NamedTuple):
    """One class of the detection split."""

    name: str
    frequency: Frequency
    instance_count: int
    """Instances in the training split."""


class Assignment(NamedTuple):
    """The use of each of the 144 names."""

    detection: tuple[DetectionClass, ...]
    """96 classes in the order of their names, which is the order of their class folders."""
    held_out: tuple[str, ...]
    """24 names the teacher never sees in training: they measure whether it composes words."""
    teacher_only: tuple[str, ...]
    """24 names only the teacher is trained on."""


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One drawn object."""

    name: str
    box_xyxy_px: tuple[int, int, int, int]
    """Tight around the drawn pixels, clipped by the scene; right and bottom edges are exclusive."""
    polygon_xy_px: NDArray[np.float32]
    """[points, 2], the outline inside the scene."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A drawn picture and what is on it."""

    pixels: NDArray[np.uint8]
    """[height, width, 3], RGB."""
    objects: tuple[SceneObject, ...]


@functools.cache
def assignment() -> Assignment:
    """Split the 144 names: 96 for detection (32 each r/c/f), 24 held out of the teacher, 24 for the teacher only."""
    order = np.random.default_rng(_ASSIGNMENT_SEED).permutation(len(NAMES))
    shuffled = [NAMES[index] for index in order]
    detection = []
    for position, (frequency, (most, least)) in enumerate(INSTANCE_RANGES.items()):
        names = shuffled[position * CLASSES_PER_FREQUENCY :][:CLASSES_PER_FREQUENCY]
        # Geometric within each kind, so the whole is a long tail without plateaus.
        counts = np.rint(np.geomspace(most, least, CLASSES_PER_FREQUENCY)).astype(int)
        detection += [DetectionClass(name, frequency, int(count)) for name, count in zip(names, counts, strict=True)]
    rest = shuffled[len(INSTANCE_RANGES) * CLASSES_PER_FREQUENCY :]
    return Assignment(
        detection=tuple(sorted(detection)),
        held_out=tuple(sorted(rest[:HELD_OUT_COUNT])),
        teacher_only=tuple(sorted(rest[HELD_OUT_COUNT:])),
    )


def split_name(name: str) -> tuple[str, str, str]:
    """Texture, colour and shape of a class name.

    Raises:
        ValueError: the world has no such name.
    """
    words = name.split("_")
    if len(words) != 3 or words[0] not in TEXTURES or words[1] not in COLOURS or words[2] not in SHAPES:
        raise ValueError(f"{name!r} is no class of the demo; a name is TEXTURE_COLOUR_SHAPE, such as {NAMES[0]!r}")
    return words[0], words[1], words[2]


def draw_scene(
    rng: np.random.Generator,
    names: Sequence[str],
    *,
    size: tuple[int, int] = SCENE_SIZE,
    radii: tuple[float, float] | None = None,
) -> Scene:
    """Draw a detection scene with one object for each of `names`, kept apart as far as there is room.

    Args:
        rng: draws places, sizes, poses, shades and the background.
        names: classes of the objects, from `NAMES`.
        size: (height, width) of the scene in pixels.
        radii: smallest and largest radius of an object, in shorter sides of the scene; by default 0.085 and as much as
            the others leave room for.
    """
    canvas = _draw_clutter(rng, size)
    # Two objects may fill half the scene, six must leave each other room.
    smallest, largest = radii or (0.085, 0.21 if len(names) <= 3 else 0.175)
    low, high = smallest * min(size), largest * min(size)
    placed: list[tuple[float, float, float]] = []
    objects = []
    for name in names:
        radius = float(rng.uniform(low, high))
        centre = _free_place(rng, radius, placed, size)
        placed.append((*centre, radius))
        objects.append(_paint_object(rng, canvas, name, centre_xy=centre, radius=radius))
    return Scene(pixels=_with_grain(rng, canvas), objects=tuple(objects))


def draw_picture(rng: np.random.Generator, name: str | None, *, size: tuple[int, int] | None = None) -> Scene:
    """Draw a classification picture: one object somewhere near the middle, or background only.

    Args:
        rng: draws everything that is not given.
        name: class of the object, from `NAMES`; None draws no object.
        size: (height, width); by default sides of 96..160 px at aspect ratios up to 4:3, either way.
    """
    height, width = size or _draw_picture_size(rng)
    canvas = _draw_clutter(rng, (height, width))
    objects = []
    if name is not None:
        radius = float(rng.uniform(0.29, 0.43)) * min(height, width)
        # The outer part of a picture is what crops and mosaics cut away: objects stay away from it.
        spread_x, spread_y = min(0.1 * width, width / 2 - radius), min(0.1 * height, height / 2 - radius)
        centre = (
            width / 2 + float(rng.uniform(-spread_x, spread_x)),
            height / 2 + float(rng.uniform(-spread_y, spread_y)),
        )
        objects.append(_paint_object(rng, canvas, name, centre_xy=centre, radius=radius))
    return Scene(pixels=_with_grain(rng, canvas), objects=tuple(objects))


def _draw_picture_size(rng: np.random.Generator) -> tuple[int, int]:
    short = int(rng.integers(96, 121))
    long = round(short * float(rng.uniform(1.0, 4 / 3)))
    return (short, long) if rng.random() < 0.5 else (long, short)


def _draw_clutter(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A background of soft patches of light, with scraps and strokes on it.

    Its colours stay muted: only a thing of the world is saturated.
    """
    height, width = size
    cells = int(rng.integers(2, 6))
    patches = rng.uniform(70, 195) + rng.uniform(-38, 38, (cells, cells, 1)) + rng.uniform(-16, 16, (cells, cells, 3))
    small = Image.fromarray(np.clip(patches, 0, _BRIGHTEST).astype(np.uint8))
    image = small.resize((width, height), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(image)
    count = int(rng.integers(6, 15))
    starts, ends = rng.uniform(-0.1, 1.1, (2, count, 2)) * (width, height)
    directions, reaches = rng.uniform((0, 0.06 * min(size)), (2 * np.pi, 0.3 * min(size)), (count, 2)).T
    edges = (_on_circle(directions) * reaches[:, None]).tolist()
    colours = np.clip(rng.uniform(40, 215, (count, 1)) + rng.uniform(-22, 22, (count, 3)), 0, _BRIGHTEST)
    kinds, strokes = rng.integers((0, 1), (3, 4), (count, 2)).T.tolist()
    for kind, stroke, (x, y), end, (edge_x, edge_y), colour in zip(
        kinds, strokes, starts.tolist(), ends.tolist(), edges, colours.astype(int).tolist(), strict=True
    ):
        fill = tuple(colour)
        if kind == 0:
            draw.line((x, y, *end), fill=fill, width=stroke)
        elif kind == 1:
            draw.polygon((x, y, x + edge_x, y + edge_y, x - 0.6 * edge_y, y + 0.6 * edge_x), fill=fill)
        else:
            half = max(math.hypot(edge_x, edge_y) / 2, 1.0)
            draw.arc((x - half, y - half, x + half, y + half), start=end[0], end=end[0] + 150, fill=fill, width=stroke)
    return image


def _with_grain(rng: np.random.Generator, canvas: Image.Image) -> NDArray[np.uint8]:
    """The canvas as [height, width, 3] RGB, with a little grey noise over everything."""
    grain = np.frombuffer(rng.bytes(canvas.width * canvas.height), np.uint8) & (255 - _BRIGHTEST)
    # Nothing on the canvas is brighter than _BRIGHTEST, so the sum can't wrap around.
    return np.asarray(canvas) + grain.reshape(canvas.height, canvas.width, 1)


def _free_place(
    rng: np.random.Generator,
    radius: float,
    placed: Sequence[tuple[float, float, float]],
    size: tuple[int, int],
) -> tuple[float, float]:
    """Of a few random places the first that meets no other object, or the one that meets least."""
    height, width = size
    candidates = rng.uniform((radius, radius), (width - radius, height - radius), (24, 2))
    if not placed:
        return float(candidates[0, 0]), float(candidates[0, 1])
    others = np.array(placed)
    distances = np.abs(candidates[:, None] - others[:, :2]).max(-1)
    overlaps = np.maximum(0.95 * (others[:, 2] + radius) - distances, 0).max(-1)
    best = candidates[int(overlaps.argmin())]
    return float(best[0]), float(best[1])


def _paint_object(
    rng: np.random.Generator, canvas: Image.Image, name: str, *, centre_xy: tuple[float, float], radius: float
) -> SceneObject:
    """Paint one object onto `canvas` in place, and say where it is."""
    texture, colour, shape = split_name(name)
    angle, squeeze, squeezed_axis = rng.uniform((-0.25, 0.86, 0.0), (0.25, 1.0, 1.0)).tolist()
    outline = _outline(shape) * ((1.0, squeeze) if squeezed_axis < 0.5 else (squeeze, 1.0))
    cosine, sine = math.cos(angle), math.sin(angle)
    polygon = outline @ np.array([[cosine, sine], [-sine, cosine]]) * radius + centre_xy
    # Some outlines reach a little beyond their radius, and there beyond the canvas.
    polygon = np.minimum(np.maximum(polygon, 0), canvas.size)
    left, top = np.floor(polygon.min(0)).astype(int).tolist()
    right, bottom = np.ceil(polygon.max(0)).astype(int).tolist()

    # Room for the rim's blur, which takes what lies beyond the mask's border for more of the same.
    left, top, right, bottom = left - _PADDING, top - _PADDING, right + _PADDING, bottom + _PADDING

    mask = Image.new("L", ((right - left) * _SUPERSAMPLING, (bottom - top) * _SUPERSAMPLING))
    path = (polygon - (left, top)) * _SUPERSAMPLING - 0.5
    ImageDraw.Draw(mask).polygon(path.ravel().tolist(), fill=255)
    mask = mask.reduce(_SUPERSAMPLING)
    canvas.paste(_RIM_COLOUR, (left, top, right, bottom), mask)
    # A blurred mask is full only well inside: 8 x blur - 7 x 255, saturating, leaves a dark rim of some width.
    blurred = mask.filter(ImageFilter.BoxBlur(_RIM_BLUR * radius))
    inside = ImageChops.add(blurred, blurred, scale=0.25, offset=-7 * 255)
    paint = _paint(rng, texture, colour, (bottom - top, right - left), radius)
    canvas.paste(Image.fromarray(paint), (left, top), inside)

    # Twice the coverage less one, saturating: what is left is covered by half and more.
    covered = ImageChops.add(mask, mask, offset=-255).getbbox()
    assert covered is not None, "an object of the world covers pixels"
    return SceneObject(
        name=name,
        box_xyxy_px=(left + covered[0], top + covered[1], left + covered[2], top + covered[3]),
        polygon_xy_px=polygon.astype(np.float32),
    )


def _paint(
    rng: np.random.Generator, texture: str, colour: str, size: tuple[int, int], radius: float
) -> NDArray[np.uint8]:
    """The paint of an object's rectangle before its shape is cut out: [height, width, 3], RGB."""
    hue_jitter, saturation, value, mark, light, angle, density, phase_u, phase_v = rng.uniform(
        (-8.0, 0.78, 0.72, 0.0, 0.08, 0.0, 0.0, 0.0, 0.0), (8.0, 1.0, 0.98, 1.0, 0.22, 2 * math.pi, 1.0, 1.0, 1.0)
    ).tolist()
    hue = ((_HUES_DEGREES[colour] + hue_jitter) % 360) / 360
    base = np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32) * 255
    height, width = size
    # u, v: coordinates along and across the texture's direction, in object radii.
    x = (np.arange(width, dtype=np.float32) - width / 2) / radius
    y = ((np.arange(height, dtype=np.float32) - height / 2) / radius)[:, None]
    u = x * math.cos(angle) + y * math.sin(angle)
    shading = (1 + light * u)[..., None]
    if texture == "plain":
        return np.minimum(shading * base, _BRIGHTEST).astype(np.uint8)
    # Marks are a pale or a deep shade of the same hue, so that a texture never changes the colour's name.
    marks = base * 0.25 + 180 if mark < 0.6 else base * 0.3
    if texture == "striped":
        period = 0.42 + 0.14 * density
        phase = u / period + phase_u
        distance, half_width = np.abs(phase - np.rint(phase)), 0.25
    else:
        period = 0.48 + 0.14 * density
        v = y * math.cos(angle) - x * math.sin(angle)
        cell_u, cell_v = u / period + phase_u, v / period + phase_v
        cell_u -= np.rint(cell_u)
        cell_v -= np.rint(cell_v)
        distance, half_width = np.sqrt(cell_u * cell_u + cell_v * cell_v), 0.31
    # One pixel of transition at the edge of a mark.
    coverage = np.minimum(np.maximum((half_width - distance) * (period * radius) + 0.5, 0), 1)[..., None]
    return np.minimum(shading * (base + coverage * (marks - base)), _BRIGHTEST).astype(np.uint8)


@functools.cache
def _outline(shape: str) -> NDArray[np.float64]:
    """[points, 2], the outline of a shape in about the unit circle, as one closed path."""
    return _OUTLINES[shape]()


def _circle() -> NDArray[np.float64]:
    return 0.95 * _on_circle(np.linspace(0, 2 * np.pi, 40, endpoint=False))


def _square() -> NDArray[np.float64]:
    return 0.8 * np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


def _triangle() -> NDArray[np.float64]:
    return 1.05 * _on_circle(np.deg2rad([-90, 30, 150])) + np.array((0, 0.2))


def _star() -> NDArray[np.float64]:
    radii = np.tile([1.05, 0.42], 5)[:, None]
    return radii * _on_circle(np.deg2rad(np.arange(10) * 36 - 90)) + np.array((0, 0.05))


def _ring() -> NDArray[np.float64]:
    # One path with a slit of no width between the outer and the inner circle: COCO polygons know no holes.
    circle = _on_circle(np.linspace(0, 2 * np.pi, 41))
    return np.concatenate([circle, 0.5 * circle[::-1]])


def _cross() -> NDArray[np.float64]:
    arm, reach = 0.3, 0.95
    corner = np.array([(arm, reach), (arm, arm), (reach, arm)])
    turn = np.array([[0, -1], [1, 0]])
    return np.concatenate([corner @ np.linalg.matrix_power(turn, quarters) for quarters in range(4)])


def _heart() -> NDArray[np.float64]:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(turn) ** 3
    y = 2.5 - (13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
    return np.stack([x, y], axis=1) / 15.5


def _moon() -> NDArray[np.float64]:
    outer = _on_circle(np.deg2rad(np.linspace(48, 312, 30)))
    # The inner arc bends the same way as the outer one and meets it at the horns.
    bite_centre = np.array((0.62, 0))
    reach_x, reach_y = outer[0] - bite_centre
    half_angle = np.arctan2(reach_y, reach_x)
    inner = np.hypot(reach_x, reach_y) * _on_circle(np.linspace(2 * np.pi - half_angle, half_angle, 24)) + bite_centre
    return np.concatenate([outer, inner]) + np.array((0.25, 0))


def _on_circle(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


_OUTLINES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "heart": _heart,
    "moon": _moon,
}
