import pytest

from richsem_schemas.annotations import read_annotations
from tests.caches import WindowsCache
from tests.trainer.data.datasets import PICTURES, WINDOWS
from tests.trainer.tiny import write_split


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Annotations and pictures of a split; for reading only."""
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, "train", PICTURES, seed=1)
    return folder


@pytest.fixture(scope="session")
def data(folder):
    return read_annotations(folder / "train.json", folder / "train")


@pytest.fixture(scope="session")
def windows(data, tmp_path_factory):
    """Three shards of four passes of windows, of pictures where they lie; for reading only."""
    return WindowsCache(data, tmp_path_factory.mktemp("windows") / "out", windows=WINDOWS).make()
