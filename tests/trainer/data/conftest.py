import shutil

import pytest

from richsem_schemas.annotations import read_annotations
from tests.pipeline.synthetic_cache import SyntheticCache, draw_pictures
from tests.trainer.data.datasets import PICTURES, WINDOWS
from tests.trainer.tiny import write_split
from tests.trainer.windows import WindowsCache


@pytest.fixture(scope="session")
def pictures_root(tmp_path_factory):
    """A folder of tiny pictures, one of them broken."""
    root = tmp_path_factory.mktemp("pictures")
    draw_pictures(root)
    return root


@pytest.fixture(scope="session")
def finished_cache(pictures_root, tmp_path_factory):
    """A small whole cache of 3 shards, a pass of crops and two of mosaics; for reading only."""
    return SyntheticCache(pictures_root, tmp_path_factory.mktemp("cache") / "out").make()


@pytest.fixture
def cache(finished_cache, tmp_path):
    """A copy of the small cache that a test may break."""
    shutil.copytree(finished_cache.layout.out, tmp_path / "out")
    return SyntheticCache(finished_cache.root, tmp_path / "out")


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
