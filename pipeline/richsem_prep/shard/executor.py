"""What a run asks of an executor; the executors themselves are handed in."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.progress import OnProgress, ShardOutcome
from richsem_prep.teacher.worker_settings import WorkerDescription
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.text_bank import TextBank
from richsem_schemas.io.places import Place
from richsem_schemas.vocabularies.vocabulary import Vocabulary


class Executor(Protocol):
    """Runs workers somewhere."""

    workers: int
    """How many there are, once they have been started."""

    def start(self, shards: int) -> None:
        """Start as many workers as so many shards can use.

        Raises:
            RichSemError: there is no place for them.
        """

    def describe(self) -> WorkerDescription:
        """Wait for the first worker; what they are."""

    def text_bank(self, vocabulary: Vocabulary, names: str, on_progress: OnProgress) -> TextBank:
        """Have one worker make the text bank."""

    def run(
        self, shards: Sequence[int], layout: CacheLayout, label_set: str, root: Place | None, on_progress: OnProgress
    ) -> Iterator[ShardOutcome]:
        """Make shards, in any order; each outcome as it comes.

        Raises:
            RichSemError: something that would fail every shard.
        """

    def close(self) -> None:
        """Stop the workers."""


MakeExecutor = Callable[[ShardConfig], Executor]
"""Makes the executor of a config, which may begin to start while shards are still planned."""
