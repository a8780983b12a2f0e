"""A view: the recipe of one training picture, and the regions in it that carry labels.

One concept serves every dataset: a *crop* view has one tile and one region, a *mosaic* view up to four of each, a
*window* view of a detection picture one tile and its visible ground-truth boxes, a *whole* view the picture as
evaluation shows it and all of its boxes; a *jitter* or *whole-jitter* view has the tile of a window or a whole, and
noised copies of its boxes.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

ViewKind = Literal["crop", "mosaic", "window", "jitter", "whole", "whole-jitter"]
VIEW_KINDS: tuple[ViewKind, ...] = get_args(ViewKind)

JITTERS_OF: dict[ViewKind, ViewKind] = {"window": "jitter", "whole": "whole-jitter"}
"""The kinds of views whose regions are annotated boxes, and what the views with noised copies of them are called."""

PAD_VALUE = 114
"""Grey level of the canvas where no tile lies, as in the reference's mosaics."""

TILE_DTYPE = np.dtype(
    [("sample", "<i4"), ("source_xyxy_px", "<f4", (4,)), ("paste_xyxy_px", "<i4", (4,)), ("flip", "<i4")]
)
"""One tile: the picture (its position in the shard), the rectangle taken from it (in pixels of the decoded picture),
where it lands on the canvas, and whether it is mirrored left to right. 40 bytes."""

REGION_DTYPE = np.dtype(
    [
        ("box_xyxy_px", "<f4", (4,)),
        ("tile", "<i4"),
        ("category_id", "<i4"),
        ("annotation", "<i4"),
        ("noise_scale", "<f4"),
    ]
)
"""One region: its box on the canvas, the tile it shows, its image-level or box label (0 = unlabelled), which of its
picture's annotated boxes it is, by their order in the plan's listing (`NO_ANNOTATION` in crops and mosaics), and how
far that box was noised: each corner moved by up to so many half sides, 0 for the box as annotated. 32 bytes."""

NO_ANNOTATION = -1
"""`annotation` of a region that is a tile of a picture rather than one of its boxes."""


_MEMBER = re.compile(rf"(?P<kind>{'|'.join(VIEW_KINDS)})-(?P<pass_index>0|[1-9][0-9]*)\.npy")


@dataclass(frozen=True, eq=False)
class View:
    """The recipe of one training picture.

    Attributes:
        kind: one of `VIEW_KINDS`.
        pass_index: which pass over the pictures the view belongs to, counted per kind from 0.
        canvas_hw: height and width of the picture that `render_view` makes, in pixels.
        tiles: [T] of `TILE_DTYPE`.
        regions: [R] of `REGION_DTYPE`.
    """

    kind: ViewKind
    pass_index: int
    canvas_hw: tuple[int, int]
    tiles: NDArray[np.void]
    regions: NDArray[np.void]

    @property
    def member(self) -> str:
        """The view's extension in a label shard, such as `mosaic-3.npy`."""
        return f"{self.kind}-{self.pass_index}.npy"


def without_rest(view: View) -> View:
    """A view of a single picture, on a canvas no larger than what it shows; a mosaic as it is.

    Windows of scale jitter lie in the corner of a square. Its grey rest is for teachers: students see what it is not,
    since batches pad and mask it.
    """
    if view.kind == "mosaic":
        return view
    _, _, right, bottom = view.tiles["paste_xyxy_px"][0].tolist()
    return replace(view, canvas_hw=(bottom, right))


def parse_member(extension: str) -> tuple[ViewKind, int]:
    """Read kind and pass back from a member's extension; the inverse of `View.member`.

    Raises:
        ValueError: the extension is not one that `View.member` writes.
    """
    member = _MEMBER.fullmatch(extension)
    if member is None:
        raise ValueError(f"{extension!r} is no view; expected KIND-PASS.npy with KIND one of {', '.join(VIEW_KINDS)}")
    kind = next(each for each in VIEW_KINDS if each == member["kind"])
    return kind, int(member["pass_index"])
