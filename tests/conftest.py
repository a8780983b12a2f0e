"""What several test folders share."""

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
