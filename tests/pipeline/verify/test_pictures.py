import pytest

from tests.pipeline.verify.forging import messages_of, paths_of, pictures_of, problems_of, rewrite_pictures


def test_rewriting_pictures_unchanged_leaves_no_problem(cache):
    rewrite_pictures(cache)
    assert problems_of(cache) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sha256": "0" * 64}, "its sha256 is not that of"),
        ({"name": "another"}, "its name is not that of the index"),
        ({"category": "another"}, "its category is not that of the index"),
        ({"height": 1}, "its height is not that of the index"),
    ],
)
def test_a_sidecar_that_disagrees_is_found(cache, change, message):
    rewrite_pictures(cache, change_sidecar=lambda sidecar: sidecar | change)
    problems = problems_of(cache)
    assert all(message in problem.message for problem in problems)
    assert paths_of(problems) == {"pictures/folder-000000.tar"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "000000-0000.1", "the key of sample"),
        (1, 99, "not in order, or not in the plan"),
        (2, 7, "is not in the vocabulary"),
        (4, "../jpg", "is no extension of pictures"),
        (5, 0, "has no area"),
        (7, -1, "don't fit `--pictures copy`"),
        (8, -1, "don't fit `--pictures copy`"),
    ],
)
def test_an_index_row_that_is_wrong_is_found_once_for_all_rows(cache, column, value, message):
    rewrite_pictures(cache, change_row=lambda row: (*row[:column], value, *row[column + 1 :]))
    problems = [problem for problem in problems_of(cache) if problem.path == "index/pictures/folder-000000.parquet"]
    (found,) = [problem.message for problem in problems if message in problem.message]
    assert found.endswith(" more such)")


def test_an_index_that_points_elsewhere_is_found(cache):
    rewrite_pictures(cache, change_row=lambda row: (*row[:7], row[7] + 512, *row[8:]))
    assert any("stands where the index has" in message for message in messages_of(cache))


def test_pictures_own_hashes_are_checked_for_a_sample_and_all_of_them_where_asked(cache, monkeypatch):
    monkeypatch.setattr("richsem_prep.verify.shard.SAMPLED_PICTURES", 4)
    rewrite_pictures(cache, change_sidecar=lambda sidecar: sidecar | {"sha256": "0" * 64})
    assert len(problems_of(cache)) == 4
    assert len(problems_of(cache, thorough=True)) == len(pictures_of(cache).rows())
