"""The command line of `richsem-prep`; the only place that prints."""

import io
import os
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from richsem_prep.commands.audit import audit
from richsem_prep.commands.diff import diff
from richsem_prep.commands.estimate import estimate_like
from richsem_prep.commands.pull import pull
from richsem_prep.commands.push import push
from richsem_prep.commands.rescore import rescore
from richsem_prep.commands.text import text
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import local_path
from richsem_schemas.io.words import printable_text, told_in_one_line

app = typer.Typer(
    name="richsem-prep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["--help", "-h"]},
    help="""Precompute CLIP region embeddings and soft labels, once, for every training run.

[bold]From a folder of ImageNet classes to a cache:[/bold]

  richsem-prep shard --dataset inet-lvis --root /data/imagenet21k

[bold]Then look at it:[/bold]

  richsem-prep verify caches/inet-lvis
  richsem-prep inspect caches/inet-lvis
  richsem-prep view caches/inet-lvis --html views.html

[bold]The same cache again, for other experiments:[/bold]

  richsem-prep text --teacher RN50:openai --names coco --out text/coco
  richsem-prep rescore caches/inet-lvis --text text/coco --labels coco
  richsem-prep rescore caches/inet-lvis --temperature 2 --labels soft
  richsem-prep diff caches/inet-lvis --labels RN50-openai soft

[bold]Share its labels, or take somebody's:[/bold]

  richsem-prep push caches/inet-lvis my-group/inet-lvis-rn50
  richsem-prep pull my-group/inet-lvis-rn50 caches/inet-lvis

[bold]No data at hand?[/bold] --dataset demo draws its own, and --teacher demo comes with the package:

  richsem-prep shard --dataset demo
""",
)

_SHOWN = 80
"""Letters of a wrong value that a message repeats."""

_RUN = "What to do"
_TEACHER = "Teacher"
_VIEWS = "Views and labels"
_CACHE = "Cache"
_WORK = "Where the work happens"

_Labels = Annotated[str | None, typer.Option(help="Name of the label set; needed where there are several.")]
_Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder of the cache, or its URL.")]


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


@app.command()
def shard(
    dataset: Annotated[
        str | None,
        typer.Option(
            help="Detection: lvis, coco, objects365, objects365-boxes, openimages, visual-genome. Classification: "
            "inet-lvis, inet-21k, inet-unlabeled, cc3m, cc3m-unlabeled, webdataset (any tars of pictures), folder (any "
            "folder of pictures). Drawn by code: demo, demo-detection. \\[required without --from-cache]",
            rich_help_panel=_RUN,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(help="Where the raw pictures lie. \\[default: $RICHSEM_DATA/DATASET]", rich_help_panel=_RUN),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder of the cache, or a URL such as s3://BUCKET/NAME. \\[default: caches/DATASET]",
            rich_help_panel=_RUN,
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Of detection data: another file than that of the training split, from here or below ROOT.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Of detection data: folder of the pictures, from here or below ROOT. \\[default: found]",
            rich_help_panel=_RUN,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Take only so many pictures, drawn at random.", rich_help_panel=_RUN)
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Begin the label set anew; the whole cache if its plan differs.", rich_help_panel=_RUN
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed", help="Rebuild shards whose quarantined pictures are readable now.", rich_help_panel=_RUN
        ),
    ] = False,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="MODEL:PRETRAINED with open_clip's names, MODEL:FILE, hf-hub:ORG/NAME, or demo. "
            "\\[default: RN50:openai; demo for the demo]",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    region_encoder: Annotated[
        str | None,
        typer.Option(
            help="roi-align (the paper's; CLIP ResNets) or crop (any model). \\[default: roi-align where it can]",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    teacher_size: Annotated[
        int | None,
        typer.Option(
            help="Longer side of a view as the teacher sees it, pixels. \\[default: the view's own, as in the paper]",
            rich_help_panel=_TEACHER,
        ),
    ] = None,
    names: Annotated[
        str, typer.Option(help="Class names in prompts: raw (as LVIS writes them) or clean.", rich_help_panel=_TEACHER)
    ] = "raw",
    precision: Annotated[
        str | None,
        typer.Option(help="fp32, fp16 or bf16. \\[default: fp16 on CUDA, else fp32]", rich_help_panel=_TEACHER),
    ] = None,
    crops: Annotated[
        int | None,
        typer.Option(help="Passes of crop views. \\[default: 1; detection data has none]", rich_help_panel=_VIEWS),
    ] = None,
    mosaics: Annotated[
        int | None,
        typer.Option(help="Passes of mosaic views. \\[default: 4; detection data has none]", rich_help_panel=_VIEWS),
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option(
            help="Of detection data: passes of the trainer's own augmentation, each with all boxes that are seen. "
            "\\[default: 4]",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole",
            help="Of detection data: one more pass, each picture as evaluation shows it, with all of its boxes.",
            rich_help_panel=_VIEWS,
        ),
    ] = False,
    jitters: Annotated[
        int,
        typer.Option(
            help="Of windows and --whole: noised copies of each box at each scale of --noise, for analyses.",
            rich_help_panel=_VIEWS,
        ),
    ] = 0,
    noise: Annotated[
        str | None,
        typer.Option(
            metavar="S,S,…",
            help="How far a jitter's corners move at most, in half sides of the box. \\[default: 1]",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    scale_jitter: Annotated[
        str | None,
        typer.Option(
            metavar="SIDE,LOW,HIGH",
            help="Windows on a square canvas instead: fitted into SIDE pixels, times a factor of LOW to HIGH, then cut "
            "or padded.",
            rich_help_panel=_VIEWS,
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Classes kept in each soft label.", rich_help_panel=_VIEWS)] = 64,
    embeddings: Annotated[
        str,
        typer.Option(
            help="float16, int8 or none. Without them the cache can't take another vocabulary or temperature.",
            rich_help_panel=_VIEWS,
        ),
    ] = "float16",
    labels: Annotated[
        str | None, typer.Option(help="Name of the label set. \\[default: from the teacher]", rich_help_panel=_VIEWS)
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(
            help="copy them into the cache, or reference them where they lie. "
            "\\[default: copy; reference for detection data]",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Re-encode larger pictures to this longer side, pixels.", rich_help_panel=_CACHE)
    ] = None,
    samples_per_shard: Annotated[
        int | None,
        typer.Option(
            help="Pictures in a shard. \\[default: as many of 64, 128, … 1024 as leave 16 shards, at least 64]",
            rich_help_panel=_CACHE,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order and the views.", rich_help_panel=_CACHE)] = 0,
    workers: Annotated[
        int | None, typer.Option(help="\\[default: one a GPU, or one a core without]", rich_help_panel=_WORK)
    ] = None,
    executor: Annotated[
        str, typer.Option(help="ray, or inline: one worker in this process.", rich_help_panel=_WORK)
    ] = "ray",
    ray_address: Annotated[
        str | None, typer.Option(help="Join a Ray cluster, such as HOST:6379 or auto.", rich_help_panel=_WORK)
    ] = None,
    shard_range: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Make shards A to B-1 only; then `richsem-prep finish`.", rich_help_panel=_WORK
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, … \\[default: CUDA if there is one]", rich_help_panel=_WORK)
    ] = None,
    from_cache: Annotated[
        str | None,
        typer.Option(
            metavar="OUT1",
            help="Make labels alone, for the pictures of this cache: where the raw data is gone, or OUT1 must not "
            "grow. Plan and dataset are taken over.",
            rich_help_panel=_RUN,
        ),
    ] = None,
) -> None:
    """Make a cache, or go on with one: pictures, views, embeddings, soft labels.

    The same command run again does what is missing. Another teacher or other
    views, under another --labels name, add a label set and touch no picture.

    [bold]Examples[/bold]

      From $RICHSEM_DATA/inet-lvis to caches/inet-lvis; then a trial:
      richsem-prep shard --dataset inet-lvis
      richsem-prep shard --dataset inet-lvis --limit 2000 --out caches/trial

      Detection data, which stays where it is; four windows of each picture:
      richsem-prep shard --dataset lvis --root /data/lvis --windows 4
      richsem-prep shard --dataset coco --annotations instances_val2017.json

      Each picture once more as in evaluation, and boxes that miss a little:
      richsem-prep shard --dataset lvis --whole --jitters 4 --noise 0.1,0.3

      Another teacher on the same pictures, by open_clip's name or a file:
      richsem-prep shard --dataset inet-lvis --teacher ViT-L-14:openai
      richsem-prep shard --dataset inet-lvis --teacher RN50-quickgelu:w.pt

      The same, but the labels in a folder of their own:
      richsem-prep shard --from-cache caches/inet-lvis --out caches/again

      Without Ray; on a cluster; as one of several jobs, then `finish`:
      richsem-prep shard --dataset demo --executor inline
      richsem-prep shard --dataset inet-lvis --ray-address auto
      richsem-prep shard --dataset inet-lvis --shard-range 0:100

      To a bucket (docs/places.md):
      richsem-prep shard --dataset inet-lvis --out s3://BUCKET/inet-lvis
    """
    config = shard_config(
        dataset=dataset,
        root=root,
        out=out,
        teacher=teacher,
        region_encoder=region_encoder,
        teacher_size=teacher_size,
        crops=crops,
        mosaics=mosaics,
        windows=windows,
        whole=whole,
        jitters=jitters,
        noise=noise,
        scale_jitter=scale_jitter,
        annotations=annotations,
        images=images,
        top_k=top_k,
        embeddings=embeddings,
        labels=labels,
        pictures=pictures,
        max_side=max_side,
        samples_per_shard=samples_per_shard,
        seed=seed,
        workers=workers,
        executor=executor,
        ray_address=ray_address,
        shard_range=_parse_range(shard_range),
        device=device,
        precision=precision,
        names=names,
        limit=limit,
        overwrite=overwrite,
        retry_failed=retry_failed,
        from_cache=from_cache,
    )
    from richsem_prep.console import ConsoleReporter, summary_table
    from richsem_prep.shard import run as driver

    errors = Console(stderr=True)
    try:
        with ConsoleReporter(errors) as reporter:
            summary = driver.shard(config, reporter)
    except KeyboardInterrupt:
        errors.print("interrupted; finished shards are kept, the same command goes on from there")
        raise typer.Exit(130) from None
    Console().print(summary_table(summary))
    if summary.failed:
        raise RichSemError(
            f"{len(summary.failed)} shards failed (see above); the rest is kept. Mend the cause and run the same "
            "command again"
        )
    if summary.complete and not summary.pictures:
        raise RichSemError(
            f"{config.out} holds not one picture: all were set aside, for the reasons in {config.out}/quarantine; see "
            "whether --root and --dataset are right, mend the pictures and run again with --retry-failed"
        )
    if not summary.complete:
        typer.echo(f"Shards {shard_range} are done; when all are: richsem-prep finish {config.out}")


def shard_config(**options: Any) -> Any:
    """Fill in the defaults of the dataset and of the environment, and validate."""
    from richsem_prep.shard.config import ShardConfig
    from richsem_prep.sources.datasets import preset
    from richsem_schemas.io.places import open_place

    if options.get("from_cache") is not None:
        from richsem_prep.shard.from_cache import options_of_plan

        options["from_cache"] = open_place(options["from_cache"]).absolute()
        options |= options_of_plan(options["from_cache"], options["dataset"], options["root"])
    if options["dataset"] is None:
        raise typer.BadParameter(
            "missing; name one, or take the pictures of a cache with --from-cache OUT1", param_hint="--dataset"
        )
    if options.get("from_cache") is not None and options["out"] is None:
        raise RichSemError("--from-cache needs --out, the folder for the labels")
    chosen = preset(options["dataset"])
    data = open_place(os.environ.get("RICHSEM_DATA") or "data")
    options["root"] = open_place(options["root"] or data / (chosen.folder or options["dataset"])).absolute()
    options["out"] = open_place(options["out"] or Path("caches") / options["dataset"]).absolute()
    teacher = options["teacher"] = options["teacher"] or chosen.teacher
    if options["teacher_size"] is None and teacher == chosen.teacher:
        options["teacher_size"] = chosen.teacher_size
    _refuse_views_of_others(options, has_boxes=chosen.has_boxes)
    options |= _parsed_views(options)
    for name in ("crops", "mosaics", "windows", "pictures"):
        if options.get(name) is None:
            options[name] = getattr(chosen, name)
    options["labels"] = options["labels"] or default_label_set(teacher)
    try:
        return ShardConfig(**options)
    except ValidationError as error:
        raise RichSemError("; ".join(_message(item) for item in error.errors())) from None


def _refuse_views_of_others(options: dict[str, Any], *, has_boxes: bool) -> None:
    """Detection data takes windows, wholes and jitters, classification data crops and mosaics."""
    of_boxes = ("windows", "whole", "jitters", "noise", "scale_jitter", "annotations", "images")
    wrong = ("crops", "mosaics") if has_boxes else of_boxes
    asked = [
        f"--{name.replace('_', '-')}" + ("" if options[name] is True else f" {options[name]}")
        for name in wrong
        if options.get(name)
    ]
    if asked:
        kind, views = (
            ("detection", "--windows and --whole") if has_boxes else ("classification", "--crops and --mosaics")
        )
        raise RichSemError(
            f"{' '.join(asked)} with --dataset {options['dataset']}: it is {kind} data, which takes {views}; drop it"
        )
    if options.get("noise") and not options.get("jitters"):
        raise RichSemError(f"--noise {options['noise']} is that of jittered boxes, and there are none; add --jitters")


def _parsed_views(options: dict[str, Any]) -> dict[str, Any]:
    """The lists among the options; those that aren't given are left to their defaults."""
    parsed: dict[str, Any] = {"noise": (1.0,), "scale_jitter": None}
    if (noise := options.get("noise")) is not None:
        parsed["noise"] = _numbers("--noise", noise, "numbers with commas between them, such as 0.1,0.3")
    if (asked := options.get("scale_jitter")) is not None:
        form = "a side and two factors, such as 640,0.1,2"
        side, *factors = _numbers("--scale-jitter", asked, form)
        if len(factors) != 2:
            raise RichSemError(f"--scale-jitter {asked!r}: needs {form}")
        parsed["scale_jitter"] = {"side": side, "factors": factors}
    return parsed


def _numbers(option: str, text: str, form: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RichSemError(f"{option} {text!r}: needs {form}") from None


def _message(error: Any) -> str:
    given = repr(error["input"])
    given = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}…"
    option = "--" + str(error["loc"][0]).replace("_", "-") + f" {given}: " if error["loc"] else ""
    return option + error["msg"].removeprefix("Value error, ")


def default_label_set(teacher: str) -> str:
    """The label set's name where none is given: the teacher's, as a folder can be called."""
    model, colon, pretrained = teacher.removeprefix("hf-hub:").removeprefix("local-dir:").partition(":")
    text = f"{model}-{Path(pretrained).stem}" if colon else Path(model).name
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-._+").replace("..", ".")[:100] or "labels"


def _parse_range(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", text)
    if not match:
        raise RichSemError(f"--shard-range {text!r} is not A:B; 0:10 makes shards 0 to 9")
    return int(match[1]), int(match[2])


@app.command()
def finish(out: _Out, labels: _Labels = None) -> None:
    """Write the manifests after runs with --shard-range, once every shard is there.

    [bold]Example[/bold]

      richsem-prep finish caches/inet-lvis
    """
    from richsem_prep.shard.finish import finish_cache, finished_sets
    from richsem_schemas.cache.reader import find_layout
    from richsem_schemas.io.places import open_place

    layout = find_layout(open_place(out))
    begun = layout.label_sets()
    if labels is not None and labels not in begun:
        raise RichSemError(f"{out} has no label set {labels!r}; it has: {', '.join(begun) or 'none'}")
    sets = [labels] if labels else finished_sets(layout) or begun
    for note in finish_cache(layout, sets):
        typer.echo(f"note: {note}")
    typer.echo(f"{out} is finished: {', '.join(sets)}")
    if labels is None and (unfinished := sorted(set(begun) - set(sets))):
        typer.echo(f"not finished yet: {', '.join(unfinished)}")


@app.command()
def verify(
    out: _Out,
    labels: Annotated[str | None, typer.Option(help="Check this label set alone. \\[default: all]")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Shards checked at a time. \\[default: one a core]")
    ] = None,
    thorough: Annotated[
        bool,
        typer.Option(
            "--thorough", help="Compute all soft labels and pictures' own hashes again, not those of a sample."
        ),
    ] = False,
) -> None:
    """Check a whole cache: every byte against its hash, every member against the index, every value's range.

    Hashes find any byte that has changed since it was written. What a writer did
    wrong is looked for in a sample of each shard, or in all with --thorough:
    soft labels that are not what their embeddings and the text give, and
    pictures that are not those that were hashed. Exits with 1 where anything is
    wrong, and says what to do about it.

    [bold]Examples[/bold]

      richsem-prep verify caches/inet-lvis
      richsem-prep verify caches/inet-lvis --thorough
    """
    from richsem_prep.verify.cache import bytes_bar, problem_lines, success_line, verify_cache
    from richsem_schemas.io.places import open_place

    start, place = time.monotonic(), open_place(out)
    with bytes_bar(Console(stderr=True)) as on_progress:
        verification = verify_cache(
            place, label_set=labels, threads=threads, thorough=thorough, on_progress=on_progress
        )
    for note in verification.notes:
        typer.echo(f"note: {note}")
    for line in problem_lines(place, verification):
        typer.echo(line)
    if verification.problems:
        raise typer.Exit(1)
    typer.echo(success_line(place, verification, seconds=time.monotonic() - start))


@app.command()
def inspect(out: _Out, labels: _Labels = None) -> None:
    """Show what a label set is, what it weighs, and what its soft labels say.

    [bold]Example[/bold]

      richsem-prep inspect caches/inet-lvis
    """
    from richsem_prep.explore.inspect import inspect_label_set, statistics_table
    from richsem_schemas.cache.reader import open_cache
    from richsem_schemas.io.places import open_place

    cache = open_cache(open_place(out))
    Console().print(statistics_table(inspect_label_set(cache, cache.label_set(labels).name)))


@app.command()
def view(
    out: _Out,
    html: Annotated[Path, typer.Option(metavar="PATH", help="The page to write.", parser=local_path)],
    labels: _Labels = None,
    views: Annotated[int, typer.Option(min=1, max=500, help="How many views to show.")] = 12,
    root: Annotated[
        str | None, typer.Option(help="Where originals lie, for a cache that refers to them. \\[default: as it says]")
    ] = None,
) -> None:
    """Write a page that shows views with their boxes and soft labels; one file, to open in any browser.

    [bold]Example[/bold]

      richsem-prep view caches/inet-lvis --html views.html
    """
    from richsem_prep.explore.page import write_page
    from richsem_schemas.cache.reader import open_cache
    from richsem_schemas.io.places import open_place

    cache = open_cache(open_place(out))
    shown = write_page(cache, cache.label_set(labels).name, html, views=views, root=open_place(root) if root else None)
    typer.echo(f"{html}: {shown} views")


app.command()(text)
app.command()(audit)
app.command()(rescore)
app.command()(diff)
app.command()(push)
app.command()(pull)
app.command("estimate")(estimate_like(shard, shard_config))
