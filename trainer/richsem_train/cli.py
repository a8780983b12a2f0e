"""The command line of `richsem-train`; the only place that prints."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import printable_text, told_in_one_line

app = typer.Typer(
    name="richsem-train",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
)

STOPPED = 143
"""Exit code after SIGTERM, as the shell has it; Ctrl-C is 130."""


_Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the config; may be given several times."),
]
_Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, … \\[default: CUDA if there is one]")]
_Checkpoint = Annotated[
    Path,
    typer.Argument(metavar="CHECKPOINT", help="Of a run, or exported, or published DINO's.", parser=local_path),
]
_Config = Annotated[
    str | None, typer.Option("--config", help="For checkpoints of other programs: the config to build the model from.")
]


def run() -> None:
    """Run the command line; mistakes of the user's are one line on standard error and exit code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    errors = Console(stderr=True)
    try:
        app()
    except (RichSemError, OSError) as error:
        errors.print(Text.assemble(("error: ", "bold red"), printable_text(told_in_one_line(error))), soft_wrap=True)
        sys.exit(1)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    config: Annotated[
        str | None,
        typer.Option(help="One that comes with the package, or a YAML file. \\[default: richsem_r50_inet_lvis]"),
    ] = None,
    changes: _Changes = None,
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
    device: _Device = None,
    list_configs: Annotated[
        bool, typer.Option("--list-configs", help="Name the configs that come with the package.")
    ] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the config as it would be used.")] = False,
) -> None:
    """Train a DINO detector that learns CLIP's semantics from a cache.

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
        for name, path in builtin_configs().items():
            typer.echo(f"{name:28} {_first_comment(path)}")
        return
    wanted = load_config(DEFAULT_CONFIG if config is None else config, changes or [])
    if show_config:
        typer.echo(config_yaml(wanted), nl=False)
        return
    from richsem_train.console import ConsoleReporter
    from richsem_train.run import training

    with ConsoleReporter(Console(stderr=True)) as reporter:
        folder = out or Path("runs") / wanted.name
        ended = training.train(wanted, folder, resume=resume, device=device, reporter=reporter)
    if ended.stopped_by is not None:
        raise typer.Exit(130 if ended.stopped_by == "SIGINT" else STOPPED)
    if ended.table is not None:
        Console().print(ended.table)


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


@app.command("eval")
def evaluate(
    checkpoint: _Checkpoint,
    config: _Config = None,
    changes: _Changes = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep the detections in this folder.", parser=local_path)
    ] = None,
    scorer: Annotated[
        Literal["hotcoco", "lvis"],
        typer.Option(help="lvis is LVIS's official evaluator: the same figures, for much time and memory."),
    ] = "hotcoco",
    device: _Device = None,
) -> None:
    """Score a checkpoint on the val split of its config.

    [bold]Examples[/bold]

      richsem-train eval runs/demo/checkpoints/best.pt
      richsem-train eval runs/r50/checkpoints/best.pt --scorer lvis
      richsem-train eval dino_r50_4scale.pth --config dino_r50_coco
    """
    from richsem_train import commands
    from richsem_train.console import ConsoleReporter

    with ConsoleReporter(Console(stderr=True)) as reporter:
        table = commands.evaluate(
            checkpoint,
            config=config,
            changes=changes or [],
            out=out,
            scorer=scorer,
            device=device,
            reporter=reporter,
        )
    if table is not None:
        Console().print(table)


@app.command()
def predict(
    checkpoint: _Checkpoint,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Pictures.", parser=local_path)],
    out: Annotated[
        Path,
        typer.Option(
            metavar="PATH", help="Folder for the pictures with boxes, and predictions.json.", parser=local_path
        ),
    ],
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Lowest score that is drawn.")] = 0.3,
    config: _Config = None,
    changes: _Changes = None,
    device: _Device = None,
) -> None:
    """Detect objects: pictures with boxes, names and scores, rare classes of LVIS in a colour of their own; JSON too.

    [bold]Example[/bold]

      richsem-train predict runs/demo/checkpoints/best.pt photo.jpg --out seen
    """
    from richsem_train import commands
    from richsem_train.console import ConsoleReporter

    with ConsoleReporter(Console(stderr=True)) as reporter:
        outcome = commands.predict(
            checkpoint,
            images,
            out,
            threshold=threshold,
            config=config,
            changes=changes or [],
            device=device,
            reporter=reporter,
        )
    written = f"{out}: {len(outcome.pictures)} pictures and predictions.json"
    if (number := outcome.number_for_name) is not None:
        written += f"; {number} and the like stand for names that no font has, predictions.json has them"
    typer.echo(written)
    if outcome.failed:
        raise RichSemError(f"{len(outcome.failed)} pictures couldn't be read (see above); the rest is in {out}")


@app.command()
def export(
    checkpoint: _Checkpoint,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The file to write. \\[default: beside it, NAME.safetensors]", parser=local_path
        ),
    ] = None,
) -> None:
    """Write inference weights as safetensors: averaged ones where there are any, without the semantic branch.

    [bold]Example[/bold]

      richsem-train export runs/demo/checkpoints/best.pt
    """
    from richsem_train import commands

    path = out or checkpoint.with_suffix(".safetensors")
    written = commands.export(checkpoint, path)
    typer.echo(f"{path}: {written.tensors} tensors, {written.parameters:,} parameters, {os.path.getsize(path):,} bytes")


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="OUT...", help="Folders of finished runs, the baseline first.", parser=local_path),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Write comparison.json and comparison.png into this folder.", parser=local_path
        ),
    ] = None,
) -> None:
    """Set runs side by side; seeds of one config name are one arm, with mean and spread.

    [bold]Example[/bold]

      richsem-train compare runs/demo_baseline runs/demo
    """
    from richsem_schemas.io.files import write_atomically
    from richsem_schemas.io.output_files import require_folder, require_no_inputs
    from richsem_train.results.comparison import comparison_json, group_arms
    from richsem_train.results.tables import STEPS, comparison_table
    from richsem_train.run.finished import files_of_run, read_run

    arms = group_arms([read_run(run) for run in runs])
    baseline = next(iter(arms))
    written = []
    if out is not None:
        require_folder(out)
        written = [out / "comparison.json", out / "comparison.png"]
    require_no_inputs(written, [file for run in runs for file in files_of_run(run)], remedy="name another --out")
    columns = ("AP", "APr", "APc", "APf", STEPS, "s/step")
    title = "last evaluation of each run"
    Console().print(comparison_table(arms, title=title, columns=columns, baseline=baseline))
    if written:
        from richsem_train.results.plots import plot_comparison

        content, picture = written
        write_atomically(content, comparison_json(arms, baseline=baseline).encode())
        plot_comparison(arms, picture, title=title)
        typer.echo(f"{content}  {picture}")
