"""Failures of workers as values, never as tracebacks; and how often a shard is tried."""

from richsem_prep.shard.progress import Failure
from richsem_schemas.errors import EmbeddingError, RichSemError
from richsem_schemas.io.output_files import FULL
from richsem_schemas.io.words import os_error_text

ATTEMPTS = 3
"""Times a shard is tried before it counts as failed."""

POLL_SECONDS = 0.5


def failure_of(error: Exception) -> Failure:
    """An exception in a worker, with whether it ends the run, or the shard."""
    if isinstance(error, EmbeddingError):
        return Failure(str(error), fatal=False, lasting=True)
    if isinstance(error, RichSemError):
        return Failure(str(error), fatal=True)
    if isinstance(error, OSError) and error.errno in FULL:
        return Failure(
            f"{os_error_text(error)}; free some and run the same command again, finished shards are kept", fatal=True
        )
    if isinstance(error, FileNotFoundError):
        return Failure(f"{os_error_text(error)}; is its disk mounted, or was its folder removed?", fatal=False)
    if isinstance(error, OSError):
        return Failure(os_error_text(error), fatal=False)
    return Failure(f"{type(error).__name__}: {error}", fatal=False)


def first_line(error: Exception) -> str:
    """The first line of what an error says; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
