"""The extra data: views of a cache as samples, and several caches in proportion to their weights."""

from collections.abc import Sequence
from fractions import Fraction
from functools import partial

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.recipes import PICTURES_PER_MOSAIC
from richsem_schemas.cache.view import without_rest
from richsem_train.choices import OnDamage
from richsem_train.data.cache.blocks import BlockReader
from richsem_train.data.cache.free_mosaics import (
    MOSAIC_STREAM,
    free_mosaic,
    require_whole_crops,
    with_nearest_labels,
)
from richsem_train.data.cache.lanes import LaneOrder, ViewAddress
from richsem_train.data.cache.source import TrainingCache
from richsem_train.data.cache.views import ReadView
from richsem_train.data.collate import Sample
from richsem_train.data.damage import DamagedViewError, first_whole
from richsem_train.data.order import RankShare
from richsem_train.data.soft_labels import cached_target
from richsem_train.data.transforms import render

BLOCK_BYTES = 512 * 2**20
"""Most bytes of blocks that a worker keeps; 64 lanes of ImageNet pictures take 450 MiB."""


class ExtraDataset(Dataset[Sample]):
    """Views of a cache as samples, by their counter over the whole run.

    What a sample shows is a function of the seed and the counter, whoever asks for it and whenever; where the cache is
    damaged and `on_damage` is "skip", of the damage as well. Samples are drawn from `lanes` blocks in turn, of which
    each of `world_size` ranks keeps its own, up to `block_bytes` a worker.
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

    def largest_hw(self, counters: Sequence[int]) -> tuple[int, int] | None:
        """What the sides of samples will be at most, unless one is damaged; None where that isn't known.

        Mosaics are all of one size.
        """
        if self.cache.expected.views != "crops":
            return None
        try:
            views = [self.reader.view(address) for counter in counters for address in self.order.addresses(counter)]
        except DamagedViewError:
            return None
        heights, widths = zip(*(without_rest(labelled.view).canvas_hw for labelled in views), strict=True)
        return max(heights), max(widths)

    def __getitem__(self, counter: int) -> Sample:
        """Render one view.

        Raises:
            DamagedViewError: it can't be read, or no view can be read in its place.
        """
        views: list[ReadView] = []
        damage: list[str] = []
        for address in self.order.addresses(counter):
            _, view, messages = first_whole(self.order.candidates(address), self._read, on_damage=self._on_damage)
            views.append(view)
            # A view that was replaced counts once, however many of its shard were tried.
            damage += messages[:1]
        labelled, pictures = self._composed(views, counter) if self._is_free else (views[0].labelled, views[0].pictures)
        truth = partial(cached_target, labelled, self.cache, image_id=-1 - counter, is_extra=True)
        return Sample(render(labelled.view, pictures), truth, "+".join(view.name for view in views), tuple(damage))

    def _composed(self, views: list[ReadView], counter: int) -> tuple[LabelledView, dict[int, Image.Image]]:
        spec = self.cache.source.spec
        rng = np.random.default_rng([self._seed, MOSAIC_STREAM, counter])
        mosaic, pictures = free_mosaic(views, geometry=spec.views.geometry, rng=rng)
        return with_nearest_labels(mosaic, views, teacher_size=spec.region_encoder.teacher_size), pictures

    def _read(self, address: ViewAddress) -> ReadView:
        view = self.reader.read(address)
        if self._is_free:
            require_whole_crops(view)
        return view


class ExtraMix(Dataset[Sample]):
    """Views of several caches as samples, by source and counter.

    A source that weighs twice as much as another gives twice as many batches.
    """

    def __init__(self, sources: Sequence[ExtraDataset], weights: Sequence[float]) -> None:
        self.sources = tuple(sources)
        self.weights = tuple(weights)

    def batch_keys(self, number: int, share: RankShare) -> list[tuple[int, int]]:
        """Source and counter of a rank's samples of an extra batch."""
        source, batch = batch_of_mix(number, self.weights)
        return [(source, counter) for counter in self.sources[source].batch_keys(batch, share)]

    def largest_hw(self, keys: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """What the sides of a batch's samples will be at most, unless one is damaged; None where that isn't known."""
        (source,) = {source for source, _ in keys}
        return self.sources[source].largest_hw([counter for _, counter in keys])

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Render one view.

        Raises:
            DamagedViewError: it can't be read, or no view can be read in its place.
        """
        source, counter = key
        return self.sources[source][counter]


def batch_of_mix(number: int, weights: Sequence[float]) -> tuple[int, int]:
    """Which source a batch of extra data is drawn from, by its number, and how many of that source's came before.

    A closed form, so that any step of a run is found without the ones before it, and as even as whole batches can be:
    after n batches a source of two has had its share of n rounded; of more, the first has, and the others share what it
    leaves in the same way.
    """
    exact = [Fraction(weight) for weight in weights]
    for source, weight in enumerate(exact[:-1]):
        share = weight / sum(exact[source:])
        before, after = (_rounded(share * count) for count in (number, number + 1))
        if after > before:
            return source, before
        number -= before
    return len(exact) - 1, number


def _rounded(value: Fraction) -> int:
    """To the nearest integer, halves up."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


def sharing_notes(dataset: ExtraDataset, *, world_size: int, pictures_a_draw: int, workers: int) -> tuple[str, ...]:
    """Notes for the user on how ranks and workers share the blocks; usually none."""
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
