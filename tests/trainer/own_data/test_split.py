"""Pictures are parted so that each class is on both sides where it can be, and copies stay together."""

from pathlib import Path

import numpy as np
import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.own_data.own_pictures import OwnPicture
from richsem_train.own_data.split import choose_val, split_pictures


def picture(number, labels, *, split=None, group=None):
    boxes = np.tile([1.0, 1.0, 5.0, 5.0], (len(labels), 1))
    labels = np.array(labels, np.int64)
    return OwnPicture(Path(f"{number}.jpg"), (48, 64), labels, boxes, split, group=number if group is None else group)


def names(pictures):
    return {each.file.name for each in pictures}


@pytest.mark.parametrize("seed", range(5))
def test_every_class_of_two_pictures_is_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    classes = [np.unique(rng.integers(0, 12, rng.integers(1, 3))) for _ in range(60)]
    is_val = choose_val(classes, seed=seed)
    count = np.array([sum(each in shown for shown in classes) for each in range(12)])
    in_val = np.array(
        [sum(each in shown for shown, val in zip(classes, is_val, strict=True) if val) for each in range(12)]
    )
    assert (in_val[count > 1] > 0).all()
    assert (in_val < count).all()
    assert 0.1 < is_val.mean() < 0.4


def test_one_picture_of_a_class_is_learnt_from():
    is_val = choose_val([np.array([0]), np.array([0]), np.array([0, 1])], seed=0)
    assert is_val.tolist()[2] is False
    assert is_val.sum() == 1


def test_val_is_never_empty_even_if_each_picture_is_the_last_of_a_class():
    is_val = choose_val([np.array([0, 1]), np.array([2]), np.array([3, 4, 5])], seed=0)
    assert is_val.tolist() == [False, True, False]


def test_the_same_seed_parts_the_same_and_copies_stay_together():
    pictures = [picture(number, [0], group=number // 2) for number in range(40)]
    one, again, other = (split_pictures(pictures, seed=seed) for seed in (1, 1, 2))
    assert names(one.val) == names(again.val) != names(other.val)
    assert len(one.val) == 8
    assert {each.group for each in one.val}.isdisjoint(each.group for each in one.train)


def test_a_split_that_is_there_is_kept_without_what_both_have():
    pictures = [picture(number, [0], split="train") for number in range(6)]
    pictures += [picture(10, [0], split="val", group=3), picture(11, [0], split="test")]
    split = split_pictures(pictures, seed=0)
    assert names(split.val) == {"10.jpg"}
    assert names(split.leaked) == {"3.jpg"}
    assert (len(split.train), split.test) == (5, 1)


def test_train_and_val_that_are_one_folder_are_parted_anew():
    pictures = [
        picture(2 * number + part, [0], split=name, group=number)
        for number in range(10)
        for part, name in enumerate(("train", "val"))
    ]
    split = split_pictures(pictures, seed=0)
    assert (len(split.train), len(split.val)) == (16, 4)


def test_one_picture_is_too_few():
    with pytest.raises(RichSemError, match=r"1 picture with boxes.*at least 2 are needed"):
        split_pictures([picture(0, [0]), picture(1, []), picture(2, [0], group=0)], seed=0)
