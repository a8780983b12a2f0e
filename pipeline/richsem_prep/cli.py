"""The commands of `richsem-prep`."""

from richsem_prep.commands.analyze import analyze
from richsem_prep.commands.audit import audit
from richsem_prep.commands.diff import diff
from richsem_prep.commands.drop_annotations import drop_annotations
from richsem_prep.commands.estimate import estimate
from richsem_prep.commands.finish import finish
from richsem_prep.commands.inspect import inspect
from richsem_prep.commands.pull import pull
from richsem_prep.commands.push import push
from richsem_prep.commands.rescore import rescore
from richsem_prep.commands.shard import shard
from richsem_prep.commands.suspects import suspects
from richsem_prep.commands.teachers import teachers
from richsem_prep.commands.text import text
from richsem_prep.commands.verify import verify
from richsem_prep.commands.view import view
from richsem_schemas.command_line import Version, new_program, run_program

app = new_program("richsem-prep", no_args_is_help=True)


@app.callback()
def richsem_prep(_version: Version = False) -> None:
    """Precompute CLIP region embeddings and soft labels, once, for every training run.

    [bold]From a folder of ImageNet classes to a cache:[/bold]

      richsem-prep shard --dataset inet-lvis --root /data/imagenet21k

    [bold]Then look at it:[/bold]

      richsem-prep verify caches/inet-lvis
      richsem-prep inspect caches/inet-lvis
      richsem-prep view caches/inet-lvis --html views.html

    [bold]The same cache again, for other experiments:[/bold]

      richsem-prep text --teacher RN50:openai --names coco --out text/coco
      richsem-prep rescore caches/inet-lvis --text text/coco --label-set coco
      richsem-prep rescore caches/inet-lvis --temperature 2 --label-set soft
      richsem-prep diff caches/inet-lvis --label-set RN50-openai soft

    [bold]Share its labels, or take somebody's:[/bold]

      richsem-prep push caches/inet-lvis my-group/inet-lvis-rn50
      richsem-prep pull my-group/inet-lvis-rn50 caches/inet-lvis

    [bold]No data at hand?[/bold] `--dataset demo` draws its own, and `--teacher demo` comes with the package:

      richsem-prep shard --dataset demo
    """


def run() -> None:
    """Run the program."""
    run_program(app)


for command in (
    shard,
    finish,
    verify,
    inspect,
    view,
    text,
    audit,
    rescore,
    diff,
    push,
    pull,
    estimate,
    drop_annotations,
    teachers,
    suspects,
):
    app.command()(command)

app.add_typer(analyze, name="analyze")
