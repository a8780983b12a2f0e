"""The files that a user names: where they lie, and whether they are there, known before PyTorch is imported."""

import os
from pathlib import Path

from richsem_schemas.annotations import require_readable
from richsem_schemas.cache.reader import find_layout
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path, open_place
from richsem_train.config import TrainConfig


def data_folder(config: TrainConfig) -> Path:
    """Where relative paths of data start.

    Raises:
        RichSemError: the environment names a URL.
    """
    if config.data is not None:
        return config.data
    try:
        return local_path(os.environ.get("RICHSEM_DATA") or "data")
    except RichSemError as error:
        raise RichSemError(f"RICHSEM_DATA: {error}") from None


def data_file(config: TrainConfig, path: Path) -> Path:
    """A file of weights: where its path says, or below the data folder."""
    below = data_folder(config) / path
    return below if below.exists() and not path.exists() else path


def require_data(config: TrainConfig) -> None:
    """Look for the caches and annotations of a run; `open_data` says what else is wrong with them.

    Raises:
        RichSemError: one isn't there.
    """
    for cache in (*(extra.cache for extra in config.extras.values()), config.detection.cache):
        if cache is not None:
            find_layout(open_place(cache))
    for split in (config.detection.train, config.detection.val):
        require_readable(data_folder(config) / split.annotations)


def require_checkpoint(path: Path) -> None:
    """Look for a checkpoint.

    Raises:
        RichSemError: it isn't there.
    """
    if not path.is_file():
        raise RichSemError(f"{path}: there is no such checkpoint; runs keep theirs in OUT/checkpoints/")
