"""The object of a Ray actor; needs no Ray itself."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from richsem_prep.executors.failures import failure_of
from richsem_prep.shard.progress import Failure, Progress, ShardResult
from richsem_prep.teacher.worker_settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from richsem_prep.executors.worker import Worker


class RayWorker:
    """The object of an actor: a `Worker` whose mistakes come back as values."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._not_started = Failure("the worker was asked to work before it was started", fatal=False)

    def start(self, settings: WorkerSettings) -> WorkerDescription | Failure:
        """Load the teacher."""
        from richsem_prep.executors.worker import Worker  # noqa: PLC0415 - the driver needs no torch

        def load() -> WorkerDescription:
            self._worker = Worker(settings)
            return self._worker.describe()

        described = _as_value(load)
        if isinstance(described, Failure):
            self._not_started = described
        return described

    def text_bank(self, vocabulary: Vocabulary, names: str) -> TextBank | Failure:
        """Make the text bank."""
        assert self._worker is not None
        return _as_value(lambda: self._worker.text_bank(vocabulary, names))  # type: ignore[union-attr, arg-type]

    def open(self, layout: CacheLayout, label_set: str, root: Place | None) -> Failure | None:
        """Get ready for a label set."""
        if self._worker is None:
            return self._not_started
        return _as_value(lambda: self._worker.open(layout, label_set, root))  # type: ignore[union-attr]

    def run(self, shard: int) -> ShardResult | Failure:
        """Make one shard."""
        return _as_value(lambda: self._worker.run(shard))  # type: ignore[union-attr]

    def progress(self) -> Progress | None:
        """Counters, answered while a shard is being made."""
        return replace(self._worker.progress) if self._worker else None


def _as_value(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return failure_of(error)
