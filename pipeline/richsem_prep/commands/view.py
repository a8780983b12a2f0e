"""`richsem-prep view`."""

from pathlib import Path
from typing import Annotated

import typer

from richsem_prep.commands.options import LabelSet, Originals, Out
from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.io.places import local_path


def view(
    out: Out,
    html: Annotated[Path, typer.Option(metavar="PATH", help="The page to write.", parser=local_path)],
    label_set: LabelSet = None,
    views: Annotated[int, typer.Option(min=1, max=500, help="How many views to show.")] = 12,
    root: Originals = None,
    as_json: AsJson = False,
) -> None:
    """Write a page that shows views with their boxes and soft labels; one file, to open in any browser.

    [bold]Example[/bold]

      richsem-prep view caches/inet-lvis --html views.html
    """
    from richsem_prep.explore.page import write_page
    from richsem_schemas.cache.reader import open_cache
    from richsem_schemas.io.places import open_place

    cache = open_cache(out)
    name = cache.label_set(label_set).name
    shown = write_page(cache, name, html, views=views, root=open_place(root) if root else None)
    if as_json:
        print_json({"html": html, "views": shown})
    else:
        typer.echo(f"{html}: {shown} views")
