"""`richsem-prep pull`."""

from typing import Annotated

import typer

from richsem_prep.commands.options import LabelSet, Repo
from richsem_schemas.command_line import AsJson, figures, print_json


def pull(
    repo: Repo,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="A cache of the same plan, a new folder, or the URL of one.")
    ],
    label_set: LabelSet = None,
    as_json: AsJson = False,
) -> None:
    """Fetch a label set that somebody pushed: into a cache of the same pictures, or into a folder of its own.

    Every file is checked against its hash. The same pull again fetches what is missing.

    [bold]Examples[/bold]

      richsem-prep pull my-group/inet-lvis-rn50 caches/inet-lvis
      richsem-prep pull my-group/labels caches/labels --label-set RN50-openai
    """
    from richsem_prep.console import bytes_bar
    from richsem_prep.hub.hub import HubRepo
    from richsem_prep.hub.pull import pull as pull_labels
    from richsem_schemas.io.places import open_place
    from richsem_schemas.io.words import readable_bytes

    with bytes_bar("pull") as on_progress:
        done = pull_labels(HubRepo(repo), open_place(out).absolute(), label_set=label_set, on_progress=on_progress)
    if as_json:
        print_json(figures(done))
        return
    there = f", {done.already:,} of them there already" if done.already else ""
    typer.echo(f"{out}: label set {done.label_set}, {done.shards:,} shards{there}, {readable_bytes(done.bytes)}")
    if not done.has_pictures:
        typer.echo("its pictures are elsewhere: train with `labels_from` beside a cache of the same plan")
