"""The memory of a process that works on one picture after the other."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`."""

_KEPT_BYTES = 512 * 2**20
_LARGEST_BYTES = 32 * 2**20
"""The largest piece that glibc keeps; the decoded pixels of a picture of 8 megapixels."""


def keep_freed_memory() -> None:
    """Keep what is freed, up to some hundred megabytes, for what comes next.

    By default glibc gives pieces as large as pictures back to the system, which clears them page by page when they are
    asked for again: a fifth of the time of preparation with a small teacher. Other allocators than glibc's stay as they
    are.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
