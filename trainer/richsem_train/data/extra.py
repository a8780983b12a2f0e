"""The extra data: a cache opened for training, and its views as samples."""

import numpy as np
import torch
from torch.utils.data import Dataset

from richsem_schemas.io.places import Place
from richsem_train.data.cache.free_mosaics import (
    CROPS_PER_MOSAIC,
    MOSAIC_STREAM,
    free_mosaic,
    require_whole_crops,
    with_nearest_labels,
)
from richsem_train.data.cache.lanes import LaneOrder, ViewPlace
from richsem_train.data.cache.source import ExpectedCache, TrainingCache, open_training_cache
from richsem_train.data.cache.views import DamagedViewError, ReadView, ViewReader
from richsem_train.data.collate import Sample
from richsem_train.data.damage import OnDamage
from richsem_train.data.order import RankShare
from richsem_train.data.soft_labels import check_teachable, view_target
from richsem_train.data.transforms import rendered
from richsem_train.targets import Target

BLOCK_BYTES = 512 * 2**20
"""Most bytes of blocks that a worker keeps; 64 lanes of ImageNet pictures take 450 MiB."""


def open_extra(
    out: Place,
    *,
    label_set: str | None = None,
    expected: ExpectedCache,
    root: Place | None = None,
    labels_from: Place | None = None,
) -> TrainingCache:
    """Open a cache of extra data; see `open_training_cache`.

    Raises:
        RichSemError: it is none, or not one that the run needs, or hard labels are to be learnt without labels.
    """
    check_teachable(expected.labels, expected.supervision)
    return open_training_cache(out, label_set=label_set, expected=expected, root=root, labels_from=labels_from)


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
            cache.source.files.pass_views, cache.source.passes, lanes, seed, CROPS_PER_MOSAIC if self._is_free else 1
        )
        self._seed = seed
        self._on_damage = on_damage
        lanes_held = -(-lanes // world_size)
        held_bytes = lanes_held * (cache.mean_block_bytes + (cache.mean_label_bytes if self._is_free else 0))
        self.reader = ViewReader(
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
        damage: list[str] = []
        views = [self._read(place, damage) for place in self.order.places(counter)]
        if self._is_free:
            pixels, target = self._composed(views, counter)
        else:
            pixels, target = self._stored(views[0], counter)
        return Sample(pixels, target, "+".join(view.name for view in views), tuple(damage))

    def _stored(self, view: ReadView, counter: int) -> tuple[torch.Tensor, Target]:
        expected = self.cache.expected
        target = view_target(
            view.labelled, expected.labels, expected.supervision, rows=self.cache.rows, image_id=-1 - counter
        )
        return rendered(view.labelled.view, view.pictures), target

    def _composed(self, pictures: list[ReadView], counter: int) -> tuple[torch.Tensor, Target]:
        spec, expected = self.cache.source.spec, self.cache.expected
        rng = np.random.default_rng([self._seed, MOSAIC_STREAM, counter])
        mosaic, shown = free_mosaic(pictures, geometry=spec.views.geometry, rng=rng)
        labelled = with_nearest_labels(mosaic, pictures, teacher_size=spec.region_encoder.teacher_size)
        target = view_target(
            labelled, expected.labels, expected.supervision, rows=self.cache.rows, image_id=-1 - counter
        )
        return rendered(mosaic, shown), target

    def _read(self, place: ViewPlace, damage: list[str]) -> ReadView:
        """The view at a place, or one that takes its place; damage is appended to."""
        try:
            return self._read_usable(place)
        except DamagedViewError as error:
            if self._on_damage == "stop":
                raise
            damage.append(str(error))
        attempt = 0
        while (other := self.order.substitute(place, attempt)) is not None:
            attempt += 1
            try:
                return self._read_usable(other)
            except DamagedViewError:
                continue
        raise DamagedViewError(f"{damage[-1]}; {attempt} other views were tried in its place, all are damaged")

    def _read_usable(self, place: ViewPlace) -> ReadView:
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
