"""The options of `richsem-prep audit`; quick to import, since every `--help` does."""

import math
from typing import Annotated

import typer
from pydantic import AfterValidator, BaseModel


def _bounding(nats: float) -> float:
    if not math.isfinite(nats):
        raise ValueError("bounds nothing; give a number of nats, such as 0.05")
    return nats


class AuditRequest(BaseModel, frozen=True, extra="forbid"):
    """Which regions are shown to which teacher, and how far both may lie apart."""

    teacher: Annotated[str, typer.Option(help="The one that made the set, as `shard` takes it.")]
    samples: Annotated[int, typer.Option(min=1, help="Regions to show to the teacher again.")] = 256
    min_cosine: Annotated[
        float | None,
        typer.Option(
            min=-1, max=1, help="Fail where an embedding lies farther off. \\[default: 0.999; of int8 ones 0.99]"
        ),
    ] = None
    max_kl: Annotated[
        Annotated[float, AfterValidator(_bounding)] | None,
        typer.Option(min=0, help="Fail where a soft label lies farther off, nats. \\[default: 0.05]"),
    ] = None
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another one chooses other regions.")] = 0
