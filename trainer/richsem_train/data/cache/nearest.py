"""Which stored view of a thing is nearest to the one that is shown: the teacher's answer about it is borrowed.

A label depends on how large the teacher saw the thing, on which part of it was there, and on whether it was mirrored.
Pure functions of geometry.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.soft_labels import TopKSoftLabels
from richsem_schemas.cache.view import View
from richsem_schemas.pictures.boxes import iou

WEIGHTS = (0.25, 1.0, 0.1)
"""Costs of a doubling of the scale, of a part without overlap and of a mirror, beside each other."""

ABSENT = -1
"""Index of what isn't there: no stored view shows the thing, no listed picture has the name."""


@dataclass(frozen=True, eq=False)
class Sights:
    """How things are seen in views: arrays of one shape [...].

    Attributes:
        parts_xyxy_px: float64 [..., 4], what is there of each, in pixels of its picture, not mirrored.
        scales: float64 [...], pixels of the view, as the teacher sees it, for one of the picture.
        are_mirrored: bool [...].
    """

    parts_xyxy_px: NDArray[np.float64]
    scales: NDArray[np.float64]
    are_mirrored: NDArray[np.bool_]

    def of(self, index: NDArray[np.int64] | tuple[slice, None]) -> "Sights":
        """Some of them, or with a new axis."""
        return Sights(self.parts_xyxy_px[index], self.scales[index], self.are_mirrored[index])


def joined_sights(sights: Sequence[Sights]) -> Sights:
    """Sights one after the other."""
    return Sights(
        np.concatenate([each.parts_xyxy_px for each in sights]),
        np.concatenate([each.scales for each in sights]),
        np.concatenate([each.are_mirrored for each in sights]),
    )


def sights_of(view: View, *, teacher_size: int | None = None) -> Sights:
    """How a view shows its regions, [R].

    Args:
        view: of checked geometry.
        teacher_size: the longer side that the teacher sees the view at, pixels; None is the view's own.
    """
    tiles = view.tiles[view.regions["tile"]]
    source, paste = tiles["source_xyxy_px"].astype(np.float64), tiles["paste_xyxy_px"].astype(np.float64)
    scales_2 = (paste[:, 2:] - paste[:, :2]) / np.maximum(source[:, 2:] - source[:, :2], 1e-3)
    are_mirrored = tiles["flip"].astype(bool)
    inside = view.regions["box_xyxy_px"].astype(np.float64)
    inside -= np.tile(paste[:, :2], 2)
    width = paste[:, 2] - paste[:, 0]
    inside[are_mirrored] = np.stack([width - inside[:, 2], inside[:, 1], width - inside[:, 0], inside[:, 3]], axis=1)[
        are_mirrored
    ]
    seen = 1.0 if teacher_size is None else teacher_size / max(view.canvas_hw)
    parts = np.tile(source[:, :2], 2) + inside / np.tile(scales_2, 2)
    return Sights(parts, np.sqrt(scales_2.prod(axis=1)) * seen, are_mirrored)


def differences(one: Sights, other: Sights) -> NDArray[np.float64]:
    """In what two sights of one thing differ, [..., 3], broadcast; 0 where they are the same.

    |log2 of the ratio of the scales|; 1 - IoU of the parts, in the picture; 1 where one alone is mirrored.
    """
    octaves = np.abs(np.log2(one.scales / other.scales))
    overlap = iou(one.parts_xyxy_px, other.parts_xyxy_px)
    mirror = one.are_mirrored != other.are_mirrored
    return np.stack(np.broadcast_arrays(octaves, 1 - overlap, mirror), axis=-1)


def distance(differences_3: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far apart two sights of one thing are, [...]: their `differences` [..., 3], weighted by `WEIGHTS` and summed.

    Source:
        Ours; the weights are chosen by `benchmarks/evidence/borrowing.py`.
    """
    return np.asarray(differences_3 @ np.array(WEIGHTS))


def nearest(
    shown: Sights,
    things_S: NDArray[np.integer],
    stored: Sights,
    stored_things_R: NDArray[np.integer],
    views_R: NDArray[np.int64],
    *,
    min_overlap: float = 0.0,
) -> NDArray[np.int64]:
    """For each thing that is shown, the nearest stored sight of it; the first one where several are.

    Args:
        shown: S sights.
        things_S: which thing each is, 0 or more.
        stored: R sights.
        stored_things_R: which thing each is; a view shows each at most once.
        views_R: the view that each is from, counted from 0.
        min_overlap: least IoU of the parts; a sight of another part is none.

    Returns:
        int64 [S], rows of `stored`; `ABSENT` where there is none.
    """
    if not len(stored_things_R):
        return np.full(len(things_S), ABSENT)
    things = max(int(things_S.max(initial=0)), int(stored_things_R.max())) + 1
    rows_VT = np.full((int(views_R.max()) + 1, things), ABSENT)
    rows_VT[views_R, stored_things_R] = np.arange(len(stored_things_R))
    candidates_SV = rows_VT[:, things_S].T
    differences_SV3 = differences(shown.of((slice(None), None)), stored.of(candidates_SV))
    distances_SV = distance(differences_SV3)
    is_other_SV = (candidates_SV == ABSENT) | (differences_SV3[..., 1] > 1 - min_overlap)
    distances_SV[is_other_SV] = np.inf
    best_S = distances_SV.argmin(axis=1)
    each_S = np.arange(len(things_S))
    return np.where(is_other_SV[each_S, best_S], ABSENT, candidates_SV[each_S, best_S])


def borrowed_labels(
    views: Sequence[LabelledView], rows_S: NDArray[np.int64]
) -> tuple[TopKSoftLabels, NDArray[np.float32] | None, NDArray[np.bool_] | None]:
    """Labels and embeddings of some regions, for other sights of the same things.

    Args:
        views: at least one; their R regions are counted one view after the other.
        rows_S: regions; `ABSENT` for things that none of them shows.

    Returns:
        Labels and embeddings (None where some view has none) of S regions; and bool [S], which of them are known, None
        where all are. An unknown one has a label that is well formed and says nothing.
    """
    is_known_S = rows_S != ABSENT
    kept = [view.labels for view in views]
    embeddings = [view.embeddings for view in views if view.embeddings is not None]
    top_k = kept[0].class_ids.shape[1]
    # One row more, for whatever is absent, whose row -1 is the last.
    labels = TopKSoftLabels(
        np.concatenate([*(each.class_ids for each in kept), np.arange(top_k, dtype=np.int32)[None]])[rows_S],
        np.concatenate([*(each.log_probs for each in kept), np.full((1, top_k), -np.log(top_k), np.float16)])[rows_S],
        np.concatenate([*(each.log_rest for each in kept), np.full(1, -np.inf, np.float32)])[rows_S],
    )
    embeddings_SD = None
    if len(embeddings) == len(views):
        dim = embeddings[0].shape[1]
        embeddings_SD = np.concatenate([*embeddings, np.eye(1, dim, dtype=np.float32)])[rows_S]
    return labels, embeddings_SD, None if is_known_S.all() else is_known_S
