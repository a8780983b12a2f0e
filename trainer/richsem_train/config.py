"""What a run is: read from YAML, changed by `--set`, validated once, then trusted."""

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from richsem_schemas.annotations import AnnotationFormat
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import PlaceField, local_path

Supervision = Literal["labelled", "unlabelled", "pseudo"]
"""How the class of a picture's boxes is taught: by its labels, not at all, or by what the teacher is sure of."""

DEFAULT_CONFIG = "richsem_r50_inet_lvis"
_BASE = "base"
_MAX_CONFIG_BYTES = 2**20
_SHOWN = 100
"""Letters of a wrong value that a message shows."""

_MAX_VALUES = 20_000
"""Values of a config, each alias counted as what it stands for; 250 are enough for any."""

_MAX_NUMBER_LETTERS = 100
"""Letters of a number; longer ones take Python ages, or can't be shown."""

PositiveInt = Annotated[int, Field(gt=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Layers = Annotated[int, Field(gt=0, le=100)]
Epochs = Annotated[int, Field(gt=0, le=1_000_000)]
Steps = Annotated[int, Field(gt=0, le=1_000_000_000)]
Pictures = Annotated[int, Field(gt=0, le=65_536)]
"""Of a step, over all ranks; a rank holds its share of them at once."""

Side = Annotated[int, Field(gt=0, le=8192)]
"""Of a picture, pixels; a square of the largest has as many as the largest picture that is decoded."""


def _to_local(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return local_path(value)
    except RichSemError as error:
        raise ValueError(str(error)) from None


LocalPath = Annotated[Path, BeforeValidator(_to_local)]

Fraction = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Rgb = tuple[float, float, float]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_another_value(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        parts = value if isinstance(value, list | tuple) else [value]
        if cls.model_fields[info.field_name].annotation is not bool and any(isinstance(part, bool) for part in parts):
            # Python's true is the number 1; YAML's no is false.
            raise ValueError("true, false, yes, no, on and off are no value of this key; put a text in quotes")
        return value


class BackboneConfig(_Section):
    """The network that makes the feature maps.

    Attributes:
        name: `resnet50` and its like (torchvision), `timm:NAME`, or `clip-resnet` (CLIP's own, for small students).
        weights: `imagenet1k` (torchvision's or timm's pretrained ones), a file, or null for random ones.
        out_strides: strides of the maps that are used.
        frozen_stages: how many stages stay as they are, the stem being the first.
        frozen_norm: batch norms stay as they are (ResNets).
        clip_layers: of `clip-resnet`, bottlenecks in each stage.
        clip_width: of `clip-resnet`, channels after the stem.
        pixel_mean: RGB, of pictures in 0..1.
        pixel_std: RGB, of pictures in 0..1.
    """

    name: str = "resnet50"
    weights: str | None = "imagenet1k"
    out_strides: Levels = (8, 16, 32)
    frozen_stages: Annotated[int, Field(ge=0, le=100)] = 2
    frozen_norm: bool = True
    clip_layers: Annotated[tuple[Layers, ...], Field(min_length=1)] = (3, 4, 6, 3)
    clip_width: PositiveInt = 64
    pixel_mean: Rgb = (0.485, 0.456, 0.406)
    pixel_std: Rgb = (0.229, 0.224, 0.225)


class DenoisingConfig(_Section):
    """Contrastive denoising: noised copies of the truth as extra queries.

    Attributes:
        queries: how many in all; divided by the most boxes in a picture of the draw it gives the number of groups. 0 is
            none.
        label_noise: share of labels that are changed, halved as in DINO.
        box_noise: how far corners move, in half sides.
    """

    queries: Annotated[int, Field(ge=0, le=10_000)] = 100
    label_noise: Fraction = 0.5
    box_noise: NonNegativeFloat = 1.0


class ModelConfig(_Section):
    """The detector.

    Attributes:
        classifier: of the decoder's queries: `text` (scaled cosines with the text bank) or `linear`.
        encoder_classifier: of the encoder's proposals; the reference's baseline has `linear` and `text`.
        label_embedding: contents of denoising queries: the `classifier`'s own, or an `embedding` as in plain DINO.
        semantic_branch: the head that learns soft labels and is dropped at inference.
        size_divisor: batches are padded to multiples of it, at the right and the bottom, whenever the detector is used.
        query_positions: of the decoder's queries, relative to the `padded` batch or to the `picture`.
        deformable_attention: `torch`, `torch-checkpoint`, `triton`, or `auto`.
    """

    backbone: BackboneConfig = BackboneConfig()
    hidden_dim: PositiveInt = 256
    feature_levels: Layers = 4
    encoder_layers: Layers = 6
    decoder_layers: Layers = 6
    heads: PositiveInt = 8
    points: PositiveInt = 4
    ffn_dim: PositiveInt = 2048
    queries: PositiveInt = 900
    dropout: Fraction = 0.0
    classifier: Literal["text", "linear"] = "text"
    encoder_classifier: Literal["text", "linear"] = "text"
    label_embedding: Literal["classifier", "embedding"] = "classifier"
    semantic_branch: bool = True
    size_divisor: Annotated[int, Field(gt=0, le=1024)] = 32
    query_positions: Literal["padded", "picture"] = "padded"
    denoising: DenoisingConfig = DenoisingConfig()
    deformable_attention: Literal["auto", "torch", "torch-checkpoint", "triton"] = "auto"

    @property
    def needs_text(self) -> bool:
        """Whether the model can't be built without a text bank."""
        return self.semantic_branch or "text" in (self.classifier, self.encoder_classifier)


class MatcherConfig(_Section):
    """Costs of the Hungarian matching."""

    class_cost: NonNegativeFloat = 2.0
    bbox_cost: NonNegativeFloat = 5.0
    giou_cost: NonNegativeFloat = 2.0


class LossConfig(_Section):
    """Weights of the losses.

    Attributes:
        soft_weight: of the KL divergence between teacher and semantic branch.
        tail: what top-k labels say of the classes they leave out: one `bucket`, spread `uniform`ly, or `renormalise`d
            away.
        temperature: divides the teacher's logits, not the student's; above 1 is softer than CLIP. Stored `topk` labels
            have theirs built in, which must be this one.
        federated: categories that the class loss sees in the pictures of a draw; null is all of them.
        pseudo_threshold: probability from which on a class is a pseudo label.
    """

    class_weight: NonNegativeFloat = 1.0
    bbox_weight: NonNegativeFloat = 5.0
    giou_weight: NonNegativeFloat = 2.0
    soft_weight: NonNegativeFloat = 0.5
    tail: Literal["bucket", "uniform", "renormalise"] = "bucket"
    temperature: PositiveFloat = 1.0
    federated: Annotated[int, Field(gt=0, le=1_000_000)] | None = 50
    pseudo_threshold: Fraction = 0.05
    matcher: MatcherConfig = MatcherConfig()


class SplitConfig(_Section):
    """Annotations of a split, and the folder that its pictures lie in."""

    annotations: LocalPath
    images: LocalPath


class AugmentationConfig(_Section):
    """DETR's training augmentation, sizes in pixels: mirror; then resize, or resize, crop and resize.

    No `first_short_sides`, no crops.
    """

    short_sides: Annotated[tuple[Side, ...], Field(min_length=1)] = tuple(range(480, 801, 32))
    longest_side: Side = 1333
    first_short_sides: tuple[Side, ...] = (400, 500, 600)
    crop_sides: tuple[Side, Side] = (384, 600)
    flip: bool = True


class EvaluationConfig(_Section):
    """How the detector is scored, and how large it sees a picture then (and in `predict`).

    Attributes:
        every_epochs: also after the last epoch.
        batch_size: pictures at a time, a rank.
    """

    every_epochs: Epochs = 1
    batch_size: Annotated[int, Field(gt=0, le=256)] = 1
    detections: Annotated[int, Field(gt=0, le=10_000)] = 300
    short_side: Side = 800
    longest_side: Side = 1333


class DetectionConfig(_Section):
    """The detection data.

    Attributes:
        format: of the annotations; decides the metric, too: that of LVIS or of COCO; of OpenImages and Visual Genome
            AP and AP50.
        repeat_threshold: share of pictures below which a category's pictures are repeated; null repeats none.
        labels: what the semantic branch learns on them: soft labels of the `cache`, `hard` labels, or `none`.
        views: how pictures are shown: `fresh`, augmented anew each time, their boxes with the labels of the cache's
            nearest windows; or `stored`, the windows in turn, in the place of augmentation.
        cache: of these very pictures and boxes, with windows.
        labels_from: as `extra.labels_from`.
        label_set: its name; null where the cache has one only.
        label_form: the stored `topk`, or the `embedding` (exact).
        root: where the pictures lie, for a cache that refers to them; null is where they lay when it was made.
        on_damage: what a missing or broken picture does to the run.
    """

    format: AnnotationFormat = "lvis"
    train: SplitConfig
    val: SplitConfig
    repeat_threshold: Fraction | None = 0.001
    augmentation: AugmentationConfig = AugmentationConfig()
    labels: Literal["cache", "hard", "none"] = "none"
    views: Literal["fresh", "stored"] = "fresh"
    cache: PlaceField | None = None
    labels_from: PlaceField | None = None
    label_set: str | None = None
    label_form: Literal["topk", "embedding"] = "embedding"
    root: PlaceField | None = None
    on_damage: Literal["stop", "skip"] = "stop"


class TextConfig(_Section):
    """The text bank: that of a label set of a cache, or a folder with names of any choice.

    Attributes:
        cache: whose label set has it.
        labels: name of the label set; null where the cache has one only.
        folder: made by `richsem-prep text`; stored embeddings of the same teacher are scored with it.
    """

    cache: PlaceField | None = None
    labels: str | None = None
    folder: PlaceField | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.cache is None) == (self.folder is None):
            raise ValueError("name either text.cache or text.folder")
        if self.labels is not None and self.cache is None:
            raise ValueError("text.labels names a label set of text.cache; leave it out beside text.folder")
        return self


class ExtraConfig(_Section):
    """Extra data: views of a cache. All extra data together gives as many batches as the detection data.

    Attributes:
        labels_from: another folder that holds label sets for its pictures (`richsem-prep shard --from-cache`).
        weight: how many of the extra batches are of this cache, in proportion to the others'.
        label_set: its name; null where the cache has one only.
        teacher: refuse a label set of another teacher than this name; null takes any.
        labels: from the stored `topk`, from the `embedding` (exact), or the `hard` labels, for comparison.
        views: `mosaics`, `crops` or (of detection data) `windows` as stored, or `free-mosaics` composed anew, with the
            labels of stored crops.
        supervision: of their classes: `labelled`, `unlabelled`, or `pseudo` labels of the teacher.
        lanes: independent sequences of blocks that a batch is drawn from.
        root: where the pictures lie, for a cache that refers to them.
        on_damage: whether a damaged part of the cache stops the run or is replaced and counted.
    """

    cache: PlaceField
    labels_from: PlaceField | None = None
    weight: PositiveFloat = 1.0
    label_set: str | None = None
    teacher: str | None = None
    labels: Literal["topk", "embedding", "hard"] = "embedding"
    views: Literal["mosaics", "crops", "windows", "free-mosaics"] = "mosaics"
    supervision: Supervision = "labelled"
    lanes: Annotated[int, Field(gt=0, le=65_536)] = 64
    root: PlaceField | None = None
    on_damage: Literal["stop", "skip"] = "stop"


class ScheduleConfig(_Section):
    """How long, how fast.

    Attributes:
        epochs: over the detection data; extra batches come on top, one for each.
        global_batch_size: pictures a step, over all ranks.
        accumulate: parts that a rank's share of the batch is cut into, for less memory. Draws that are padded to other
            sizes go through the model one after the other in any case.
        pictures_a_draw: consecutive pictures of the global batch that share their federated classes, their denoising
            groups and their padding, on however many ranks and in however many parts; what a rank of the reference
            holds.
        lr_drops: epochs after which the learning rate falls to a tenth.
        warmup_steps: over which the learning rate rises linearly from 0.
        clip_norm: of the gradient; null doesn't clip.
        ema: decay of the averaged weights that are scored and exported; null keeps none.
        precision: of backbone and transformer; boxes, cosines and losses are always fp32.
    """

    epochs: Epochs = 24
    global_batch_size: Pictures = 16
    accumulate: Pictures = 1
    pictures_a_draw: Pictures = 2
    lr: PositiveFloat = 1e-4
    backbone_lr: NonNegativeFloat = 1e-5
    weight_decay: NonNegativeFloat = 1e-4
    lr_drops: tuple[Epochs, ...] = (20,)
    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    clip_norm: PositiveFloat | None = 0.1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False


class LogConfig(_Section):
    """What is kept of a run.

    Attributes:
        every_steps: between two lines of the log.
        checkpoint_every_steps: between two checkpoints, besides one an epoch.
        wandb: name of a Weights & Biases project; null is none.
    """

    every_steps: Steps = 20
    checkpoint_every_steps: Steps = 1000
    tensorboard: bool = True
    wandb: str | None = None


_ONE, _SEVERAL = "one cache", "several caches"
_Extra = Annotated[
    Annotated[ExtraConfig, Tag(_ONE)]
    | Annotated[Annotated[tuple[ExtraConfig, ...], Field(min_length=1)], Tag(_SEVERAL)],
    Discriminator(lambda value: _SEVERAL if isinstance(value, list | tuple) else _ONE),
]


class TrainConfig(_Section):
    """A whole run.

    Attributes:
        extra: a section, or a list of them for several caches at once.
        data: folder that relative paths of data start from; null is `$RICHSEM_DATA`, or `data`.
        start_from: a checkpoint whose weights the model starts with, a published one included; classifiers of other
            classes are left out.
        workers: loader processes a rank, for each kind of data.
        cache_gb: most gigabytes of caches at URLs that the local disk keeps; 0 keeps none.
    """

    name: Annotated[str, Field(pattern=r"^[^/\x00-\x1f]+$")]
    seed: Seed = 0
    workers: Annotated[int, Field(ge=0, le=1000)] = 4
    data: LocalPath | None = None
    start_from: LocalPath | None = None
    cache_gb: Annotated[float, Field(ge=0, le=1e9)] = 20.0
    detection: DetectionConfig
    text: TextConfig | None = None
    extra: _Extra | None = None
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    log: LogConfig = LogConfig()

    @property
    def extras(self) -> dict[str, ExtraConfig]:
        """The extra data by its section's name: `extra`, or `extra.0`, `extra.1`... of a list."""
        if self.extra is None:
            return {}
        if isinstance(self.extra, ExtraConfig):
            return {"extra": self.extra}
        return {f"extra.{number}": each for number, each in enumerate(self.extra)}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        soft = any(each.labels != "hard" for each in self.extras.values()) or self.detection.labels == "cache"
        if self.detection.labels == "cache" and self.detection.cache is None:
            raise ValueError(
                "detection.labels=cache learns the soft labels of a cache of the detection pictures; name it as "
                "detection.cache, or train without them by detection.labels=none"
            )
        if self.detection.views == "stored" and self.detection.labels != "cache":
            raise ValueError(
                f"detection.views=stored shows the windows of a cache, and detection.labels={self.detection.labels} "
                "takes none; detection.views=fresh augments the pictures"
            )
        if self.model.needs_text and self.text is None and self.extra is None and self.detection.labels != "cache":
            raise ValueError(
                "the model needs a text bank; name text.cache or text.folder, or a cache as extra.cache or "
                "detection.cache"
            )
        if not self.model.semantic_branch and (soft or self.detection.labels == "hard") and self.loss.soft_weight:
            raise ValueError(
                "there are labels for the semantic branch, and model.semantic_branch is false; set it to true, "
                "or loss.soft_weight to 0"
            )
        if self.model.semantic_branch and self.model.classifier != "text":
            raise ValueError("model.semantic_branch learns cosines with names; it needs model.classifier=text")
        if self.model.hidden_dim % self.model.heads:
            raise ValueError(
                f"model.hidden_dim {self.model.hidden_dim} is no multiple of model.heads {self.model.heads}"
            )
        if self.model.hidden_dim % 32:
            raise ValueError(f"model.hidden_dim {self.model.hidden_dim} is no multiple of 32, the neck's groups")
        if self.model.feature_levels < len(self.model.backbone.out_strides):
            raise ValueError("model.feature_levels is fewer than the maps in model.backbone.out_strides")
        schedule = self.schedule
        if schedule.global_batch_size % (schedule.accumulate * schedule.pictures_a_draw):
            raise ValueError(
                f"schedule.global_batch_size {schedule.global_batch_size} can't be cut into schedule.accumulate "
                f"{schedule.accumulate} parts of whole draws of schedule.pictures_a_draw {schedule.pictures_a_draw}; "
                f"use a multiple of {schedule.accumulate * schedule.pictures_a_draw}, or change one of the two"
            )
        return self


def builtin_configs() -> dict[str, Path]:
    """The configs that come with the package, by name."""
    folder = resources.files("richsem_train") / "configs"
    return {path.stem: path for path in sorted(Path(str(folder)).glob("*.yaml"))}


def load_config(name_or_file: str, changes: Sequence[str] = ()) -> TrainConfig:
    """Read a config and apply `--set` changes.

    Args:
        name_or_file: one of `builtin_configs`, or the path of a YAML file.
        changes: `KEY=VALUE` with dots in KEY and YAML in VALUE, such as `extra.labels=topk`.

    Raises:
        RichSemError: no such config, no YAML, an unknown key (with the nearest known one), or a bad value.
    """
    return _changed(_read_yaml(_config_path(name_or_file)), changes, source=name_or_file)


def with_changes(config: TrainConfig, changes: Sequence[str], *, source: str) -> TrainConfig:
    """The config of a checkpoint with `--set` changes.

    Raises:
        RichSemError: an unknown key, or a bad value.
    """
    return _changed(config.model_dump(mode="json"), changes, source=source)


def _changed(values: dict[str, Any], changes: Sequence[str], *, source: str) -> TrainConfig:
    for change in changes:
        _apply(values, change)
    return parse_config(values, source=source)


def parse_config(values: Mapping[str, Any], *, source: str) -> TrainConfig:
    """Validate what a YAML file or a checkpoint holds.

    Raises:
        RichSemError: an unknown key, or a bad value.
    """
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = [_problem(item) for item in error.errors()]
        raise RichSemError(f"{source}: {'; '.join(problems)}") from None


def config_yaml(config: TrainConfig) -> str:
    """The whole config as YAML, to be read by `load_config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_differences(one: TrainConfig, other: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The fields, with dots, in which two configs differ."""
    ours, theirs = dict(_flat("", one.model_dump(mode="json"))), dict(_flat("", other.model_dump(mode="json")))
    return {
        key: (ours.get(key), theirs.get(key))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    }


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = dict(enumerate(value))
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, part)
    else:
        yield prefix, value


def _config_path(name_or_file: str) -> Path:
    known = builtin_configs()
    if name_or_file in known:
        return known[name_or_file]
    path = Path(name_or_file)
    if path.is_file():
        return path
    raise RichSemError(
        f"--config {name_or_file!r} is neither a file nor one of {', '.join(known)}{_nearest(name_or_file, known)}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    """A file's values over those of its `base`."""
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise RichSemError(f"{path}: larger than {_MAX_CONFIG_BYTES} bytes; that is no config")
    try:
        values = _parse_yaml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RichSemError(f"{path}: no YAML of a config ({error})") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RichSemError(f"{path}: no config; expected keys such as `detection:` and `model:`")
    base = values.pop(_BASE, None)
    if base is None:
        return values
    known = builtin_configs()
    if not isinstance(base, str) or base not in known or known[base] == path:
        raise RichSemError(f"{path}: its base {base!r} is none of {', '.join(known)}")
    return _merged(_read_yaml(known[base]), values)


class _ConfigLoader(yaml.SafeLoader):
    """Ends early where there are more values than a config has: composing them is what takes long."""

    _composed = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Make a node of the next events."""
        self._composed += 1
        _require_few(self._composed)
        return super().compose_node(parent, index)


def _parse_yaml(text: str) -> Any:
    """Read YAML that anybody may have written.

    Aliases are counted before anything is made of them: a kilobyte of them can stand for gigabytes. So are the letters
    of numbers. Of a key that is given twice YAML's reader would keep the last.

    Raises:
        ValueError: it is none, or none that a config could be.
    """
    try:
        loader = _ConfigLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _require_few(_values_of(node, {}))
        return loader.construct_document(node)
    except MemoryError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise ValueError(told if len(told) <= _LONGEST_REASON else f"{told[:_LONGEST_REASON]}…") from None
    except Exception:
        # PyYAML documents no closed list: `!!timestamp x` is an AttributeError, `!!bool x` a KeyError.
        raise ValueError("a value isn't what its tag (such as !!timestamp) says") from None


_LONGEST_REASON = 300
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_OTHER_NUMBER = re.compile(r"[-+]?0[0-7_]+$|.*:")
"""What YAML 1.1 reads as another number than is meant: 010 is 8 to it, and 1:30 is 90."""


def _require_few(values: float) -> None:
    if values > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES:,} values, aliases written out; that is no config")


def _values_of(node: yaml.Node, counted: dict[int, float]) -> float:
    """How many values a node stands for; `counted` remembers those of nodes with aliases.

    Raises:
        ValueError: an alias stands for what it is part of, a number is too long or not what it seems, or a key is
            given twice.
    """
    key = id(node)
    if key not in counted:
        # Met again before it is counted, it stands for what it is part of.
        counted[key] = math.nan
        if isinstance(node, yaml.ScalarNode):
            if node.tag in _NUMBERS:
                _require_plain_number(node.value)
            counted[key] = 1
        else:
            if isinstance(node, yaml.MappingNode):
                _require_keys_once(node)
            parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            counted[key] = min(1 + sum(_values_of(part, counted) for part in parts), 10.0 * _MAX_VALUES)
    if math.isnan(counted[key]):
        raise ValueError("an alias stands for what it is part of")
    return counted[key]


def _require_plain_number(text: str) -> None:
    if len(text) > _MAX_NUMBER_LETTERS:
        raise ValueError(f"a number of {len(text):,} letters; at most {_MAX_NUMBER_LETTERS} are read")
    if _OTHER_NUMBER.match(text):
        raise ValueError(
            f"{text} is a number to base 8 or 60 in YAML; write it to base 10 and without a leading 0, or in quotes if "
            "it is a text"
        )


def _require_keys_once(mapping: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in mapping.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            raise ValueError(
                f"the key {key.value[:_SHOWN]!r} is given twice, again in line {key.start_mark.line + 1}; leave one"
            )
        seen.add((key.tag, key.value))


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return result


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not all(key.split(".")):
        raise RichSemError(f"--set {change!r} is not KEY=VALUE; such as --set extra.labels=topk")
    try:
        value = _parse_yaml(text)
    except ValueError as error:
        raise RichSemError(f"--set {change[:_SHOWN]!r}: the value is no YAML of a config ({error})") from None
    first, *rest = key.split(".")
    values[first] = _with_value(values.get(first), rest, value, change)


def _with_value(section: Any, path: Sequence[str], value: Any, change: str) -> Any:
    """A copy of a section, or of a list of sections, with a value at the end of a path."""
    if not path:
        return value
    first, *rest = path
    if not isinstance(section, list):
        inner = dict(section) if isinstance(section, dict) else {}
        return inner | {first: _with_value(inner.get(first), rest, value, change)}
    if not first.isdecimal() or int(first) >= len(section):
        raise RichSemError(
            f"--set {change[:_SHOWN]!r}: there is a list of {len(section)} here; say which one by its number, counted "
            "from 0, such as extra.0.labels"
        )
    position = int(first)
    return [*section[:position], _with_value(section[position], rest, value, change), *section[position + 1 :]]


def _problem(item: Any) -> str:
    where = ".".join(str(part) for part in item["loc"] if part not in (_ONE, _SEVERAL))
    if item["type"] == "extra_forbidden":
        return f"unknown key {where}{_nearest(where, known_keys())}"
    message = item["msg"].removeprefix("Value error, ")
    if not where or item["type"] == "missing":
        return f"{where}: {message}".removeprefix(": ")
    got = _shown(item["input"])
    return f"{where}: {message} (got {got if len(got) <= _SHOWN else got[:_SHOWN] + '…'})"


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:
        return "a number that is too long to show"


def known_keys() -> list[str]:
    """Every key of a config, with dots."""
    return list(dict.fromkeys(_keys("", TrainConfig)))


def _keys(prefix: str, section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield prefix + name
        for inner in _sections(field.annotation):
            yield from _keys(f"{prefix}{name}.", inner)


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in getattr(annotation, "__args__", ()) for section in _sections(part)]


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not close:
        # The right word under another section is found by its last part.
        by_last = {candidate.rpartition(".")[2]: candidate for candidate in names}
        close = [by_last[last] for last in difflib.get_close_matches(name.rpartition(".")[2], by_last, n=1)]
    return f"; did you mean {close[0]}?" if close else ""
