import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.run.comparison import FinishedRun, group_arms


def test_runs_of_one_name_are_an_arm_in_the_order_of_their_seeds():
    runs = [FinishedRun("b", 1, {"AP": 0.1}), FinishedRun("a", 0, {"AP": 0.2}), FinishedRun("b", 0, {"AP": 0.3})]
    assert group_arms(runs) == {"b": [{"AP": 0.3}, {"AP": 0.1}], "a": [{"AP": 0.2}]}


def test_runs_of_one_name_and_one_seed_are_not_counted_as_seeds():
    runs = [FinishedRun("a", seed, {"AP": 0.1}) for seed in (0, 1, 1)]
    with pytest.raises(RichSemError, match=r"two runs of 'a' have the seed 1, .*--set name=NAME"):
        group_arms(runs)
