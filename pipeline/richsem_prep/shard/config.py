"""The options of `richsem-prep shard`, validated once; quick to import, since every `--help` does."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import typer
from pydantic import BaseModel, BeforeValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from richsem_schemas.cache.field_types import (
    MAX_SAMPLES_PER_SHARD,
    Embeddings,
    NamePolicy,
    NoiseScale,
    Precision,
    ScaleJitter,
    SetName,
)
from richsem_schemas.io.canonical_json import MAX_WHOLE_NUMBER
from richsem_schemas.io.places import PlaceField
from richsem_schemas.pictures.limits import MAX_PICTURE_SIDE

MAX_COPIES = 100
"""Noised copies of one box, at all scales together; a picture may have thousands of boxes, and they share a record."""

OF_THE_DATASET: Any = object()
"""Default of a field that is filled in before it is validated."""

_what_to_do = partial(typer.Option, rich_help_panel="What to do")
_teacher = partial(typer.Option, rich_help_panel="Teacher")
_views = partial(typer.Option, rich_help_panel="Views and labels")
_cache = partial(typer.Option, rich_help_panel="Cache")
_work = partial(typer.Option, rich_help_panel="Where the work happens")

_Passes = Annotated[int, Field(ge=0, le=1000)]


def _dataset_names(incomplete: str) -> list[str]:
    from richsem_prep.sources.datasets import DATASETS  # noqa: PLC0415 - so that --help is quick

    return [name for name in DATASETS if name.startswith(incomplete)]


def _numbers(text: str, form: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"needs {form}") from None


def _noise_scales(value: Any) -> Any:
    form = "numbers with commas between them, such as 0.1,0.3"
    return _numbers(value, form) if isinstance(value, str) else value


def _side_and_factors(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    form = "a side of whole pixels, 1 to 8192, and two factors, 0.001 to 1000, the smaller one first; such as 640,0.1,2"
    side, *factors = _numbers(value, form)
    try:
        return ScaleJitter.model_validate({"side": side, "factors": factors})
    except ValidationError:
        raise ValueError(f"needs {form}") from None


def _first_and_last(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parts = value.split(":")
    if len(parts) != 2 or not all(part.isdecimal() and len(part) <= 9 for part in parts):
        raise ValueError("needs A:B; 0:10 makes shards 0 to 9")
    return tuple(map(int, parts))


class ShardConfig(BaseModel, frozen=True, extra="forbid"):
    """Options of `richsem-prep shard`; what isn't given is filled in as suits the dataset."""

    dataset: Annotated[
        str,
        _what_to_do(
            autocompletion=_dataset_names,
            help="Detection: lvis, coco, objects365, objects365-boxes, openimages, visual-genome. Classification: "
            "inet-lvis, inet-21k, inet-unlabeled, cc3m, cc3m-unlabeled, webdataset (any tars of pictures), folder (any "
            "folder of pictures). Drawn by code: demo, demo-detection. \\[required without --from-cache]",
        ),
    ] = OF_THE_DATASET
    root: Annotated[PlaceField, _what_to_do(help="Where the raw pictures lie. \\[default: $RICHSEM_DATA/DATASET]")] = (
        OF_THE_DATASET
    )
    out: Annotated[
        PlaceField,
        _what_to_do(help="Folder of the cache, or a URL such as s3://BUCKET/NAME. \\[default: caches/DATASET]"),
    ] = OF_THE_DATASET
    annotations: Annotated[
        Path | None,
        _what_to_do(
            metavar="PATH",
            help="Of detection data: another file than that of the training split, from here or below ROOT.",
        ),
    ] = None
    images: Annotated[
        Path | None,
        _what_to_do(
            metavar="PATH",
            help="Of detection data: folder of the pictures, from here or below ROOT. \\[default: looked for in ROOT]",
        ),
    ] = None
    limit: Annotated[
        Annotated[int, Field(ge=1, le=MAX_WHOLE_NUMBER)] | None,
        _what_to_do(help="Take only so many pictures, drawn at random."),
    ] = None
    overwrite: Annotated[
        bool, _what_to_do("--overwrite", help="Begin the label set anew; the whole cache if its plan differs.")
    ] = False
    retry_failed: Annotated[
        bool, _what_to_do("--retry-failed", help="Rebuild shards whose quarantined pictures are readable now.")
    ] = False
    teacher: Annotated[
        str,
        _teacher(
            help="MODEL:PRETRAINED with open_clip's names, MODEL:FILE, hf-hub:ORG/NAME, or demo. "
            "\\[default: RN50:openai; demo for the demo]"
        ),
    ] = OF_THE_DATASET
    region_encoder: Annotated[
        Literal["roi-align", "crop"] | None,
        _teacher(help="roi-align (the paper's; CLIP ResNets) or crop (any model). \\[default: roi-align where it can]"),
    ] = None
    teacher_size: Annotated[
        Annotated[int, Field(ge=32, le=4096)] | None,
        _teacher(
            help="Longer side of a view as the teacher sees it, pixels. \\[default: the view's own, as in the paper]"
        ),
    ] = None
    names: Annotated[NamePolicy, _teacher(help="Class names in prompts: raw (as LVIS writes them) or clean.")] = "raw"
    precision: Annotated[
        Precision | None,
        _teacher(help="fp32, fp16 or bf16. \\[default: fp16 on CUDA, else fp32]"),
    ] = None
    crops: Annotated[_Passes, _views(help="Passes of crop views. \\[default: 1; detection data has none]")] = (
        OF_THE_DATASET
    )
    mosaics: Annotated[_Passes, _views(help="Passes of mosaic views. \\[default: 4; detection data has none]")] = (
        OF_THE_DATASET
    )
    windows: Annotated[
        _Passes,
        _views(
            help="Of detection data: passes of the trainer's own augmentation, each with all boxes that are seen. "
            "\\[default: 4]"
        ),
    ] = OF_THE_DATASET
    whole: Annotated[
        bool,
        _views(
            "--whole",
            help="Of detection data: one more pass, each picture as evaluation shows it, with all of its boxes.",
        ),
    ] = False
    jitters: Annotated[
        Annotated[int, Field(ge=0, le=MAX_COPIES)],
        _views(help="Of windows and --whole: noised copies of each box at each scale of --noise, for analyses."),
    ] = 0
    noise: Annotated[
        tuple[NoiseScale, ...],
        BeforeValidator(_noise_scales),
        _views(
            metavar="S,S,…", help="How far a jitter's corners move at most, in half sides of the box. \\[default: 1]"
        ),
    ] = (1.0,)
    scale_jitter: Annotated[
        ScaleJitter | None,
        BeforeValidator(_side_and_factors),
        _views(
            metavar="SIDE,LOW,HIGH",
            help="Draw windows, or crops, by scale jitter: fit into a square of SIDE pixels, times a factor of LOW to "
            "HIGH, and cut what is larger. Such as 640,0.1,2 for windows, 320,0.5,1.5 for crops.",
        ),
    ] = None
    top_k: Annotated[PositiveInt, _views(help="Classes kept in each soft label.")] = 64
    embeddings: Annotated[
        Embeddings,
        _views(help="float16, int8 or none. Without them the cache can't take another vocabulary or temperature."),
    ] = "float16"
    label_set: Annotated[SetName, _views(help="Name of the label set. \\[default: from the teacher]")] = OF_THE_DATASET
    pictures: Annotated[
        Literal["copy", "reference"],
        _cache(
            help="copy them into the cache, or reference them where they lie. "
            "\\[default: copy; reference for detection data]"
        ),
    ] = OF_THE_DATASET
    max_side: Annotated[
        Annotated[int, Field(ge=16, le=MAX_PICTURE_SIDE)] | None,
        _cache(help="Re-encode larger pictures to this longer side, pixels."),
    ] = None
    samples_per_shard: Annotated[
        Annotated[int, Field(ge=1, le=MAX_SAMPLES_PER_SHARD)] | None,
        _cache(help="Pictures in a shard. \\[default: as many of 64, 128, … 1024 as leave 16 shards, at least 64]"),
    ] = None
    seed: Annotated[
        Annotated[int, Field(ge=0, le=MAX_WHOLE_NUMBER)],
        _cache(help="Decides the order of the pictures and all draws of views."),
    ] = 0
    workers: Annotated[
        PositiveInt | None,
        _work(help="Each makes whole shards. \\[default: two a GPU if its memory allows, or one a core without]"),
    ] = None
    executor: Annotated[Literal["ray", "inline"], _work(help="ray, or inline: one worker in this process.")] = "ray"
    ray_address: Annotated[str | None, _work(help="Join a Ray cluster, such as HOST:6379 or auto.")] = None
    shard_range: Annotated[
        tuple[NonNegativeInt, PositiveInt] | None,
        BeforeValidator(_first_and_last),
        _work(metavar="A:B", help="Make shards A to B-1 only; then `richsem-prep finish`."),
    ] = None
    device: Annotated[str | None, _work(help="cpu, cuda, cuda:1, … \\[default: CUDA if there is one]")] = None
    from_cache: Annotated[
        PlaceField | None,
        _what_to_do(
            metavar="OUT1",
            help="Make labels alone, for the pictures of this cache: where the raw data is gone, or OUT1 must not "
            "grow. Plan and dataset are taken over.",
        ),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: dict[str, Any]) -> dict[str, Any]:
        from richsem_prep.shard.defaults import filled_in  # noqa: PLC0415 - so that --help is quick

        return filled_in(given)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_views()
        if self.max_side and self.pictures == "reference":
            raise ValueError("--max-side re-encodes pictures, which --pictures reference leaves as they are; drop one")
        if self.shard_range and self.shard_range[0] >= self.shard_range[1]:
            raise ValueError("--shard-range A:B is empty; shards A to B-1 are made, so A must be below B")
        if self.shard_range and (self.overwrite or self.retry_failed):
            raise ValueError("--overwrite and --retry-failed need the whole OUT; drop --shard-range")
        if self.from_cache is not None and self.retry_failed:
            raise ValueError("--retry-failed mends pictures, and --from-cache makes labels alone; drop one")
        if self.ray_address and self.executor == "inline":
            raise ValueError("--ray-address has no use with --executor inline; drop one")
        if self.executor == "inline" and self.workers not in (None, 1):
            raise ValueError(f"--executor inline is one worker, --workers {self.workers} needs --executor ray")
        return self

    def _check_views(self) -> None:
        if self.jitters and not (self.windows or self.whole):
            raise ValueError(
                "--jitters are noised boxes of windows and wholes; --windows 0 makes none, and there is no --whole: "
                "ask for at least one"
            )
        if not (self.crops or self.mosaics or self.windows or self.whole):
            raise ValueError(
                "--crops 0, --mosaics 0 and no --windows or --whole leave nothing to label; ask for at least one pass"
            )
        if not self.noise:
            raise ValueError("--noise names no scale; give at least one")
        if self.jitters * len(self.noise) > MAX_COPIES:
            raise ValueError(
                f"--jitters {self.jitters} at {len(self.noise)} scales of --noise are {self.jitters * len(self.noise)} "
                f"copies of each box; at most {MAX_COPIES} are made"
            )
        if len(set(self.noise)) < len(self.noise):
            raise ValueError(f"--noise {','.join(f'{scale:g}' for scale in self.noise)}: give each scale once")
        if self.scale_jitter is not None and not (self.windows or self.crops):
            raise ValueError(
                "--scale-jitter is how windows or crops are drawn, and there are none; ask for --windows of detection "
                "data, --crops of other data"
            )
