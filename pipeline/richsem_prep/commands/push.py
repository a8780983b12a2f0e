"""`richsem-prep push`."""

from typing import Annotated

import typer

from richsem_prep.commands.options import LabelSet, Out, Repo
from richsem_schemas.command_line import AsJson, figures, print_json


def push(
    out: Out,
    repo: Repo,
    label_set: LabelSet = None,
    with_pictures: Annotated[
        str | None,
        typer.Option(
            metavar="LICENCE",
            help="Push the pictures as well, under this licence, such as cc-by-4.0. Most datasets may not be "
            "given away. \\[default: labels alone]",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a repository that is made now.")] = True,
    as_json: AsJson = False,
) -> None:
    """Share a label set: upload it to a dataset repository on the Hugging Face hub, with a card that describes it.

    The same push again goes on where one stopped. Log in with `hf auth login` first.

    [bold]Examples[/bold]

      richsem-prep push caches/inet-lvis my-group/inet-lvis-rn50
      richsem-prep push caches/lvis group/labels --label-set RN50-openai --public
      richsem-prep push caches/mine my-group/mine --with-pictures cc-by-4.0
    """
    from richsem_prep.hub.hub import HubRepo
    from richsem_prep.hub.push import push as push_labels
    from richsem_schemas.io.places import open_place
    from richsem_schemas.io.words import readable_bytes

    done = push_labels(
        open_place(out).absolute(), HubRepo(repo), label_set=label_set, with_pictures=with_pictures, private=private
    )
    if as_json:
        print_json(figures(done))
        return
    there = f", {done.already:,} of them there already" if done.already else ""
    typer.echo(f"{repo}: label set {done.label_set}, {done.files:,} files{there}, {readable_bytes(done.bytes)}")
    typer.echo(f"to fetch it: richsem-prep pull {repo} OUT --label-set {done.label_set}")
