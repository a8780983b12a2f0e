"""What a detector found: in one picture, and in many as scoring wants it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.pictures.boxes import xyxy_to_xywh


@dataclass(frozen=True, eq=False)
class PictureDetections:
    """Detections of one picture, best first.

    Attributes:
        category_ids: int64 [D].
        boxes_xyxy_px: float32 [D, 4], in pixels of the picture as decoded.
        scores: float32 [D].
    """

    category_ids: NDArray[np.int64]
    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.scores)
        assert self.category_ids.shape == self.scores.shape == (count,), (self.category_ids.shape, self.scores.shape)
        assert self.boxes_xyxy_px.shape == (count, 4), self.boxes_xyxy_px.shape

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, chosen: NDArray[Any]) -> "PictureDetections":
        """Those of a mask or of indexes."""
        return PictureDetections(self.category_ids[chosen], self.boxes_xyxy_px[chosen], self.scores[chosen])

    def require_finite(self, picture: str) -> None:
        """Check that they are numbers, see `require_finite`; the message names the picture so."""
        require_finite(self.scores, self.boxes_xyxy_px, lambda _: picture)


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of many pictures, as scoring wants them; those of a picture lie together, in the model's order.

    Attributes:
        image_ids: int64 [N].
        category_ids: int64 [N].
        boxes_xywh_px: float [N, 4].
        scores: float [N].
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xywh_px: NDArray[np.floating[Any]]
    scores: NDArray[np.floating[Any]]

    def __post_init__(self) -> None:
        count = len(self.image_ids)
        assert self.category_ids.shape == self.scores.shape == (count,), (self.category_ids.shape, self.scores.shape)
        assert self.boxes_xywh_px.shape == (count, 4), self.boxes_xywh_px.shape

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, chosen: NDArray[Any]) -> "Detections":
        """Those of a mask or of indexes."""
        return Detections(
            self.image_ids[chosen], self.category_ids[chosen], self.boxes_xywh_px[chosen], self.scores[chosen]
        )

    def as_results(self) -> list[dict[str, Any]]:
        """The same in the result format of COCO and LVIS, a dict a detection; for JSON, and slow for scoring."""
        columns = zip(
            self.image_ids.tolist(),
            self.category_ids.tolist(),
            self.boxes_xywh_px.tolist(),
            self.scores.tolist(),
            strict=True,
        )
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in columns
        ]


def require_finite(
    scores: NDArray[np.floating[Any]], boxes_px: NDArray[np.floating[Any]], picture_of: Callable[[int], str]
) -> None:
    """Check that a model's detections, scores [N] and boxes [N, 4], are numbers.

    A message names the picture of an index by `picture_of`.

    Raises:
        RichSemError: a score or a box is NaN or infinite.
    """
    broken = ~(np.isfinite(scores) & np.isfinite(boxes_px).all(axis=1))
    if broken.any():
        raise RichSemError(
            f"{int(broken.sum()):,} detections have a score or a box that is not finite, the first in "
            f"{picture_of(int(broken.argmax()))}; the model's weights are damaged or have diverged: take another "
            "checkpoint"
        )


def join_pictures(pictures: Sequence[tuple[int, PictureDetections]]) -> Detections:
    """Detections of several pictures in memory, without files; for small sets."""
    found = [one for _, one in pictures]
    return Detections(
        image_ids=np.repeat(np.array([image for image, _ in pictures], np.int64), [len(one) for one in found]),
        category_ids=np.concatenate([one.category_ids for one in found] or [np.zeros(0, np.int64)]),
        boxes_xywh_px=np.concatenate(
            [xyxy_to_xywh(one.boxes_xyxy_px) for one in found] or [np.zeros((0, 4), np.float32)]
        ),
        scores=np.concatenate([one.scores for one in found] or [np.zeros(0, np.float32)]),
    )
