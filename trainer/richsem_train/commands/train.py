"""`richsem-train` without a command's name."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from richsem_schemas.command_line import AsJson, Version, print_json
from richsem_schemas.io.places import local_path
from richsem_train.commands.options import Changes, Device

STOPPED = 143
"""Exit code after SIGTERM, as the shell has it; Ctrl-C is 130."""


def train(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(help="One that comes with the package, or a YAML file. \\[default: richsem_r50_inet_lvis]"),
    ] = None,
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Folder of the run: checkpoints, log, results. \\[default: runs/CONFIG]",
            parser=local_path,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUT from its last checkpoint.")
    ] = False,
    device: Device = None,
    list_configs: Annotated[
        bool, typer.Option("--list-configs", help="Name the configs that come with the package.")
    ] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the config as it would be used.")] = False,
    as_json: AsJson = False,
    _version: Version = False,
) -> None:
    """Train a detector that learns CLIP's semantics from a cache.

    [bold]Examples[/bold]

      The paper's ResNet-50, from $RICHSEM_DATA/lvis and caches/inet-lvis:
      richsem-train
      torchrun --nproc-per-node 8 -m richsem_train

      Another config, another value, a folder of its own; then go on with it:
      richsem-train --config demo --set schedule.epochs=4 --out runs/trial
      richsem-train --config demo --set schedule.epochs=4 --out runs/trial --resume

      Then use it:
      richsem-train eval runs/trial/checkpoints/best.pt
      richsem-train predict runs/trial/checkpoints/best.pt *.jpg --out seen
      richsem-train export runs/trial/checkpoints/best.pt
    """
    if context.invoked_subcommand is not None:
        return
    from richsem_train.config import DEFAULT_CONFIG, builtin_configs, config_yaml, load_config

    if list_configs:
        _print_configs({name: _first_comment(path) for name, path in builtin_configs().items()}, as_json=as_json)
        return
    wanted = load_config(DEFAULT_CONFIG if config is None else config, changes or [])
    if show_config:
        print_json(wanted) if as_json else typer.echo(config_yaml(wanted), nl=False)
        return
    from richsem_train.run.named_files import require_data

    # Several ranks are told first what they can't be, and then look by themselves.
    if "WORLD_SIZE" not in os.environ:
        require_data(wanted)
    from richsem_train.console import ConsoleReporter
    from richsem_train.run import training
    from richsem_train.run.folder import RunFolder

    with ConsoleReporter(Console(stderr=True)) as reporter:
        run = training.train(wanted, out, resume=resume, device=device, reporter=reporter)
    if run.stopped_by is not None:
        raise typer.Exit(130 if run.stopped_by == "SIGINT" else STOPPED)
    if run.table is not None and as_json:
        typer.echo(RunFolder(run.out).results.read_text(encoding="utf-8"), nl=False)
    elif run.table is not None:
        Console().print(run.table)


def _print_configs(abouts: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json(abouts)
        return
    width = max(map(len, abouts))
    for name, about in abouts.items():
        typer.echo(f"{name:{width}} {about}")


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
