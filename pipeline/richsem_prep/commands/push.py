"""`richsem-prep push`."""

from typing import Annotated

import typer


def push(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder of the cache, or its URL.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="Dataset repository: ORGANISATION/NAME.")],
    labels: Annotated[str | None, typer.Option(help="Name of the label set; needed where there are several.")] = None,
    with_pictures: Annotated[
        str | None,
        typer.Option(
            metavar="LICENCE",
            help="Push the pictures as well, under this licence, such as cc-by-4.0. Most datasets may not be "
            "given away. \\[default: labels alone]",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private/--public", help="Who sees a repository that is made now.")] = True,
) -> None:
    """Share a label set: upload it to a dataset repository on the Hugging Face hub, with a card that describes it.

    The same push again goes on where one stopped. Log in with `hf auth login` first.

    [bold]Examples[/bold]

      richsem-prep push caches/inet-lvis my-group/inet-lvis-rn50
      richsem-prep push caches/lvis group/labels --labels RN50-openai --public
      richsem-prep push caches/mine my-group/mine --with-pictures cc-by-4.0
    """
    from richsem_prep.hub.hub import HubRepo
    from richsem_prep.hub.push import push as push_labels
    from richsem_schemas.io.places import open_place
    from richsem_schemas.io.words import readable_bytes

    done = push_labels(
        open_place(out).absolute(), HubRepo(repo), label_set=labels, with_pictures=with_pictures, private=private
    )
    there = f", {done.already:,} of them there already" if done.already else ""
    typer.echo(f"{repo}: label set {done.label_set}, {done.files:,} files{there}, {readable_bytes(done.bytes)}")
    typer.echo(f"to fetch it: richsem-prep pull {repo} OUT --labels {done.label_set}")
