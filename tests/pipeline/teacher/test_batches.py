"""Batches of a stream: what goes together, how much waits, in which order answers come."""

from collections import Counter

import numpy as np
import pytest

from richsem_prep.teacher import batches
from richsem_prep.teacher.batches import IN_FLIGHT, Part, PreparedView, consecutive, encoded_in_order, of_like_size

SIZES = [(4, 6), (6, 4), (4, 4), (9, 9), (5, 7)]


def part(number, hw=(4, 4), regions=1):
    return Part(number, np.zeros((1, *hw, 3), np.uint8), np.zeros((regions, 4), np.float32))


def test_a_batch_leaves_when_it_is_full_and_the_rest_at_the_end():
    stream = [part(n, SIZES[n % 2]) for n in range(7)]
    found = of_like_size(iter(stream), lambda each: each.hw, lambda _: 2, most_pixels=10**6)
    assert [[each.number for each in batch] for batch in found] == [[0, 2], [1, 3], [4, 6], [5]]


def test_too_many_pixels_push_out_the_oldest_with_its_like():
    stream = [part(0, (4, 6)), part(1, (9, 9)), part(2, (4, 6)), part(3, (5, 7)), part(4, (9, 9))]
    found = of_like_size(iter(stream), lambda each: each.hw, lambda _: 9, most_pixels=24 + 81 + 24)
    assert [[each.number for each in batch] for batch in found] == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize("most_pixels", [30, 200, 10**6])
def test_little_waits_and_no_view_is_overtaken_by_more_than_the_bound(monkeypatch, most_pixels):
    monkeypatch.setattr(batches, "_MOST_BEHIND", 20)
    rng = np.random.default_rng(most_pixels)
    taken, left = [], []

    def stream():
        for number in range(500):
            # What is here was not pushed out by the one before.
            waiting = [each for each in taken if each.number not in left]
            assert sum(each.hw[0] * each.hw[1] for each in waiting) <= most_pixels
            assert all(number - each.number <= 20 for each in waiting)
            # One size is rare, and waits alone.
            taken.append(part(number, SIZES[rng.integers(4)] if number % 100 else SIZES[4]))
            yield taken[-1]

    for batch in of_like_size(stream(), lambda each: each.hw, lambda hw: 60 // hw[0], most_pixels=most_pixels):
        assert len({each.hw for each in batch}) == 1
        assert len(batch) <= 60 // batch[0].hw[0]
        left += [each.number for each in batch]
    assert sorted(left) == list(range(500))


@pytest.mark.parametrize("size", [1, 4, 7, 100])
def test_regions_are_cut_into_batches_of_one_size_in_their_order(size):
    rng = np.random.default_rng(size)
    counts = rng.integers(1, 12, 30)
    ids = np.split(np.arange(counts.sum()), np.cumsum(counts)[:-1])
    stream = [
        Part(n, np.broadcast_to(each[:, None, None, None], (len(each), 2, 2, 3)), np.zeros((len(each), 4)))
        for n, each in enumerate(ids)
    ]
    found = list(consecutive(iter(stream), size))
    assert [sum(each.regions for each in batch) for batch in found[:-1]] == [size] * (len(found) - 1)
    flat = [(each.number, int(image[0, 0, 0])) for batch in found for each in batch for image in each.images]
    assert flat == [(n, int(i)) for n, each in enumerate(ids) for i in each]


class Answers:
    """Embeds each region by its view's number and its place there; notes what is on its way."""

    def __init__(self):
        self.launched = self.waited = self.most = 0

    def launch(self, batch):
        self.launched += 1
        self.most = max(self.most, self.launched - self.waited)
        rows = [(each.number, box[0]) for each in batch for box in each.boxes_xyxy_px]
        # A batch that was filled up answers with more rows than it was asked for.
        self.rows = np.array([*rows, (-1, -1)], np.float32)
        return Answer(self, self.rows)


class Answer:
    def __init__(self, answers, rows):
        self.answers, self.rows = answers, rows

    def wait(self):
        self.answers.waited += 1
        return self.rows


@pytest.mark.parametrize("counts", [[], [0, 0], [1], [0, 3, 0, 1, 5, 0], list(range(9)) * 5])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_answers_come_in_the_order_of_the_views_however_they_were_batched(counts, size):
    boxes = [np.arange(count, dtype=np.float32)[:, None].repeat(4, axis=1) for count in counts]
    # Eights of views stay together, so that views leave out of order.
    views = [(f"view {n}", PreparedView(np.zeros((1, 2 + n % 3, 2, 3), np.uint8), box)) for n, box in enumerate(boxes)]
    answers = Answers()

    def by_size(parts):
        return of_like_size(parts, lambda each: each.hw, lambda _: size, most_pixels=50)

    found = list(encoded_in_order(iter(views), by_size, answers.launch, dim=2))
    assert [item for item, _ in found] == [item for item, _ in views]
    for number, ((_, rows), count) in enumerate(zip(found, counts, strict=True)):
        assert rows.dtype == np.float32
        assert rows.tolist() == [[number, place] for place in range(count)]
    assert answers.launched == answers.waited
    assert answers.most <= IN_FLIGHT + 1


def test_an_answer_is_waited_for_only_when_two_more_batches_are_on_their_way():
    answers = Answers()
    views = ((n, PreparedView(np.zeros((1, 2, 2, 3), np.uint8), np.zeros((1, 4), np.float32))) for n in range(20))
    seen = Counter()
    for _ in encoded_in_order(views, lambda parts: consecutive(parts, 1), answers.launch, dim=2):
        seen[answers.launched - answers.waited] += 1
    assert seen == {IN_FLIGHT: 18, 1: 1, 0: 1}
