"""The classes of a dataset, by name."""

from pydantic import BaseModel

NONE_NAME = "none"
"""Row 0 of every vocabulary: the label of unlabelled pictures."""

NO_LABEL = 0
"""The category id of what has no label: the row of `NONE_NAME`."""


class Vocabulary(BaseModel, frozen=True, extra="forbid"):
    """The classes that `category_id` counts.

    Attributes:
        name: such as `lvis-v1`.
        class_names: row 0 is "none", the label of unlabelled pictures.
    """

    name: str
    class_names: tuple[str, ...]
