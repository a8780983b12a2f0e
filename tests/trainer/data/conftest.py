import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

# Tests are imported by file, not as a package; the builder of small caches is shared with the pipeline's tests.
_PATH = Path(__file__).parents[2] / "pipeline" / "synthetic_cache.py"
_SPEC = importlib.util.spec_from_file_location("synthetic_cache", _PATH)
synthetic_cache = sys.modules.setdefault("synthetic_cache", importlib.util.module_from_spec(_SPEC))
if not hasattr(synthetic_cache, "SyntheticCache"):
    _SPEC.loader.exec_module(synthetic_cache)


@pytest.fixture(scope="session")
def pictures_root(tmp_path_factory):
    """A folder of tiny pictures, one of them broken."""
    root = tmp_path_factory.mktemp("pictures")
    synthetic_cache.draw_pictures(root)
    return root


@pytest.fixture(scope="session")
def finished_cache(pictures_root, tmp_path_factory):
    """A small whole cache of 3 shards, a pass of crops and two of mosaics; for reading only."""
    return synthetic_cache.SyntheticCache(pictures_root, tmp_path_factory.mktemp("cache") / "out").make()


@pytest.fixture
def cache(finished_cache, tmp_path):
    """A copy of the small cache that a test may break."""
    shutil.copytree(finished_cache.layout.out, tmp_path / "out")
    return synthetic_cache.SyntheticCache(finished_cache.root, tmp_path / "out")
