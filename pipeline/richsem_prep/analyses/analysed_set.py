"""A label set whose boxes are analysed: opened, checked for the views that it needs, gone through shard by shard."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from richsem_prep.analyses.analysis_request import LabelForm
from richsem_prep.analyses.box_batches import BoxBatch
from richsem_prep.analyses.box_labels import LabelReader, SoftLabels, label_reader, require_top_k
from richsem_prep.analyses.judged_classes import JudgedClasses, judged_classes
from richsem_schemas.cache.manifest import LabelManifest, LabelSpec
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.ordered_map import default_threads, ordered_map

OnProgress = Callable[[int, int], None]
_Result = TypeVar("_Result")


@dataclass(frozen=True, eq=False)
class AnalysedSet:
    """A label set of wholes, or of windows where these serve as well.

    Attributes:
        top_k: numbers of most probable classes, ascending.
    """

    cache: Cache
    manifest: LabelManifest
    reader: LabelReader
    classes: JudgedClasses
    top_k: tuple[int, ...]

    @property
    def spec(self) -> LabelSpec:
        """Of the label set."""
        return self.manifest.spec

    def each_shard(
        self, function: Callable[[LabelShard], _Result], threads: int | None, on_progress: OnProgress | None
    ) -> Iterator[_Result]:
        """What a function makes of each shard, in their order, several at a time."""
        threads = threads or default_threads()
        shards = [self.cache.label_shard(self.manifest.name, each.shard) for each in self.manifest.shards]
        with ThreadPoolExecutor(threads) as pool:
            for number, result in enumerate(ordered_map(pool, function, shards, ahead=threads), 1):
                yield result
                if on_progress:
                    on_progress(number, len(shards))

    def read(self, batch: BoxBatch, shard: LabelShard) -> SoftLabels:
        """The soft labels of some boxes, whose classes are rows of the vocabulary.

        Raises:
            CorruptCacheError: they can't be labels of this set.
        """
        category_ids: Any = batch.regions["category_id"]
        try:
            if len(batch) and not 0 <= category_ids.min() <= category_ids.max() < len(self.classes.names):
                raise CorruptCacheError("a category_id is not in the vocabulary")
            return self.reader.read(batch.regions)
        except CorruptCacheError as error:
            raise CorruptCacheError(f"{shard.tar}: {error}; {shard.remedy}") from None


def open_set(
    cache: Cache,
    label_set: str | None,
    *,
    form: LabelForm | None = None,
    top_k: tuple[int, ...] = (1, 5, 10),
    frequencies: Mapping[str, str] | None = None,
    may_be_windows: bool = False,
) -> AnalysedSet:
    """A label set with its wholes, ready to be analysed.

    Args:
        cache: that holds it.
        label_set: its name; None is the only one.
        form: of the labels; None is from embeddings where there are any.
        top_k: numbers of most probable classes, ascending, as the paper has them.
        frequencies: r, c or f by the name of a class; None is what is known of its vocabulary.
        may_be_windows: take a set that has windows alone, too.

    Raises:
        RichSemError: there is no such set, it has no wholes, or its labels don't tell what is asked for.
    """
    manifest = cache.label_set(label_set)
    if not (may_be_windows and manifest.spec.views.windows):
        _require_wholes(manifest)
    reader = label_reader(cache, manifest, form)
    require_top_k(top_k, reader, manifest)
    text_names = cache.text_bank(manifest.name).class_names
    classes = judged_classes(cache.manifest.plan.vocabulary, text_names, frequencies)
    return AnalysedSet(cache, manifest, reader, classes, top_k)


def _require_wholes(manifest: LabelManifest) -> None:
    views = manifest.spec.views
    if views.whole:
        return
    if not views.has_boxes:
        raise RichSemError(
            f"label set {manifest.name} shows crops and mosaics of pictures without annotated boxes; analyses are of "
            "boxes: make a cache of detection data with `richsem-prep shard --dataset lvis --whole --windows 0`"
        )
    raise RichSemError(
        f"label set {manifest.name} has no wholes, which show each picture un-augmented with all of its boxes; make a "
        "label set of them: the same `richsem-prep shard` with --whole --windows 0 and another --label-set"
    )


def require_boxes(boxes: int, analysed: AnalysedSet) -> None:
    """Check that there is something to judge.

    Raises:
        RichSemError: not a single box has a class that the text knows.
    """
    if not boxes:
        raise RichSemError(
            f"label set {analysed.manifest.name}: no box of it has a class that its text knows, so none can be judged; "
            "analyses need boxes with classes"
        )
