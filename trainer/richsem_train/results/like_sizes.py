"""Pictures of like size side by side: what is found in one must not depend on what it is shown beside."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from richsem_train.data.collate import Sample, collate
from richsem_train.targets import Batch

_WINDOW = 1_024
"""Pictures that are sorted by size at a time; what is found in so many is held until it is its turn."""

_Found = TypeVar("_Found")


def batches_of_like_size(sizes_hw: Sequence[tuple[int, int]], *, batch_size: int, size_divisor: int) -> list[list[int]]:
    """Indexes of pictures that are padded to one size, at most `batch_size` together; none is far from its place.

    Args:
        sizes_hw: as the pictures are shown, pixels.
        batch_size: at most so many at a time.
        size_divisor: what heights and widths are padded to multiples of, `DetectionModel.size_divisor`.
    """
    batches: list[list[int]] = []
    for first in range(0, len(sizes_hw), _WINDOW):
        of_one_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, hw in enumerate(sizes_hw[first : first + _WINDOW], start=first):
            of_one_size[tuple(-(-side // size_divisor) for side in hw)].append(index)
        for alike in of_one_size.values():
            batches += [alike[start : start + batch_size] for start in range(0, len(alike), batch_size)]
    return batches


def collate_alike(samples: Sequence[Sample], *, size_divisor: int) -> list[Batch]:
    """Batches of pictures that are padded to one size: one of all of them, where their sizes are as was expected."""
    sizes_hw = [sample.target.image_hw for sample in samples]
    return [
        collate([samples[index] for index in indexes])
        for indexes in batches_of_like_size(sizes_hw, batch_size=len(samples), size_divisor=size_divisor)
    ]


def in_order(found: Iterable[tuple[int, _Found]], image_ids: Iterable[int]) -> Iterator[tuple[int, _Found]]:
    """What was found in each picture, in the order of the image ids, which are distinct; holds what comes early."""
    early: dict[int, _Found] = {}
    coming = iter(found)
    for image_id in image_ids:
        while image_id not in early:
            other, each = next(coming)
            early[other] = each
        yield image_id, early.pop(image_id)
