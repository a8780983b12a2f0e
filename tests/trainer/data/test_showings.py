import numpy as np
import pytest

from richsem_train.data.repeat_factor import epoch_indices
from richsem_train.data.showings import Showings

PICTURES = 12
FACTORS = np.linspace(1, 3.2, PICTURES)
LENGTH = 20
EPOCHS = 5


def epoch_list(epoch):
    return epoch_indices(FACTORS, 7, epoch)


def counted():
    """Showings before each position, from the row of all pictures that are shown."""
    seen, expected = np.zeros(PICTURES, int), {}
    for epoch in range(EPOCHS):
        for position, picture in enumerate(epoch_list(epoch)[:LENGTH].tolist()):
            expected[epoch, position, picture] = int(seen[picture])
            seen[picture] += 1
    return expected


@pytest.fixture
def showings():
    return Showings(epoch_list, epoch_length=LENGTH, pictures=PICTURES)


def test_a_showing_is_counted_over_repeats_and_epochs(showings):
    expected = counted()
    assert {key: showings.before(*key) for key in expected} == expected
    assert max(expected.values()) > 2 * EPOCHS


def test_showings_are_the_same_whatever_was_asked_before(showings):
    keys = list(counted().items())
    for index in np.random.default_rng(0).permutation(len(keys)).tolist():
        key, expected = keys[index]
        assert showings.before(*key) == expected


def test_what_does_not_fill_a_batch_is_no_showing():
    every_epoch = [0, 1, 2, 0]
    showings = Showings(lambda _: np.array(every_epoch), epoch_length=3, pictures=3)
    assert [showings.before(2, 0, picture) for picture in range(3)] == [2, 2, 2]


def test_repeats_of_a_picture_are_consecutive_showings():
    showings = Showings(lambda _: np.array([1, 0, 1, 1]), epoch_length=4, pictures=2)
    assert [showings.before(0, position, 1) for position in (0, 2, 3)] == [0, 1, 2]
    assert [showings.before(1, position, 1) for position in (0, 2, 3)] == [3, 4, 5]
