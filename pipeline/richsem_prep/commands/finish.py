"""`richsem-prep finish`."""

import typer

from richsem_prep.commands.options import LabelSet, Out
from richsem_schemas.errors import RichSemError


def finish(out: Out, label_set: LabelSet = None) -> None:
    """Write the manifests after runs with --shard-range, once every shard is there.

    [bold]Example[/bold]

      richsem-prep finish caches/inet-lvis
    """
    from richsem_prep.shard.finish import finish_cache, finished_sets
    from richsem_schemas.cache.reader import find_layout
    from richsem_schemas.io.places import open_place

    layout = find_layout(open_place(out))
    begun = layout.label_sets()
    if label_set is not None and label_set not in begun:
        raise RichSemError(f"{out} has no label set {label_set!r}; it has: {', '.join(begun) or 'none'}")
    sets = [label_set] if label_set else finished_sets(layout) or begun
    for note in finish_cache(layout, sets):
        typer.echo(f"note: {note}")
    typer.echo(f"{out} is finished: {', '.join(sets)}")
    if label_set is None and (unfinished := sorted(set(begun) - set(sets))):
        typer.echo(f"not finished yet: {', '.join(unfinished)}")
