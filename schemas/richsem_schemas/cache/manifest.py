"""The records of a cache: the plan it follows, the teacher behind each label set, the counts and hashes of its files.

Every model is validated on reading, since a cache is untrusted input. Plans and specs are written before the work and
hold what identifies it; manifests are written last and add what came of it.
"""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from richsem_schemas.cache.codec import RecordLayout
from richsem_schemas.cache.field_types import (
    MAX_SAMPLES_PER_SHARD,
    Embeddings,
    NamePolicy,
    NoiseScale,
    Precision,
    ScaleJitter,
    SetName,
    Temperature,
)
from richsem_schemas.cache.layout import check_dataset_name
from richsem_schemas.cache.record import SealedRecord
from richsem_schemas.io.canonical_json import json_sha256
from richsem_schemas.io.files import FileHash, Sha256
from richsem_schemas.vocabularies.vocabulary import Vocabulary

MIN_LISTING_BYTES = 28
"""Bytes that a picture takes in a listing at least; a forged plan must not keep a reader busy."""

DatasetName = Annotated[str, AfterValidator(check_dataset_name)]


class Plan(SealedRecord):
    """Which pictures a cache holds, and in which order; frozen before the first of them is read.

    Attributes:
        samples: pictures that the cache takes, fewer with `--limit`.
        root: where the originals lie; kept only where the cache refers to them.
        annotations: the file that the boxes are from, below ROOT, or its name alone where it lies elsewhere; None where
            there are no boxes.
    """

    not_identifying: ClassVar[frozenset[str]] = frozenset(
        {"root", "annotations", "annotations_file", "absent_classes", "listing_quarantine", "rejected"}
    )

    format_version: Literal[1] = 1
    dataset: DatasetName
    seed: NonNegativeInt
    listed: PositiveInt
    samples: PositiveInt
    samples_per_shard: Annotated[int, Field(ge=1, le=MAX_SAMPLES_PER_SHARD)]
    block_samples: Literal[64] = 64
    limit: PositiveInt | None
    pictures: Literal["copy", "reference"]
    max_side: PositiveInt | None
    orientation: Literal["exif-upright"] = "exif-upright"
    root: str | None
    annotations: str | None = None
    annotations_file: FileHash | None = None
    vocabulary: Vocabulary
    absent_classes: tuple[str, ...]
    listing: FileHash
    rejected: NonNegativeInt
    listing_quarantine: FileHash | None

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.samples > self.listed or self.listed * MIN_LISTING_BYTES > self.listing.bytes:
            raise ValueError(
                f"{self.samples} samples of {self.listed} pictures in {self.listing.bytes} bytes of listing"
            )
        return self

    @property
    def shards(self) -> int:
        """How many shards the plan is cut into."""
        return -(-self.samples // self.samples_per_shard)

    def shard_samples(self, shard: int) -> int:
        """How many samples a shard is planned to hold."""
        return min(self.samples_per_shard, self.samples - shard * self.samples_per_shard)

    @property
    def fingerprint(self) -> str:
        """Identifies keys and pictures: two caches with the same one can share label sets."""
        return json_sha256(self.model_dump(mode="json", exclude=set(self.not_identifying)))


class Environment(BaseModel, frozen=True, extra="forbid"):
    """Machine and versions that made a shard: within one environment the same plan gives the same bytes."""

    device: str
    torch_threads: PositiveInt
    versions: dict[str, str]


class ShardSummary(BaseModel, frozen=True, extra="forbid"):
    """Counts and hashes of one shard."""

    shard: NonNegativeInt
    samples: NonNegativeInt
    regions: NonNegativeInt = 0
    views: NonNegativeInt = 0
    quarantined: NonNegativeInt = 0
    tar: FileHash
    index: FileHash


class ShardReceipt(SealedRecord):
    """The done-mark of a shard."""

    format_version: Literal[1] = 1
    summary: ShardSummary
    seconds: dict[str, float]

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of the plan or the spec that the shard was made by."""


class PicturesReceipt(ShardReceipt):
    """The done-mark of a shard of pictures."""

    plan_fingerprint: Sha256
    quarantine: FileHash | None

    @property
    def fingerprint(self) -> str:
        """Of the plan."""
        return self.plan_fingerprint


class LabelsReceipt(ShardReceipt):
    """The done-mark of a shard of labels."""

    spec_fingerprint: Sha256
    environment: Environment

    @property
    def fingerprint(self) -> str:
        """Of the spec."""
        return self.spec_fingerprint


class TeacherIdentity(BaseModel, frozen=True, extra="forbid"):
    """Which network made the embeddings.

    Attributes:
        name: as given to `--teacher`, without the folder of a file.
        weights_sha256: over names, shapes and bytes of all weights.
        model_config_sha256: over open_clip's configuration of the architecture.
        quick_gelu: the activation; the wrong one spoils a model silently.
        mean: RGB, of pictures in 0..1.
        std: RGB, of pictures in 0..1.
        input_hw: the resolution the model was trained at, pixels.
        interpolation: how `crop` regions are squashed to that resolution.
        logit_scale: exponentiated.
    """

    name: str
    weights_sha256: Sha256
    model_config_sha256: Sha256
    quick_gelu: bool
    embed_dim: PositiveInt
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_hw: tuple[PositiveInt, PositiveInt]
    interpolation: Literal["bicubic", "bilinear"]
    logit_scale: PositiveFloat
    logit_bias: float | None


class RegionEncoderSpec(BaseModel, frozen=True, extra="forbid"):
    """How a region of a view becomes an embedding.

    Attributes:
        kind: `roi-align` pools the trunk's last map, `crop` shows the region's pixels to the whole model.
        teacher_size: longer side at which the teacher sees a view, pixels; None is the view's own size.
        pooled_hw: RoIAlign's output, the attention pool's own size; None for `crop`.
    """

    kind: Literal["roi-align", "crop"]
    teacher_size: PositiveInt | None
    pooled_hw: tuple[PositiveInt, PositiveInt] | None


class ViewGeometry(BaseModel, frozen=True, extra="forbid"):
    """The scales at which views are drawn, in pixels; the defaults are the reference's.

    Attributes:
        short_sides: the final short side is one of these.
        longest_side: bound of the other side.
        first_short_sides: short side before a random crop; none for views without random crops.
        crop_sides: smallest and largest side of that crop.
        mosaic_tile: each picture of a mosaic is fitted into a square of this side; the canvas has twice the side.
        whole_short_side: short side of a whole view, as in evaluation.
        whole_longest_side: bound of its other side.
        scale_jitter: how windows, or crops where there are none, are drawn in the place of the first four; None is as
            those say.
    """

    short_sides: tuple[PositiveInt, ...] = tuple(range(480, 801, 32))
    longest_side: PositiveInt = 1333
    first_short_sides: tuple[PositiveInt, ...] = (400, 500, 600)
    crop_sides: tuple[PositiveInt, PositiveInt] = (384, 600)
    mosaic_tile: PositiveInt = 640
    whole_short_side: PositiveInt = 800
    whole_longest_side: PositiveInt = 1333
    scale_jitter: ScaleJitter | None = None


class ViewsSpec(BaseModel, frozen=True, extra="forbid"):
    """Which views a label set holds: passes of each kind, and how they are drawn.

    Attributes:
        jitters: noised copies of each box of a window or whole at each noise scale; each of these views then has a
            view of jitters beside it.
        noise_scales: of jitters: a corner moves by up to so many half sides of its box.
    """

    crops: NonNegativeInt
    mosaics: NonNegativeInt
    windows: NonNegativeInt = 0
    whole: bool = False
    jitters: NonNegativeInt = 0
    noise_scales: Annotated[tuple[NoiseScale, ...], Field(min_length=1)] = (1.0,)
    geometry: ViewGeometry
    resampling: Literal["bilinear-antialiased"] = "bilinear-antialiased"

    @property
    def passes(self) -> dict[str, int]:
        """How many passes of each kind there are."""
        windows, wholes = self.windows, int(self.whole)
        return {
            "crop": self.crops,
            "mosaic": self.mosaics,
            "window": windows,
            "jitter": windows if self.jitters else 0,
            "whole": wholes,
            "whole-jitter": wholes if self.jitters else 0,
        }

    @property
    def has_boxes(self) -> bool:
        """Whether regions are annotated boxes."""
        return self.whole or self.windows > 0

    @property
    def of_crops(self) -> ViewGeometry:
        """How crops are drawn; scale jitter is of windows where there are any."""
        return self.geometry.model_copy(update={"scale_jitter": None}) if self.has_boxes else self.geometry


class TextSpec(BaseModel, frozen=True, extra="forbid"):
    """The text bank behind the soft labels."""

    vocabulary: str
    names: NamePolicy
    classes: PositiveInt
    templates: PositiveInt
    prompts_sha256: Sha256


class LabelSpec(SealedRecord):
    """Teacher, views and text of a label set; the fingerprint is over all of it.

    Attributes:
        temperature: divides the teacher's logits: a soft label is softmax(logit_scale / temperature x cosine).
        rescored_from: fingerprint of the label set whose embeddings the labels were computed from; None where the
            teacher saw the views.
    """

    format_version: Literal[1] = 1
    plan_fingerprint: Sha256
    teacher: TeacherIdentity
    region_encoder: RegionEncoderSpec
    precision: Precision
    views: ViewsSpec
    text: TextSpec
    embeddings: Embeddings
    top_k: PositiveInt
    temperature: Temperature = 1.0
    rescored_from: Sha256 | None = None

    @property
    def fingerprint(self) -> str:
        """Over the whole spec; a trainer compares it."""
        return json_sha256(self.model_dump(mode="json"))

    @property
    def record_layout(self) -> RecordLayout:
        """How a view of this set is packed."""
        return RecordLayout(self.embeddings, self.teacher.embed_dim, self.top_k)


class TextManifest(SealedRecord):
    """The text bank on disk; its features lie beside it, raw float32 means [C, D]."""

    format_version: Literal[1] = 1
    class_names: tuple[str, ...]
    prompted_names: tuple[str, ...]
    templates: tuple[str, ...]
    logit_scale: PositiveFloat
    features: FileHash


class CacheManifest(SealedRecord):
    """A whole cache of pictures.

    Attributes:
        pictures_in: where the cache lies that holds the pictures, as it was named; None is this one. `shards` speak of
            those pictures in any case.
    """

    format_version: Literal[1] = 1
    plan: Plan
    fingerprint: Sha256
    samples: NonNegativeInt
    quarantined: NonNegativeInt
    bytes: NonNegativeInt
    shards: tuple[ShardSummary, ...]
    pictures_in: str | None = None


class LabelManifest(SealedRecord):
    """A whole label set."""

    format_version: Literal[1] = 1
    name: SetName
    spec: LabelSpec
    fingerprint: Sha256
    text: FileHash
    views: NonNegativeInt
    regions: NonNegativeInt
    bytes: NonNegativeInt
    environments: tuple[Environment, ...]
    shards: tuple[ShardSummary, ...]


class Spread(BaseModel, frozen=True, extra="forbid"):
    """How a figure is spread over regions."""

    lowest: float
    percentile_1: float
    median: float
    mean: float
    percentile_99: float
    highest: float


class AuditRecord(SealedRecord):
    """The findings of `richsem-prep audit`, which shows regions of a label set to the live teacher again.

    Attributes:
        at: when, in UTC, as ISO 8601 writes it.
        precision: of the live teacher, which on another device may not be that of the set.
        cosine: of stored and live embeddings; None where none are stored.
        kl: nats, of the stored soft label from the live distribution, the classes left out as one.
        worst: the region with the largest KL, as KEY.VIEW and its number in the view.
        passed: every cosine at least `min_cosine`, every KL at most `max_kl`.
    """

    format_version: Literal[1] = 1
    label_set: SetName
    spec_fingerprint: Sha256
    at: str
    seed: NonNegativeInt
    regions: PositiveInt
    views: PositiveInt
    shards: PositiveInt
    precision: Precision
    environment: Environment
    cosine: Spread | None
    kl: Spread
    worst: str
    min_cosine: float
    max_kl: float
    passed: bool
