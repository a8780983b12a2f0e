"""What several test folders share."""

import shutil
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[2] / "shared" / "data" / "imagenet-lvis-sample"


@pytest.fixture(scope="session")
def sample_pictures() -> Path:
    """A folder of 160 real ImageNet pictures, one a class; tests that need it are skipped where it is absent."""
    if not SAMPLE.is_dir():
        pytest.skip(f"no real pictures at {SAMPLE}")
    return SAMPLE


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """A tiny world to train on; for reading only."""
    from tests.trainer.tiny import make_world

    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def trained(world, tmp_path_factory):
    """OUT of a run of one epoch on the tiny world; for reading only."""
    out = tmp_path_factory.mktemp("trained") / "out"
    world.run(out, schedule__epochs=1)
    return out


@pytest.fixture(scope="session")
def pictures_root(tmp_path_factory):
    """A folder of tiny pictures, one of them broken."""
    from tests.caches import draw_pictures

    root = tmp_path_factory.mktemp("pictures")
    draw_pictures(root)
    return root


@pytest.fixture(scope="session")
def finished_cache(pictures_root, tmp_path_factory):
    """A small whole cache of 3 shards, a pass of crops and two of mosaics; read it, or copy it with `cache`."""
    from tests.caches import SyntheticCache

    return SyntheticCache(pictures_root, tmp_path_factory.mktemp("cache") / "out").make()


@pytest.fixture
def cache(finished_cache, tmp_path):
    """A copy of the small cache that a test may break."""
    from tests.caches import SyntheticCache

    shutil.copytree(finished_cache.layout.out, tmp_path / "out")
    return SyntheticCache(finished_cache.root, tmp_path / "out")


@pytest.fixture
def command(capsys, world, tmp_path, monkeypatch):
    """`richsem-train` on the tiny world; `command.out` is its OUT."""
    from tests.integration.train_command import TrainCommand

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("RICHSEM_DATA", str(world.data))
    return TrainCommand(capsys, world, tmp_path)
