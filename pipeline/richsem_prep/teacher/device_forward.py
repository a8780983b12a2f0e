"""The device: pixels go there, a network runs, unit-norm embeddings come back; the one place that touches it.

Whoever launches a batch waits for nothing. On CUDA pixels are put together in pinned memory, copied on a stream of
their own while the batch before is computed, and embeddings are on their way back when they are asked for. On a CPU the
same lines compute at once.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from richsem_prep.teacher.teacher import DTYPES, Teacher
from richsem_schemas.cache.field_types import Precision

_BATCH_PIXELS = {"cpu": 2**19, "cuda": 2**24}
"""Most pixels in one batch, by device: enough to keep it busy, little enough for its memory."""

_MOST_IMAGES = 256


@dataclass(frozen=True, eq=False)
class UnderWay:
    """Embeddings of a batch that was launched.

    Attributes:
        features: [R, D] float32 on the host; not there before `done`.
        done: None where they are there already.
    """

    features: Tensor
    done: "torch.cuda.Event | None"

    def wait(self) -> NDArray[np.float32]:
        """The embeddings [R, D], once they have come."""
        if self.done is not None:
            self.done.synchronize()
        return self.features.numpy()


class DeviceForward:
    """Launches batches on a teacher's device.

    Attributes:
        teacher: the one given, its visual tower's weights in the precision of the forward.
    """

    def __init__(self, teacher: Teacher, precision: Precision) -> None:
        self._dtype = DTYPES[precision]
        self.teacher = teacher.with_weights_in(self._dtype)
        self.device = teacher.device
        self._is_cuda = self.device.type == "cuda"
        self._copies = torch.cuda.Stream(self.device) if self._is_cuda else None
        self._mean = torch.tensor(teacher.identity.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(teacher.identity.std, device=self.device).view(1, 3, 1, 1)

    @property
    def batch_pixels(self) -> int:
        """Most pixels in one batch."""
        return _BATCH_PIXELS[self.device.type]

    def batch_size(self, hw: tuple[int, int]) -> int:
        """Images of a size in a full batch."""
        return max(1, min(_MOST_IMAGES, self.batch_pixels // (hw[0] * hw[1])))

    def staged(self, images: Sequence[NDArray[np.uint8]], hw: tuple[int, int], *, count: int) -> Tensor:
        """Images, one by one each in the upper left corner of its place, for `launch`.

        Args:
            images: uint8 [N, h, w, 3] each, none larger than `hw`.
            hw: (H, W) of a place.
            count: of places, at least as many as there are images.

        Returns:
            uint8 [count, H, W, 3], pinned where that helps; places left over are black, what surrounds an image smaller
            than its place is anything.
        """
        staged = torch.empty((count, *hw, 3), dtype=torch.uint8, pin_memory=self._is_cuda)
        places, filled = staged.numpy(), 0
        for each in images:
            number, height, width, _ = each.shape
            places[filled : filled + number, :height, :width] = each
            filled += number
        places[filled:] = 0
        return staged

    @torch.inference_mode()
    def launch(self, network: Callable[..., Tensor], pixels_BHW3: Tensor, *more: Tensor) -> UnderWay:
        """Begin a batch.

        Args:
            network: makes raw embeddings [R, D] of normalised images float32 [B, 3, H, W] and of `more`.
            pixels_BHW3: as `staged` gives them.
            more: small tensors on the host.
        """
        sent_BHW3, *others = self._sent([pixels_BHW3, *more])
        # An NHWC array permuted is channels-last already, which convolutions like.
        normalised = (sent_BHW3.permute(0, 3, 1, 2).float() / 255 - self._mean) / self._std
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = network(normalised, *others)
        # To memory that is pinned, where the copy doesn't wait for it.
        units_RD = functional.normalize(features.float(), dim=-1).to("cpu", non_blocking=True)
        return UnderWay(units_RD, self._marked())

    def _sent(self, host: Sequence[Tensor]) -> list[Tensor]:
        with self._copying():
            sent = [(each.pin_memory() if self._is_cuda else each).to(self.device, non_blocking=True) for each in host]
        if self._copies is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self._copies)
            for each in sent:
                # Made on one stream and used on the other: its memory must outlast both.
                each.record_stream(computing)
        return sent

    def _copying(self) -> AbstractContextManager[object]:
        return nullcontext() if self._copies is None else torch.cuda.stream(self._copies)

    def _marked(self) -> "torch.cuda.Event | None":
        if not self._is_cuda:
            return None
        # Blocking: a thread that spins would take a core from decoding.
        done = torch.cuda.Event(blocking=True)
        done.record(torch.cuda.current_stream(self.device))
        return done
