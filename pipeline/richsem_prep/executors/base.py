"""How shards are handed to workers, and what comes back: values, never tracebacks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

from richsem_prep.executors.progress import Progress
from richsem_prep.teacher.settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.errors import EmbeddingError, RichSemError
from richsem_schemas.io.output_files import FULL
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import os_error_text
from richsem_schemas.vocabularies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from richsem_prep.executors.worker import Worker
    from richsem_prep.shard.task import ShardResult

ATTEMPTS = 3
"""Times a shard is tried before it counts as failed."""

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Failure:
    """A call to a worker that went wrong.

    Attributes:
        message: for the user.
        fatal: it would go wrong for every shard, so the run ends.
        lasting: it would go wrong again for the same shard, which isn't tried again.
    """

    message: str
    fatal: bool
    lasting: bool = False


@dataclass(frozen=True)
class ShardOutcome:
    """A shard that is done with: made, or given up."""

    shard: int
    result: "ShardResult | None"
    failure: Failure | None


OnProgress = Callable[[Progress], None]


class Executor(Protocol):
    """Runs workers somewhere."""

    workers: int

    def describe(self) -> WorkerDescription:
        """Start the workers; what they are."""

    def text_bank(self, vocabulary: Vocabulary, names: str, on_progress: OnProgress) -> TextBank:
        """Have one worker make the text bank."""

    def run(
        self, shards: Sequence[int], layout: CacheLayout, labels: str, root: Place | None, on_progress: OnProgress
    ) -> Iterator[ShardOutcome]:
        """Make shards, in any order; each outcome as it comes.

        Raises:
            RichSemError: something that would fail every shard.
        """

    def close(self) -> None:
        """Stop the workers."""


def failure_of(error: Exception) -> Failure:
    """What an exception in a worker means for the run."""
    if isinstance(error, EmbeddingError):
        return Failure(str(error), fatal=False, lasting=True)
    if isinstance(error, RichSemError):
        return Failure(str(error), fatal=True)
    if isinstance(error, OSError) and error.errno in FULL:
        return Failure(
            f"{os_error_text(error)}; free some and run the same command again, finished shards are kept", fatal=True
        )
    if isinstance(error, FileNotFoundError):
        return Failure(f"{os_error_text(error)}; is its disk mounted, or was its folder removed?", fatal=False)
    if isinstance(error, OSError):
        return Failure(os_error_text(error), fatal=False)
    return Failure(f"{type(error).__name__}: {error}", fatal=False)


class InlineExecutor:
    """One worker in this very process: for tests, debuggers and machines where Ray can't run."""

    workers = 1

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._worker: Worker | None = None

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
        self, shards: Sequence[int], layout: CacheLayout, labels: str, root: Place | None, on_progress: OnProgress
    ) -> Iterator[ShardOutcome]:
        """Make shards one after the other."""
        assert self._worker is not None
        self._worker.open(layout, labels, root)
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
    """Report the counters from a thread while the block runs."""
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
