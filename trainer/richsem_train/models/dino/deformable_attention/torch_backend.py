"""Sampling in plain PyTorch: the oracle of the other backends, and the fastest one on a CPU.

Letters: B pictures, S positions of all maps, H heads, D channels a head, Q queries, L maps, P points, N = B * H.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

Shapes = tuple[tuple[int, int], ...]


def sample(value_BSHD: Tensor, shapes: Shapes, locations_BQHLP2: Tensor, weights_BQHLP: Tensor) -> Tensor:
    """Sum over maps of `grid_sample`; keeps B * Q * H * L * P * D samples for the backward pass.

    Returns:
        [B, Q, H*D].
    """
    return _sum_over_maps(_sample_map, value_BSHD, shapes, locations_BQHLP2, weights_BQHLP)


def sample_checkpointed(value_BSHD: Tensor, shapes: Shapes, locations_BQHLP2: Tensor, weights_BQHLP: Tensor) -> Tensor:
    """The same, but the backward pass samples again, one map at a time: more time, a fraction of the memory.

    Returns:
        [B, Q, H*D].
    """
    if not torch.is_grad_enabled():
        return sample(value_BSHD, shapes, locations_BQHLP2, weights_BQHLP)
    return _sum_over_maps(_sample_map_again_in_backward, value_BSHD, shapes, locations_BQHLP2, weights_BQHLP)


def _sum_over_maps(
    sample_map: Callable[[Tensor, Tensor, Tensor], Tensor],
    value_BSHD: Tensor,
    shapes: Shapes,
    locations_BQHLP2: Tensor,
    weights_BQHLP: Tensor,
) -> Tensor:
    batch, _, heads, channels = value_BSHD.shape
    queries = locations_BQHLP2.shape[1]
    # One transposition for all maps; `grid_sample` wants the channels before the positions.
    value_NDS = value_BSHD.permute(0, 2, 3, 1).reshape(batch * heads, channels, -1)
    # `grid_sample` counts from -1 to 1.
    grid_LBHQP2 = (2 * locations_BQHLP2 - 1).permute(3, 0, 2, 1, 4, 5)
    weights_LBHQP = weights_BQHLP.permute(3, 0, 2, 1, 4)
    total_NDQ = value_NDS.new_zeros(batch * heads, channels, queries)
    for value_NDhw, grid_BHQP2, weights_BHQP in zip(_maps(value_NDS, shapes), grid_LBHQP2, weights_LBHQP, strict=True):
        # `grid_sample` refuses a map without positions; it would add nothing.
        if value_NDhw.numel():
            total_NDQ = total_NDQ + sample_map(value_NDhw, grid_BHQP2.flatten(0, 1), weights_BHQP.flatten(0, 1))
    return total_NDQ.view(batch, heads * channels, queries).transpose(1, 2)


def _maps(value_NDS: Tensor, shapes: Shapes) -> Iterator[Tensor]:
    parts = value_NDS.split([height * width for height, width in shapes], dim=2)
    for part, (height, width) in zip(parts, shapes, strict=True):
        yield part.unflatten(2, (height, width))


def _sample_map(value_NDhw: Tensor, grid_NQP2: Tensor, weights_NQP: Tensor) -> Tensor:
    samples_NDQP = functional.grid_sample(
        value_NDhw, grid_NQP2, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return (samples_NDQP * weights_NQP[:, None]).sum(-1)


def _sample_map_again_in_backward(value_NDhw: Tensor, grid_NQP2: Tensor, weights_NQP: Tensor) -> Tensor:
    sampled: Tensor = checkpoint(
        _sample_map, value_NDhw, grid_NQP2, weights_NQP, use_reentrant=False, preserve_rng_state=False
    )
    return sampled
