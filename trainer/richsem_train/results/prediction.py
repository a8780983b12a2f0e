"""Detections in the user's terms: names and category ids in the place of rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections, join_pictures

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class ClassTable:
    """The rows of a detector's vocabulary.

    Attributes:
        names: empty for rows that are no class.
        frequencies: "r", "c", "f", or empty.
        category_ids: of the annotations it was trained on; negative for rows that they have not, and empty where each
            row is its id.
    """

    names: tuple[str, ...]
    frequencies: tuple[str, ...]
    category_ids: tuple[int, ...] = ()

    @property
    def have_frequencies(self) -> bool:
        """Whether any class has one."""
        return any(self.frequencies)

    def ids_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The category ids of some rows."""
        return np.array(self.category_ids, np.int64)[rows] if self.category_ids else rows

    def id_of(self, row: int) -> int:
        """The category id of a row."""
        return self.category_ids[row] if self.category_ids else row


@dataclass(frozen=True, eq=False)
class Prediction:
    """The objects that were found in one picture, best first.

    Attributes:
        boxes_xyxy_px: float32 [D, 4], in pixels of the picture, upright.
        scores: float32 [D], from 0 to 1.
        category_ids: int64 [D], of the annotations that the detector was trained on; negative for classes that only the
            teacher's vocabulary has.
        class_names: D names.
    """

    boxes_xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    category_ids: NDArray[np.int64]
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, found: PictureDetections, classes: ClassTable) -> "Prediction":
        """Detections by row of the vocabulary, with what is known of these rows."""
        return cls(
            found.boxes_xyxy_px,
            found.scores,
            classes.ids_of(found.category_ids),
            tuple(classes.names[row] for row in found.category_ids.tolist()),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """The result format of COCO and LVIS, for JSON: a dict a detection, boxes as left, top, width, height.

        Detections without a category id are left out, as they are when a split is scored.
        """
        found = PictureDetections(self.category_ids, self.boxes_xyxy_px, self.scores)
        return join_pictures([(image_id, found[self.category_ids >= 0])]).as_results()

    def as_supervision(self) -> "supervision.Detections":
        """The same for the package `supervision`, which draws, tracks and counts: `class_id` are category ids.

        `data["class_name"]` has the names. Detections without a category id are left out, as in `to_coco`: there,
        negative ids have no colour.

        Raises:
            RichSemError: the package isn't installed.
        """
        try:
            # It takes a second, and most do without.
            import supervision  # noqa: PLC0415
        except ImportError as error:
            raise RichSemError(
                f"the package supervision can't be imported ({error}); install it by `pip install supervision`"
            ) from error
        known = self.category_ids >= 0
        return supervision.Detections(
            xyxy=self.boxes_xyxy_px[known],
            confidence=self.scores[known],
            class_id=self.category_ids[known],
            data={"class_name": np.array(self.class_names, np.str_)[known]},
        )
