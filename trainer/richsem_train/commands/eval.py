"""`richsem-train eval`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from richsem_schemas.command_line import AsJson, print_json
from richsem_schemas.io.places import local_path
from richsem_train.choices import Protocol, Scorer
from richsem_train.commands.options import Changes, Checkpoint, Device, PublishedConfig


def evaluate(
    checkpoint: Checkpoint,
    config: PublishedConfig = None,
    changes: Changes = None,
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Keep the detections in this folder.", parser=local_path)
    ] = None,
    scorer: Annotated[
        Scorer,
        typer.Option(help="lvis is LVIS's official evaluator: the same figures, for much time and memory."),
    ] = "hotcoco",
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            help="lvis and coco are those of the file formats; fixed is Fixed AP, the best 10,000 detections of each "
            "class and any number a picture. \\[default: that of detection.format]"
        ),
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Score these pictures of the split alone, such as LVIS minival: ids or file names, one a line, or "
            "JSON. \\[default: all]",
            parser=local_path,
        ),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint on the val split of its config: AP, and APr, APc and APf of rare, common and frequent classes.

    [bold]Examples[/bold]

      richsem-train eval runs/demo/checkpoints/best.pt
      richsem-train eval runs/r50/checkpoints/best.pt --scorer lvis
      richsem-train eval runs/r50/checkpoints/best.pt --protocol fixed --pictures minival.txt
      richsem-train eval dino_r50_4scale.pth --config dino_r50_coco
    """
    from richsem_train.run.named_files import require_checkpoint

    if config is None:
        require_checkpoint(checkpoint)
    from richsem_schemas.scoring.metrics import is_defined, json_metrics
    from richsem_train.console import ConsoleReporter
    from richsem_train.detector_tasks import score_checkpoint
    from richsem_train.results.tables import AP_UNDEFINED, results_table

    with ConsoleReporter(Console(stderr=True)) as reporter:
        scores = score_checkpoint(
            checkpoint,
            config=config,
            changes=changes or [],
            out=out,
            scorer=scorer,
            protocol=protocol,
            pictures=pictures,
            device=device,
            reporter=reporter,
        )
        if scores is None:
            return
        if not is_defined(scores.metrics["AP"]):
            reporter.say(AP_UNDEFINED)
    if as_json:
        metrics = json_metrics(scores.metrics)
        print_json(
            {
                "checkpoint": checkpoint,
                "annotations": scores.annotations,
                "pictures": scores.pictures,
                "protocol": scores.protocol,
                "frequencies": scores.frequencies,
                "metrics": metrics,
            }
        )
    else:
        Console().print(results_table({"": scores.metrics}, title=f"{checkpoint} on {scores.annotations}"))
