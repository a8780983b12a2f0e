"""`richsem-prep inspect`."""

from rich.console import Console

from richsem_prep.commands.options import LabelSet, Out
from richsem_schemas.command_line import AsJson, figures, print_json


def inspect(out: Out, label_set: LabelSet = None, as_json: AsJson = False) -> None:
    """Show what a label set is, what it weighs, and what its soft labels say.

    [bold]Example[/bold]

      richsem-prep inspect caches/inet-lvis
    """
    from richsem_prep.explore.inspect import inspect_label_set, statistics_table
    from richsem_schemas.cache.reader import open_cache

    cache = open_cache(out)
    statistics = inspect_label_set(cache, cache.label_set(label_set).name)
    if as_json:
        print_json(figures(statistics))
    else:
        Console().print(statistics_table(statistics))
