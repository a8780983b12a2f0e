import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from richsem_schemas.errors import RichSemError
from richsem_schemas.scoring.detections import PictureDetections
from richsem_train.results.matching import Tally, join_classes, match_detections, tally
from richsem_train.results.prediction import ClassTable
from tests.trainer.results.classes import class_table, detections

SHARED = np.array([False, True, True, True])
BOX = [0, 0, 100, 100]
# IoU 0.5 exactly, a little less, and 0.8.
HALF, LESS, MOST = [0, 0, 100, 50], [0, 0, 100, 49], [0, 0, 100, 80]
NOTHING = Tally()


def matched(a, b, *, threshold=0.3, shared=SHARED):
    """Partners of both sides, and the tally of all classes; swapping the detectors must swap all of it."""
    one, other = match_detections(a, b, are_shared=shared, score_threshold=threshold)
    swapped = match_detections(b, a, are_shared=shared, score_threshold=threshold)
    for here, there in ((one, swapped[1]), (other, swapped[0])):
        assert here.partners.tolist() == there.partners.tolist()
        assert here.are_shown.tolist() == there.are_shown.tolist()
    return one, other, tally(one, other, np.ones(len(shared), bool))


def test_one_class_and_half_of_the_union_make_one_object():
    a = detections([1, *BOX, 0.9], [2, *BOX, 0.8])
    for box, both in ((HALF, 1), (LESS, 0), (BOX, 1)):
        one, other, counted = matched(a, detections([1, *box, 0.5]))
        assert one.partners.tolist() == [0 if both else -1, -1]
        assert other.are_both.tolist() == [bool(both)]
        assert counted == Tally(both=both, only_a=2 - both, only_b=1 - both)


def test_the_same_box_of_another_class_is_another_object():
    one, other, counted = matched(detections([1, *BOX, 0.9]), detections([2, *BOX, 0.9]))
    assert counted == Tally(only_a=1, only_b=1)
    assert one.are_only_here.tolist() == other.are_only_here.tolist() == [True]


def test_nothing_found_and_all_found():
    some = detections([1, *BOX, 0.9], [3, 200, 0, 300, 50, 0.4])
    assert matched(detections(), detections())[2] == NOTHING
    assert matched(some, detections())[2] == Tally(only_a=2)
    assert matched(detections(), some)[2] == Tally(only_b=2)
    one, other, counted = matched(some, some)
    assert counted == Tally(both=2)
    assert not one.are_only_here.any()
    assert not other.are_only_here.any()


def test_an_object_has_one_partner_and_its_duplicates_are_not_found_alone():
    a = detections([1, *BOX, 0.9], [1, *MOST, 0.7], [2, *MOST, 0.6])
    one, other, counted = matched(a, detections([1, *BOX, 0.4]))
    assert (one.partners.tolist(), other.partners.tolist()) == ([0, -1, -1], [0])
    # The box of another class is none.
    assert one.are_shown.tolist() == [True, False, True]
    assert counted == Tally(both=1, only_a=1)
    assert matched(a, detections())[2] == Tally(only_a=2)


def test_nor_is_a_better_box_of_what_both_found():
    a = detections([1, *LESS, 0.9], [1, 0, 0, 100, 70, 0.6])
    one, _, counted = matched(a, detections([1, *BOX, 0.5]))
    assert one.partners.tolist() == [-1, 0]
    assert one.are_shown.tolist() == [False, True]
    assert counted == Tally(both=1)


def test_neighbours_that_overlap_are_two_where_both_found_two():
    two = detections([1, *BOX, 0.9], [1, *MOST, 0.7])
    assert matched(two, two)[2] == Tally(both=2)


def test_boxes_that_nearly_coincide_are_one_within_a_class_and_several_of_several():
    copy = [0, 0, 100, 91]
    one, _, counted = matched(detections([1, *BOX, 0.9], [1, *copy, 0.7], [2, *copy, 0.6]), detections())
    assert one.are_shown.tolist() == [True, False, True]
    assert counted == Tally(only_a=2)
    # Two names for one box, in another order: nothing is missed.
    names = detections([1, *BOX, 0.9], [2, *BOX, 0.6]), detections([2, *BOX, 0.8], [1, *BOX, 0.7])
    assert matched(*names)[2] == Tally(both=2)


def test_the_best_detection_chooses_first_and_takes_the_nearest():
    # Boxes of 100 x 100, moved to the right by 0, 10 and 30: IoU 100/110.., 0.818, 0.538, 0.667.
    at = lambda x: [1, x, 0, x + 100, 100]  # noqa: E731
    a, b = detections([*at(10), 0.9], [*at(0), 0.8]), detections([*at(30), 0.7], [*at(0), 0.6])
    one, other, counted = matched(a, b)
    # 0.9 is nearer to the box at 0 (0.818) than to that at 30 (0.667); 0.8 is left with 30 (0.538).
    assert (one.partners.tolist(), other.partners.tolist()) == ([1, 0], [1, 0])
    assert counted == Tally(both=2)


def test_what_the_other_found_a_little_below_the_threshold_is_not_missed():
    a = detections([1, *BOX, 0.31])
    for score, both in ((0.29, 1), (0.15, 1), (0.14, 0)):
        one, other, counted = matched(a, detections([1, *BOX, score]))
        assert counted == Tally(both=both, only_a=1 - both)
        # It is shown then, so that the reader sees its score.
        assert (one.are_shown.tolist(), other.are_shown.tolist()) == ([True], [bool(both)])
    one, _, counted = matched(detections([1, *BOX, 0.29]), detections([1, *BOX, 0.29]))
    assert counted == NOTHING
    assert not one.are_shown.any()


def test_those_at_the_threshold_are_paired_before_those_below_it():
    a = detections([1, *BOX, 0.9])
    one, _, counted = matched(a, detections([1, *HALF, 0.8], [1, *BOX, 0.2]))
    assert one.partners.tolist() == [0]
    assert counted == Tally(both=1)


def test_classes_that_the_other_does_not_know_are_counted_apart():
    shared = np.array([False, True, False, False])
    one, other, counted = matched(detections([1, *BOX, 0.9], [2, *BOX, 0.8]), detections([3, *BOX, 0.7]), shared=shared)
    assert counted == Tally(only_a=1, unknown_to_b=1, unknown_to_a=1)
    assert one.are_only_here.tolist() == [True, False]
    assert other.are_shown.tolist() == [True]
    assert other.are_only_here.tolist() == [False]


def test_classes_are_counted_by_rows_of_the_vocabulary():
    a, b = detections([1, *BOX, 0.9], [2, *BOX, 0.8]), detections([1, *BOX, 0.7], [3, *BOX, 0.6])
    one, other, counted = matched(a, b)
    assert counted == Tally(both=1, only_a=1, only_b=1)
    rows = [tally(one, other, np.arange(4) == row) for row in range(4)]
    assert rows == [NOTHING, Tally(both=1), Tally(only_a=1), Tally(only_b=1)]
    assert sum(rows, NOTHING) == counted


def crowd(rng, count):
    """Objects of two classes at a few places, each box a little off."""
    corners = rng.choice([0, 60, 120], (count, 2)) + rng.normal(0, 8, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(60, 100, (count, 2))], axis=1).astype(np.float32)
    scores = np.sort(rng.uniform(0.1, 1, count))[::-1].astype(np.float32)
    return PictureDetections(rng.integers(1, 3, count), boxes, scores)


@pytest.mark.parametrize("seed", range(20))
def test_crowds_are_paired_as_by_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    a, b = crowd(rng, 25), crowd(rng, 30)
    one, other, _ = matched(a, b)
    overlap = box_iou(torch.from_numpy(a.boxes_xyxy_px), torch.from_numpy(b.boxes_xyxy_px)).numpy()
    may = (overlap >= 0.5) & (a.category_ids[:, None] == b.category_ids)
    free_a, free_b, wanted = set(range(25)), set(range(30)), {}
    for lowest in (0.3, 0.15):
        queue = [(a.scores[i], 0, i) for i in free_a] + [(b.scores[j], 1, j) for j in free_b]
        for score, side, index in sorted(queue, reverse=True):
            if score < 0.3 or index not in (free_a, free_b)[side]:
                continue
            if side == 0:
                pairs = [(overlap[index, j], index, j) for j in free_b if may[index, j] and b.scores[j] >= lowest]
            else:
                pairs = [(overlap[i, index], i, index) for i in free_a if may[i, index] and a.scores[i] >= lowest]
            pairs = [pair for pair in pairs if not (is_copy(a, pair[1]) or is_copy(b, pair[2]))]
            if pairs:
                _, i, j = max(pairs)
                wanted[i] = j
                free_a.discard(i)
                free_b.discard(j)
    assert {i: j for i, j in enumerate(one.partners.tolist()) if j >= 0} == wanted
    for side, paired in ((one, set(wanted)), (other, set(wanted.values()))):
        own = box_iou(*[torch.from_numpy(side.found.boxes_xyxy_px)] * 2).numpy()
        for index, score in enumerate(side.found.scores):
            same = side.found.category_ids == side.found.category_ids[index]
            near = [i for i in paired if same[i] and own[i, index] >= 0.5]
            if index not in paired and score >= 0.3 and not near and not is_copy(side.found, index):
                paired.add(index)
        assert set(np.flatnonzero(side.are_shown).tolist()) == paired
    assert len(wanted) > 5


def is_copy(found, index):
    """Whether a box nearly coincides with one before it that is none, of its class."""
    for before in range(index):
        same = found.category_ids[before] == found.category_ids[index]
        boxes = torch.from_numpy(found.boxes_xyxy_px[[before, index]])
        if same and box_iou(boxes[:1], boxes[1:]).item() > 0.9 and not is_copy(found, before):
            return True
    return False


# Vocabularies


def test_vocabularies_are_joined_by_name():
    a = class_table({1: "cat", 2: "dog", 4: "gas_mask"}, {1: "f", 4: "r"})
    b = class_table({1: "dog", 2: "cat", 3: "zebra"}, {1: "c", 2: "r", 3: "c"})
    joined = join_classes(a, b)
    assert joined.table.names == ("", "cat", "dog", "", "gas_mask", "zebra")
    # A's frequency of the cat, B's of the dog.
    assert joined.table.frequencies == ("", "f", "c", "", "r", "c")
    assert joined.rows_of_a[[1, 2, 4]].tolist() == [1, 2, 4]
    assert joined.rows_of_b[[1, 2, 3]].tolist() == [2, 1, 5]
    assert (joined.only_a, joined.only_b) == (("gas_mask",), ("zebra",))
    assert joined.are_shared.tolist() == [False, True, True, False, False, False]


def test_a_name_of_two_rows_is_one_class():
    joined = join_classes(class_table({1: "cat", 2: "cat"}), class_table({3: "cat"}))
    assert joined.rows_of_a[1] == joined.rows_of_a[2] == joined.rows_of_b[3] == 1


@pytest.mark.parametrize("names", [{1: "zebra"}, {}])
def test_vocabularies_without_a_common_name_are_refused(names):
    b = class_table(names) if names else ClassTable(("",), ("",))
    with pytest.raises(
        RichSemError, match=r"no class in common: one knows cat, dog, ox, \.\.\., the other .*joined by name"
    ):
        join_classes(class_table(dict(enumerate(("cat", "dog", "ox", "yak"), start=1))), b)
