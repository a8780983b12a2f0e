"""Shards in this very process: for tests, debuggers and machines where Ray can't run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

from richsem_prep.executors.failures import ATTEMPTS, POLL_SECONDS, failure_of
from richsem_prep.shard.progress import OnProgress, Progress, ShardOutcome
from richsem_prep.teacher.worker_settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from richsem_prep.executors.worker import Worker


class InlineExecutor:
    """One worker."""

    workers = 1

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._worker: Worker | None = None

    def start(self, shards: int) -> None:
        """One worker makes any number of shards."""

    def describe(self) -> WorkerDescription:
        """Load the teacher; what it is."""
        from richsem_prep.executors.worker import Worker  # noqa: PLC0415 - torch is loaded when it is needed

        self._worker = Worker(self._settings)
        return self._worker.describe()

    def text_bank(self, vocabulary: Vocabulary, names: str, on_progress: OnProgress) -> TextBank:
        """Make the text bank here."""
        assert self._worker is not None
        with _watched(self._worker.progress, on_progress):
            return self._worker.text_bank(vocabulary, names)  # type: ignore[arg-type]

    def run(
        self, shards: Sequence[int], layout: CacheLayout, label_set: str, root: Place | None, on_progress: OnProgress
    ) -> Iterator[ShardOutcome]:
        """Make shards one after the other."""
        assert self._worker is not None
        self._worker.open(layout, label_set, root)
        for shard in shards:
            yield self._run_with_retries(shard, on_progress)

    def _run_with_retries(self, shard: int, on_progress: OnProgress) -> ShardOutcome:
        assert self._worker is not None
        failure = None
        for _ in range(ATTEMPTS):
            try:
                with _watched(self._worker.progress, on_progress):
                    return ShardOutcome(shard, self._worker.run(shard), None)
            except Exception as error:
                failure = failure_of(error)
                if failure.fatal and isinstance(error, RichSemError):
                    raise
                if failure.fatal:
                    raise RichSemError(failure.message) from error
                if failure.lasting:
                    break
        return ShardOutcome(shard, None, failure)

    def close(self) -> None:
        """Nothing runs on."""
        self._worker = None


@contextmanager
def _watched(progress: Progress, on_progress: OnProgress) -> Iterator[None]:
    done = Event()

    def report() -> None:
        while not done.wait(POLL_SECONDS):
            on_progress(progress)

    watcher = Thread(target=report, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
        on_progress(progress)
