"""Several caches of extra data as one: each batch is of one of them, in proportion to their weights."""

from collections.abc import Sequence
from fractions import Fraction

from torch.utils.data import Dataset

from richsem_train.data.collate import Sample
from richsem_train.data.extra import ExtraDataset
from richsem_train.data.order import RankShare


def batch_of_mix(number: int, weights: Sequence[float]) -> tuple[int, int]:
    """Which source a batch is drawn from, and how many of its batches came before.

    A closed form, so that any step of a run is found without the ones before it, and as even as whole batches can be:
    after n batches a source of two has had its share of n rounded; of more, the first has, and the others share what
    it leaves in the same way.

    Args:
        number: of the batch, among all of extra data.
        weights: of the sources, above 0.
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


class ExtraMix(Dataset[Sample]):
    """Views of several caches as samples, by source and counter.

    Args:
        sources: the extra data of each cache.
        weights: of the sources; one that weighs twice as much as another gives twice as many batches.
    """

    def __init__(self, sources: Sequence[ExtraDataset], weights: Sequence[float]) -> None:
        self.sources = tuple(sources)
        self.weights = tuple(weights)

    def batch_keys(self, number: int, share: RankShare) -> list[tuple[int, int]]:
        """Source and counter of a rank's samples of an extra batch."""
        source, batch = batch_of_mix(number, self.weights)
        return [(source, counter) for counter in self.sources[source].batch_keys(batch, share)]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """Render one view.

        Raises:
            DamagedViewError: it can't be read, or no view can be read in its place.
        """
        source, counter = key
        return self.sources[source][counter]
