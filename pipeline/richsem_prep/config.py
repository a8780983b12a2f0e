"""What the user asks for, validated once."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from richsem_schemas.codec import Embeddings
from richsem_schemas.layout import check_set_name
from richsem_schemas.manifest import MAX_SAMPLES_PER_SHARD
from richsem_schemas.picture import MAX_PICTURE_SIDE
from richsem_schemas.places import PlaceField
from richsem_schemas.sealed_json import MAX_WHOLE_NUMBER

DatasetChoice = Literal[
    "lvis",
    "coco",
    "objects365",
    "objects365-boxes",
    "openimages",
    "visual-genome",
    "inet-lvis",
    "inet-21k",
    "inet-unlabeled",
    "cc3m",
    "cc3m-unlabeled",
    "webdataset",
    "folder",
    "demo",
    "demo-detection",
]


class ShardConfig(BaseModel, frozen=True, extra="forbid"):
    """Options of `richsem-prep shard`, defaults of the dataset filled in."""

    dataset: DatasetChoice
    root: PlaceField
    out: PlaceField
    teacher: str
    region_encoder: Literal["roi-align", "crop"] | None
    teacher_size: Annotated[int, Field(ge=32, le=4096)] | None
    crops: Annotated[int, Field(ge=0, le=1000)]
    mosaics: Annotated[int, Field(ge=0, le=1000)]
    windows: Annotated[int, Field(ge=0, le=1000)] = 0
    jitters: Annotated[int, Field(ge=0, le=100)] = 0
    annotations: Path | None = None
    images: Path | None = None
    top_k: PositiveInt
    embeddings: Embeddings
    labels: Annotated[str, AfterValidator(check_set_name)]
    pictures: Literal["copy", "reference"]
    max_side: Annotated[int, Field(ge=16, le=MAX_PICTURE_SIDE)] | None
    samples_per_shard: Annotated[int, Field(ge=1, le=MAX_SAMPLES_PER_SHARD)]
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
        if not self.crops and not self.mosaics and not self.windows:
            raise ValueError(
                "--crops 0, --mosaics 0 and no --windows leave nothing to label; ask for at least one pass"
            )
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
