"""Ways to spoil a file."""

import os


def flip(path, position=None):
    """Change one bit, of the byte in the middle unless told which."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if position is None else position] ^= 1
    path.write_bytes(data)


def cut(path, count=None):
    """Take `count` bytes from the end, or half of the file."""
    size = path.stat().st_size
    os.truncate(path, size // 2 if count is None else size - count)
