"""Where something doesn't fit into the memory: which setting makes it smaller."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from richsem_schemas.errors import RichSemError


@contextmanager
def memory_named(what: str, remedy: str) -> Iterator[None]:
    """Say what to do where the block needs more memory than there is.

    Raises:
        RichSemError: it does; other errors pass.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Of the CPU's allocator there is only the text.
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RichSemError(f"{what} doesn't fit into the memory ({reason}); {remedy}") from None
