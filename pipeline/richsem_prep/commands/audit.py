"""`richsem-prep audit`."""

import typer
from rich.console import Console

from richsem_prep.commands.options import Device, LabelSet, Originals, Out
from richsem_prep.explore.audit_request import AuditRequest
from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.options import with_options_of_models


@with_options_of_models
def audit(
    out: Out,
    request: AuditRequest,
    label_set: LabelSet = None,
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
    from richsem_prep.explore.audit import audit as run
    from richsem_prep.explore.audit_records import audit_line, audit_table
    from richsem_schemas.cache.reader import open_cache
    from richsem_schemas.io.places import open_place

    cache = open_cache(out, only=label_set)
    name = cache.label_set(label_set).name
    originals = open_place(root) if root else None
    with counting_bar("audit", "regions") as on_progress:
        record = run(cache, name, request, device=device, root=originals, on_progress=on_progress)
    if as_json:
        print_json(record)
    else:
        Console().print(audit_table(record))
        typer.echo(audit_line(record))
    if not record.passed:
        raise typer.Exit(1)
