"""Which pictures are learnt from and which are scored on, where the export says nothing of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from richsem_schemas.errors import RichSemError
from richsem_train.own_data.own_pictures import OwnPicture

VAL_SHARE = 0.2
MOST_VAL_PICTURES = 5_000
"""As many as COCO scores on; more cost time and tell little."""


@dataclass(frozen=True, eq=False)
class SplitPictures:
    """Pictures to learn from and to be scored on.

    Attributes:
        test: pictures of a test split, which are left alone.
        rule: how they were parted, in words.
        leaked: pictures left out of train since val has them, too.
    """

    train: tuple[OwnPicture, ...]
    val: tuple[OwnPicture, ...]
    test: int
    rule: str
    leaked: tuple[OwnPicture, ...] = ()


def split_pictures(pictures: Sequence[OwnPicture], *, seed: int) -> SplitPictures:
    """Keep the export's split, without what val shares with train; make one where there is none.

    Raises:
        RichSemError: there are too few pictures to part them.
    """
    learnable = [picture for picture in pictures if picture.split != "test"]
    test = len(pictures) - len(learnable)
    val = tuple(picture for picture in learnable if picture.split == "val")
    val_groups = {picture.group for picture in val}
    train = [picture for picture in learnable if picture.split != "val"]
    kept = tuple(picture for picture in train if picture.group not in val_groups)
    is_usable = all(any(len(picture.labels) for picture in part) for part in (kept, val))
    # Where most of train is in val, too, the two are one folder, and not a split.
    if is_usable and len(kept) * 2 >= len(train):
        leaked = tuple(picture for picture in train if picture.group in val_groups)
        return SplitPictures(kept, val, test, "as the export has it", leaked)
    return _parted(learnable, test, seed)


def _parted(pictures: Sequence[OwnPicture], test: int, seed: int) -> SplitPictures:
    groups = _groups(pictures)
    with_boxes = [group for group in groups if any(len(picture.labels) for picture in group)]
    if len(with_boxes) < 2:
        raise RichSemError(
            f"{len(with_boxes)} picture with boxes, copies of one counted once; at least 2 are needed, one to learn "
            "from and one to be scored on: label more"
        )
    is_val = choose_val([_classes_of(group) for group in groups], seed=seed)
    return SplitPictures(
        tuple(picture for group, chosen in zip(groups, is_val, strict=True) if not chosen for picture in group),
        tuple(picture for group, chosen in zip(groups, is_val, strict=True) if chosen for picture in group),
        test,
        f"by picture, {VAL_SHARE:.0%} of the pictures of each class to val (at most {MOST_VAL_PICTURES:,} in all), "
        f"seed {seed}; copies stay together",
    )


def _groups(pictures: Sequence[OwnPicture]) -> list[list[OwnPicture]]:
    by_number: dict[int, list[OwnPicture]] = {}
    for picture in pictures:
        by_number.setdefault(picture.group, []).append(picture)
    return list(by_number.values())


def _classes_of(group: Sequence[OwnPicture]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([picture.labels for picture in group]))


def choose_val(classes_of_groups: Sequence[NDArray[np.int64]], *, seed: int) -> NDArray[np.bool_]:
    """Choose the groups of pictures that become val, so that each class is on both sides where it can be.

    Rare classes choose first, since frequent ones have many pictures to choose among: each class takes a fifth of its
    groups, at least one if it has two, and never the last one of a class from train, unless val would be left with less
    than half of its share. Groups without a class come last.

    Args:
        classes_of_groups: the classes that each of N groups shows, without repeats.
        seed: decides which.

    Returns:
        bool [N].

    Source:
        Iterative stratification as of Sechidis et al. 2011 (On the Stratification of Multi-Label Data), for two parts
        of which one is small; differs: a class on one side alone weighs more than exact shares.
    """
    rng = np.random.default_rng(seed)
    share = min(VAL_SHARE, MOST_VAL_PICTURES / max(len(classes_of_groups), 1))
    order = rng.permutation(len(classes_of_groups))
    groups_of_class: dict[int, list[int]] = {}
    for group in order.tolist():
        for each in classes_of_groups[group].tolist():
            groups_of_class.setdefault(each, []).append(group)
    left = {each: len(groups) for each, groups in groups_of_class.items()}
    is_val = np.zeros(len(classes_of_groups), np.bool_)
    for each in sorted(groups_of_class, key=lambda each: (len(groups_of_class[each]), each)):
        groups = groups_of_class[each]
        wanted = max(1, round(share * len(groups))) if len(groups) > 1 else 0
        wanted -= int(is_val[groups].sum())
        for group in groups:
            if wanted <= 0:
                break
            shown = classes_of_groups[group].tolist()
            if not is_val[group] and all(left[other] > 1 for other in shown):
                is_val[group] = True
                wanted -= 1
                for other in shown:
                    left[other] -= 1
    with_boxes = [group for group in order.tolist() if len(classes_of_groups[group])]
    least = max(1, round(share * len(with_boxes) / 2))
    # Of a few pictures each may be the last one of some class: those go that take the fewest classes from train.
    for group in sorted(
        with_boxes, key=lambda group: sum(left[each] == 1 for each in classes_of_groups[group].tolist())
    ):
        if is_val.sum() >= least:
            break
        is_val[group] = True
    empty = [group for group in order.tolist() if not len(classes_of_groups[group])]
    is_val[empty[: round(share * len(empty))]] = True
    return is_val
