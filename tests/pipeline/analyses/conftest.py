import pytest

from tests.pipeline.analyses.split import cache_of, write_split


@pytest.fixture(scope="session")
def split(tmp_path_factory):
    """Pictures and val.json; for reading only."""
    return write_split(tmp_path_factory.mktemp("split"))


@pytest.fixture(scope="session")
def wholes(split, tmp_path_factory):
    """Wholes and two noised copies of each box at three scales, with random embeddings; for reading only."""
    return cache_of(split, tmp_path_factory.mktemp("wholes") / "out", jitters=2, noise=(0.3, 0.1, 1.0))
