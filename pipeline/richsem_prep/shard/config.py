"""What the user asks for, validated once."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from richsem_prep.sources.datasets import find_dataset
from richsem_schemas.cache.codec import Embeddings
from richsem_schemas.cache.layout import check_set_name
from richsem_schemas.cache.manifest import MAX_SAMPLES_PER_SHARD, NoiseScale, ScaleJitter
from richsem_schemas.io.canonical_json import MAX_WHOLE_NUMBER
from richsem_schemas.io.places import PlaceField
from richsem_schemas.pictures.decode import MAX_PICTURE_SIDE

MAX_COPIES = 100
"""Noised copies of one box, at all scales together; a picture may have thousands of boxes, and they share a record."""


class ShardConfig(BaseModel, frozen=True, extra="forbid"):
    """Options of `richsem-prep shard`, defaults of the dataset filled in."""

    dataset: Annotated[str, AfterValidator(lambda name: find_dataset(name).name)]
    root: PlaceField
    out: PlaceField
    teacher: str
    region_encoder: Literal["roi-align", "crop"] | None
    teacher_size: Annotated[int, Field(ge=32, le=4096)] | None
    crops: Annotated[int, Field(ge=0, le=1000)]
    mosaics: Annotated[int, Field(ge=0, le=1000)]
    windows: Annotated[int, Field(ge=0, le=1000)] = 0
    whole: bool = False
    jitters: Annotated[int, Field(ge=0, le=MAX_COPIES)] = 0
    noise: Annotated[tuple[NoiseScale, ...], Field(min_length=1)] = (1.0,)
    scale_jitter: ScaleJitter | None = None
    annotations: Path | None = None
    images: Path | None = None
    top_k: PositiveInt
    embeddings: Embeddings
    labels: Annotated[str, AfterValidator(check_set_name)]
    pictures: Literal["copy", "reference"]
    max_side: Annotated[int, Field(ge=16, le=MAX_PICTURE_SIDE)] | None
    samples_per_shard: Annotated[int, Field(ge=1, le=MAX_SAMPLES_PER_SHARD)] | None
    seed: Annotated[int, Field(ge=0, le=MAX_WHOLE_NUMBER)]
    workers: PositiveInt | None
    executor: Literal["ray", "inline"]
    ray_address: str | None
    shard_range: tuple[NonNegativeInt, PositiveInt] | None
    device: str | None
    precision: Literal["fp32", "fp16", "bf16"] | None
    names: Literal["raw", "clean"]
    limit: Annotated[int, Field(ge=1, le=MAX_WHOLE_NUMBER)] | None
    overwrite: bool
    retry_failed: bool
    from_cache: PlaceField | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.jitters and not (self.windows or self.whole):
            raise ValueError(
                "--jitters are noised boxes of windows and wholes; --windows 0 makes none, and there is no --whole: "
                "ask for at least one"
            )
        if not (self.crops or self.mosaics or self.windows or self.whole):
            raise ValueError(
                "--crops 0, --mosaics 0 and no --windows or --whole leave nothing to label; ask for at least one pass"
            )
        if self.jitters * len(self.noise) > MAX_COPIES:
            raise ValueError(
                f"--jitters {self.jitters} at {len(self.noise)} scales of --noise are {self.jitters * len(self.noise)} "
                f"copies of each box; at most {MAX_COPIES} are made"
            )
        if len(set(self.noise)) < len(self.noise):
            raise ValueError(f"--noise {','.join(f'{scale:g}' for scale in self.noise)}: give each scale once")
        if self.scale_jitter is not None and not self.windows:
            raise ValueError("--scale-jitter is how windows are drawn, and there are none; ask for --windows")
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
