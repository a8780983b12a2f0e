"""The extra data: views of a cache as samples."""

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.recipes import PICTURES_PER_MOSAIC
from richsem_train.data.cache.blocks import BlockReader
from richsem_train.data.cache.free_mosaics import (
    MOSAIC_STREAM,
    free_mosaic,
    require_whole_crops,
    with_nearest_labels,
)
from richsem_train.data.cache.lanes import LaneOrder, ViewPlace
from richsem_train.data.cache.source import TrainingCache
from richsem_train.data.cache.views import ReadView
from richsem_train.data.collate import Sample
from richsem_train.data.damage import OnDamage, first_whole
from richsem_train.data.order import RankShare
from richsem_train.data.soft_labels import cached_target
from richsem_train.data.transforms import rendered

BLOCK_BYTES = 512 * 2**20
"""Most bytes of blocks that a worker keeps; 64 lanes of ImageNet pictures take 450 MiB."""


class ExtraDataset(Dataset[Sample]):
    """Views of a cache as samples, by their counter over the whole run.

    What a sample shows is a function of the seed and the counter, whoever asks for it and whenever; where the cache is
    damaged and `on_damage` is "skip", of the damage as well.

    Args:
        cache: an opened one.
        seed: of the run.
        lanes: blocks that samples are drawn from in turn.
        on_damage: "stop" raises, "skip" takes another view and says so.
        world_size: ranks; each keeps the blocks of its own lanes.
        block_bytes: most bytes of blocks that a worker keeps.
    """

    def __init__(
        self,
        cache: TrainingCache,
        *,
        seed: int,
        lanes: int = 64,
        on_damage: OnDamage = "stop",
        world_size: int = 1,
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        self.cache = cache
        self._is_free = cache.expected.views == "free-mosaics"
        self.order = LaneOrder(
            cache.source.pass_views, cache.source.passes, lanes, seed, PICTURES_PER_MOSAIC if self._is_free else 1
        )
        self._seed = seed
        self._on_damage = on_damage
        lanes_held = -(-lanes // world_size)
        held_bytes = lanes_held * (cache.mean_block_bytes + (cache.mean_label_bytes if self._is_free else 0))
        self.reader = BlockReader(
            cache.source,
            seed=seed,
            lanes=lanes_held,
            block_bytes=block_bytes,
            whole_blocks=held_bytes <= block_bytes,
            all_passes=self._is_free,
        )

    def batch_keys(self, number: int, share: RankShare) -> list[int]:
        """Counters of a rank's samples of an extra batch, by the batch's number over the whole run."""
        return share.counters(number)

    def __getitem__(self, counter: int) -> Sample:
        """Render one view.

        Raises:
            DamagedViewError: it can't be read, or no view can be read in its place.
        """
        views: list[ReadView] = []
        damage: list[str] = []
        for place in self.order.places(counter):
            _, view, messages = first_whole(self.order.candidates(place), self._read, on_damage=self._on_damage)
            views.append(view)
            # A view that was replaced counts once, however many of its shard were tried.
            damage += messages[:1]
        labelled, pictures = self._composed(views, counter) if self._is_free else (views[0].labelled, views[0].pictures)
        target = cached_target(labelled, self.cache, image_id=-1 - counter)
        return Sample(rendered(labelled.view, pictures), target, "+".join(view.name for view in views), tuple(damage))

    def _composed(self, views: list[ReadView], counter: int) -> tuple[LabelledView, dict[int, Image.Image]]:
        spec = self.cache.source.spec
        rng = np.random.default_rng([self._seed, MOSAIC_STREAM, counter])
        mosaic, pictures = free_mosaic(views, geometry=spec.views.geometry, rng=rng)
        return with_nearest_labels(mosaic, views, teacher_size=spec.region_encoder.teacher_size), pictures

    def _read(self, place: ViewPlace) -> ReadView:
        view = self.reader.read(place)
        if self._is_free:
            require_whole_crops(view)
        return view


def sharing_notes(dataset: ExtraDataset, *, world_size: int, pictures_a_draw: int, workers: int) -> tuple[str, ...]:
    """What a user should know about how ranks and workers share the blocks; usually nothing.

    Args:
        dataset: the extra data.
        world_size: ranks.
        pictures_a_draw: consecutive samples that one rank reads.
        workers: loader processes a rank; 0 is the rank itself.
    """
    blocks, lanes = dataset.cache.blocks, dataset.order.lanes
    readers = world_size * max(workers, 1)
    notes = []
    if blocks < readers:
        notes.append(
            f"extra data: {blocks} blocks for {world_size} ranks x {max(workers, 1)} workers; blocks are read more "
            "than once"
        )
    if world_size > 1 and lanes % (world_size * pictures_a_draw):
        notes.append(
            f"extra data: {lanes} lanes are no multiple of {world_size} ranks x {pictures_a_draw} pictures a draw; "
            "blocks are read more than once"
        )
    return tuple(notes)
