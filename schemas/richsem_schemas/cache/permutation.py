"""A permutation that is computed, not stored: any position of 14 million, in constant memory."""

import numpy as np
from numpy.typing import NDArray

_ROUNDS = 6
_MIX = np.uint64(0x9E3779B97F4A7C15)


def permuted(positions: NDArray[np.integer], *, size: int, seed: int) -> NDArray[np.int64]:
    """Where each position of a seeded permutation of `range(size)` points.

    A Feistel network over the next even power of two, walked until it lands inside (cycle walking), so it is a
    bijection for every size and seed, and each process computes just the entries that it needs.

    Args:
        positions: any shape, each in 0..size-1.
        size: length of the permuted range, at least 1.
        seed: non-negative; another seed is another order.

    Raises:
        ValueError: a position lies outside the range.
    """
    signed = np.asarray(positions)
    if signed.size and not 0 <= int(signed.min()) <= int(signed.max()) < size:
        raise ValueError(f"positions {int(signed.min())}..{int(signed.max())} are not all in 0..size-1, size is {size}")
    values = signed.astype(np.uint64).reshape(-1)
    half_bits = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    keys = np.random.SeedSequence([seed, size]).generate_state(_ROUNDS, np.uint64).astype(np.uint64)
    result = _feistel(values, half_bits, keys)
    while (outside := result >= size).any():
        result[outside] = _feistel(result[outside], half_bits, keys)
    return result.astype(np.int64).reshape(signed.shape)


def _feistel(values: NDArray[np.uint64], half_bits: np.uint64, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = values >> half_bits, values & mask
    for key in keys:
        mixed = (right ^ key) * _MIX
        mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
        left, right = right, left ^ ((mixed >> np.uint64(32)) & mask)
    return (left << half_bits) | right
