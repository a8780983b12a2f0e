"""`richsem-prep estimate`."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

_OF_RUNS = {"overwrite": False, "retry_failed": False, "shard_range": None}
"""Options of `shard` about an OUT that is there, and what they are here whatever was given."""


def estimate_like(shard: Callable[..., None], shard_config: Callable[..., Any]) -> Callable[..., None]:
    """The command `estimate`: it takes the options of `shard`, so that a command line serves both.

    Args:
        shard: the command.
        shard_config: makes a config of its options.
    """

    def estimate(
        samples: Annotated[int, typer.Option(min=1, help="Pictures to measure.", rich_help_panel="Estimate")] = 256,
        seconds: Annotated[
            float,
            typer.Option(min=1, help="Measure no more pictures after so much time.", rich_help_panel="Estimate"),
        ] = 120.0,
        **options: Any,
    ) -> None:
        """Say what `shard` with the same options would take: bytes, device hours, wall time.

        Makes a cache of some pictures, drawn from all, in a temporary folder;
        nothing is written into OUT. Says also after how many training runs the
        cache has paid for itself against a teacher inside of the training step.

        [bold]Example[/bold]

          richsem-prep estimate --dataset lvis --teacher ViT-L-14:openai --workers 8
        """
        from richsem_prep.console import ConsoleReporter
        from richsem_prep.shard.estimate import estimate as measure
        from richsem_prep.shard.estimate import estimate_table

        config = shard_config(**(options | _OF_RUNS | {"from_cache": None}))
        with ConsoleReporter(Console(stderr=True)) as reporter:
            found = measure(config, reporter, samples=samples, seconds=seconds)
        Console().print(estimate_table(found))

    own = inspect.signature(estimate).parameters.values()
    # What a cache holds takes as long as the raw data that it was made of.
    shared = [item for name, item in inspect.signature(shard).parameters.items() if name != "from_cache"]
    parameters = [*shared, *(item for item in own if item.kind is not inspect.Parameter.VAR_KEYWORD)]
    estimate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    estimate.__annotations__ = {item.name: item.annotation for item in parameters}
    return estimate
