"""Where a run stands, from one integer: which data a step reads, and which pictures of it are this rank's."""

from dataclasses import dataclass
from typing import Literal

from richsem_schemas.errors import RichSemError

DataKind = Literal["detection", "extra"]


def kind_of_step(step: int, *, has_extra: bool) -> DataKind:
    """The data that a step reads: with extra data the two kinds alternate, detection first."""
    return "extra" if has_extra and step % 2 else "detection"


def first_batch_from(step: int, kind: DataKind, *, has_extra: bool) -> int:
    """Number of the first batch of a kind that `step` or a later step reads, counted over the whole run."""
    if not has_extra:
        return step
    return step // 2 if kind == "extra" else (step + 1) // 2


@dataclass(frozen=True)
class RankShare:
    """The part of each global batch that one rank reads: every `world_size`-th draw.

    A draw is what a rank of the reference sees: consecutive pictures of the global batch that share their federated
    classes, their denoising groups and their padding. None is torn, or a step would depend on the ranks.

    Attributes:
        global_batch: pictures a step, over all ranks.
        rank: 0..world_size-1.
        world_size: ranks.
        pictures_a_draw: pictures a draw.
        accumulate: parts that the share is cut into, whole draws each.
        key: of the config that has the size, for messages.

    Raises:
        RichSemError: draws would be torn, or ranks or parts have more of them than others.
    """

    global_batch: int
    rank: int = 0
    world_size: int = 1
    pictures_a_draw: int = 1
    accumulate: int = 1
    key: str = "schedule.global_batch_size"

    def __post_init__(self) -> None:
        if self.global_batch % (self.world_size * self.pictures_a_draw):
            raise RichSemError(
                f"a global batch of {self.global_batch} pictures can't be shared by {self.world_size} ranks in whole "
                f"draws of {self.pictures_a_draw}; use a multiple of {self.world_size * self.pictures_a_draw} as "
                f"{self.key}, fewer ranks, or another schedule.pictures_a_draw"
            )
        share = self.global_batch // self.world_size
        if share % (self.accumulate * self.pictures_a_draw):
            raise RichSemError(
                f"a rank's {share} pictures can't be cut into schedule.accumulate {self.accumulate} parts of whole "
                f"draws of {self.pictures_a_draw}; use a divisor of {share // self.pictures_a_draw} as "
                "schedule.accumulate, or another schedule.pictures_a_draw"
            )

    def counters(self, batch: int) -> list[int]:
        """The rank's pictures of a batch, as positions in the sequence of all pictures of the run."""
        first = batch * self.global_batch
        return [
            first + draw * self.pictures_a_draw + picture
            for draw in range(self.rank, self.global_batch // self.pictures_a_draw, self.world_size)
            for picture in range(self.pictures_a_draw)
        ]


def epoch_batches(list_length: int, global_batch: int) -> int:
    """How many whole batches an epoch's list gives; the rest of the list is left out.

    Raises:
        RichSemError: not even one.
    """
    batches = list_length // global_batch
    if not batches:
        raise RichSemError(
            f"an epoch of {list_length} detection pictures doesn't fill one batch of {global_batch}; lower "
            "schedule.global_batch_size"
        )
    return batches
