"""`richsem-prep audit`."""

import math
from typing import Annotated

import typer
from rich.console import Console

from richsem_prep.commands.options import Device, LabelSet, Originals, Out
from richsem_schemas.errors import RichSemError
from richsem_schemas.program import AsJson, print_json


def audit(
    out: Out,
    teacher: Annotated[str, typer.Option(help="The one that made the set, as `shard` takes it.")],
    samples: Annotated[int, typer.Option(min=1, help="Regions to show to the teacher again.")] = 256,
    label_set: LabelSet = None,
    min_cosine: Annotated[
        float | None,
        typer.Option(
            min=-1, max=1, help="Fail where an embedding lies farther off. \\[default: 0.999; of int8 ones 0.99]"
        ),
    ] = None,
    max_kl: Annotated[
        float | None,
        typer.Option(min=0, help="Fail where a soft label lies farther off, nats. \\[default: 0.05]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Another one chooses other regions.")] = 0,
    root: Originals = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show random regions of a cache to the live teacher again, and compare with what is stored.

    Refuses another teacher than the one that made the label set, by the field
    that differs. The outcome is kept in OUT/audits; `inspect` shows the last one.
    Exits with 1 where a cosine or a KL is out of bounds.

    [bold]Examples[/bold]

      richsem-prep audit caches/inet-lvis --teacher RN50:openai
      richsem-prep audit caches/lvis --teacher RN50:openai --samples 4000 --seed 1
    """
    from richsem_prep.console import counting_bar
    from richsem_prep.explore import audit as auditing
    from richsem_prep.explore.audit_records import audit_line, audit_table
    from richsem_schemas.cache.reader import open_cache
    from richsem_schemas.io.places import open_place

    if max_kl is not None and not math.isfinite(max_kl):
        raise RichSemError(f"--max-kl {max_kl} bounds nothing; give a number of nats, such as 0.05")
    cache = open_cache(out, only=label_set)
    name = cache.label_set(label_set).name
    request = auditing.AuditRequest(
        teacher, samples, seed, min_cosine, max_kl, device, open_place(root) if root else None
    )
    with counting_bar("audit", "regions") as on_progress:
        record = auditing.audit(cache, name, request, on_progress=on_progress)
    if as_json:
        print_json(record)
    else:
        Console().print(audit_table(record))
        typer.echo(audit_line(record))
    if not record.passed:
        raise typer.Exit(1)
