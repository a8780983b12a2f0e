"""`richsem-train compare`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from richsem_schemas.command_line import AsJson
from richsem_schemas.io.places import local_path


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="OUT", help="Folders of finished runs, the baseline first.", parser=local_path),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Write comparison.json and comparison.png into this folder.", parser=local_path
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set runs side by side; seeds of one config name are one arm, with mean and spread, and say which classes gained.

    A class's gain is more than chance (*) by a paired t test over seeds, with at most 5% false discoveries.

    [bold]Example[/bold]

      richsem-train compare runs/demo_baseline runs/demo
    """
    from richsem_schemas.io.files import write_atomically
    from richsem_schemas.io.output_files import require_folder, require_no_inputs
    from richsem_train.results.class_gains import gains_line, gains_table, regrouped_line
    from richsem_train.results.tables import STEPS, comparison_content, comparison_table
    from richsem_train.run.comparison import files_of_run, gains_of_arms, group_arms, read_run

    read = [read_run(run) for run in runs]
    arms, gains = group_arms(read), gains_of_arms(read)
    baseline = next(iter(arms))
    written = []
    if out is not None:
        require_folder(out)
        written = [out / "comparison.json", out / "comparison.png"]
    require_no_inputs(written, [file for run in runs for file in files_of_run(run)], remedy="name another --out")
    of_classes = {arm: each.as_json() for arm, each in gains.items()}
    content = json.dumps(comparison_content(arms, baseline=baseline) | {"classes": of_classes}, indent=2) + "\n"
    title = "last evaluation of each run"
    if as_json:
        typer.echo(content, nl=False)
    else:
        columns = ("AP", "APr", "APc", "APf", STEPS, "s/step")
        console = Console()
        console.print(comparison_table(arms, title=title, columns=columns, baseline=baseline))
        for arm, each in gains.items():
            console.print()
            console.print(gains_table(each, title=f"classes, {arm} against {baseline}"))
            console.print(gains_line(each), markup=False, highlight=False)
            if warning := regrouped_line(each, baseline):
                console.print(warning, markup=False, highlight=False)
    if written:
        from richsem_train.results.plots import plot_comparison

        file, picture = written
        write_atomically(file, content.encode())
        plot_comparison(arms, picture, title=title)
        typer.echo(f"{file}  {picture}", err=as_json)
