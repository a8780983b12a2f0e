"""A whole config, and its sections `schedule`, `evaluation` and `log`: how long, how fast, and what is kept."""

import json
from typing import Annotated, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, model_validator

from richsem_train.choices import LearningRates, Precision
from richsem_train.config.data import ClassifierTextConfig, DetectionConfig, ExtraConfig, TextConfig
from richsem_train.config.fields import Epochs, LocalPath, Pictures, Section, Side, Steps
from richsem_train.config.model import AnyModelConfig, DinoConfig, LossConfig


class ScheduleConfig(Section):
    """How long, how fast."""

    epochs: Epochs = 24
    """Over the detection data; extra batches come on top, one for each."""

    global_batch_size: Pictures = 16
    """Pictures a step, over all ranks."""

    extra_batch_size: Pictures | None = None
    """The same of steps of extra data; null is as many as `global_batch_size`."""

    accumulate: Pictures = 1
    """Parts that a rank's share of the batch is cut into, for less memory. Draws that are padded to other sizes go
    through the model one after the other in any case."""

    pictures_a_draw: Pictures = 2
    """Consecutive pictures of the global batch that share their federated classes, their denoising groups and their
    padding, on however many ranks and in however many parts; what a rank of the reference holds."""

    lr: PositiveFloat = 1e-4
    """Learning rate of AdamW, of all but the backbone."""

    backbone_lr: NonNegativeFloat = 1e-5
    """Learning rate of the backbone."""

    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of AdamW, on all weights."""

    lr_schedule: LearningRates = "steps"
    """How the learning rates fall: in `steps`, at `lr_drops`, or as half a `cosine`, from the warm-up's end to 0 at the
    end of the run."""

    lr_drops: tuple[Epochs, ...] = (20,)
    """Epochs after which the learning rates fall to a tenth, with `lr_schedule: steps`."""

    warmup_steps: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    """Steps over which the learning rates rise linearly from 0."""

    clip_norm: PositiveFloat | None = 0.1
    """Most that the norm of the gradient may be; null doesn't clip by it."""

    clip_value: PositiveFloat | None = None
    """Most that any number of the gradient may be, up or down; in the place of `clip_norm`. Null doesn't clip by it."""

    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the averaged weights that are scored and exported; null keeps none."""

    precision: Precision = "tf32"
    """Precision of the network. With `bf16` boxes, cosines and losses stay fp32. With `tf32` all numbers are fp32, and
    CUDA devices round the factors of convolutions and matrix products to 10 bits of mantissa; other devices do not."""

    compile: bool = False
    """Compile the backbone by `torch.compile`."""

    @property
    def batch_sizes(self) -> dict[str, int]:
        """Pictures of a step of detection and of extra data, by the key that says so."""
        extra = {} if self.extra_batch_size is None else {"extra_batch_size": self.extra_batch_size}
        return {"global_batch_size": self.global_batch_size, **extra}

    @model_validator(mode="after")
    def _clips_by_one_measure(self) -> Self:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError(
                f"schedule.clip_norm={self.clip_norm} and schedule.clip_value={self.clip_value} are two ways to clip; "
                "set one of the two to null"
            )
        return self


class EvaluationConfig(Section):
    """How the detector is scored, and how large it sees a picture then (and in `predict`)."""

    every_epochs: Epochs = 1
    """Epochs between two evaluations; there is one after the last epoch in any case."""

    batch_size: Annotated[int, Field(gt=0, le=256)] = 4
    """Pictures at a time, a rank: at most so many, padded to one size, so that the number makes no difference to what
    is found in them."""

    detections: Annotated[int, Field(gt=0, le=10_000)] = 300
    """Boxes that are kept of a picture, the best ones."""

    short_side: Side = 800
    """Short side that a picture is resized to, pixels."""

    longest_side: Side = 1333
    """The long side has at most this many pixels."""


class LogConfig(Section):
    """What is kept of a run."""

    every_steps: Steps = 20
    """Steps between two lines of the log."""

    checkpoint_every_steps: Steps = 1000
    """Steps between two checkpoints, besides one an epoch."""

    tensorboard: bool = True
    """Write TensorBoard files, into OUT/tensorboard."""

    wandb: str | None = None
    """Name of a Weights & Biases project; null is none."""


ONE, SEVERAL = "one cache", "several caches"
"""Pydantic's words for the two forms of `extra`, which are no keys."""

_Extra = Annotated[
    Annotated[ExtraConfig, Tag(ONE)] | Annotated[Annotated[tuple[ExtraConfig, ...], Field(min_length=1)], Tag(SEVERAL)],
    Discriminator(lambda value: SEVERAL if isinstance(value, list | tuple) else ONE),
]


class TrainConfig(Section):
    """A whole run."""

    name: Annotated[str, Field(pattern=r"^[^/\x00-\x1f]+$")]
    """Name of the config; runs of one name are compared as seeds of one arm."""

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The only source of randomness."""

    workers: Annotated[int, Field(ge=0, le=1000)] = 4
    """Loader processes a rank, for each kind of data."""

    data: LocalPath | None = None
    """Folder that relative paths of data start from; null is `$RICHSEM_DATA`, or `data`."""

    start_from: LocalPath | None = None
    """A checkpoint whose weights the model starts with, a published one included; classifiers of other classes are left
    out."""

    cache_gb: Annotated[float, Field(ge=0, le=1e9)] = 20.0
    """Most gigabytes of caches at URLs that the local disk keeps; 0 keeps none."""

    detection: DetectionConfig
    """The detection data."""

    text: TextConfig | None = None
    """The text bank; null is that of the caches."""

    classifier_text: ClassifierTextConfig | None = None
    """Another text bank for the classifier, with the same names, such as of another CLIP: `text` is then that of the
    soft labels and their branch alone. Null is `text`."""

    extra: _Extra | None = None
    """Extra data: a section, or a list of them for several caches at once."""

    model: AnyModelConfig = DinoConfig()
    """The detector."""

    loss: LossConfig = LossConfig()
    """Weights and settings of the losses."""

    schedule: ScheduleConfig = ScheduleConfig()
    """How long, how fast."""

    evaluation: EvaluationConfig = EvaluationConfig()
    """How the detector is scored."""

    log: LogConfig = LogConfig()
    """What is kept of a run."""

    @property
    def extras(self) -> dict[str, ExtraConfig]:
        """The extra data by its section's name: `extra`, or `extra.0`, `extra.1`... of a list."""
        if self.extra is None:
            return {}
        if isinstance(self.extra, ExtraConfig):
            return {"extra": self.extra}
        return {f"extra.{number}": each for number, each in enumerate(self.extra)}

    @property
    def learns_images(self) -> bool:
        """Whether extra pictures are labelled as a whole."""
        return any(extra.supervision == "image" for extra in self.extras.values())

    @model_validator(mode="after")
    def _labels_come_from_a_cache(self) -> Self:
        detection = self.detection
        if detection.labels == "cache" and detection.cache is None:
            raise ValueError(
                "detection.labels=cache learns the soft labels of a cache of the detection pictures; name it as "
                "detection.cache, or train without them by detection.labels=none"
            )
        if detection.views == "stored" and detection.labels != "cache":
            raise ValueError(
                f"detection.views=stored shows the windows of a cache, and detection.labels={detection.labels} "
                "takes none; detection.views=fresh augments the pictures"
            )
        has_text = self.text is not None or self.classifier_text is not None
        if self.model.needs_text and not has_text and self.extra is None and detection.labels != "cache":
            raise ValueError(
                "the model needs a text bank; name text.cache or text.folder, or a cache as extra.cache or "
                "detection.cache"
            )
        return self

    @model_validator(mode="after")
    def _labels_meet_a_semantic_branch(self) -> Self:
        model = self.model
        teaches = self.detection.labels != "none" or any(each.labels != "hard" for each in self.extras.values())
        if teaches and not model.semantic_branch and self.loss.soft_weight:
            raise ValueError(
                "there are labels for the semantic branch, and model.semantic_branch is false; set it to true, "
                "or loss.soft_weight to 0"
            )
        if model.semantic_branch and not model.classifies_by_text:
            raise ValueError("model.semantic_branch learns cosines with names; it needs model.classifier=text")
        return self

    @model_validator(mode="after")
    def _losses_are_of_the_detector(self) -> Self:
        found, defaults = self.loss.model_dump(mode="json"), LossConfig().model_dump(mode="json")
        for key in self.model.unused_losses:
            if found[key] != defaults[key]:
                raise ValueError(
                    f"loss.{key} is {json.dumps(found[key])}, which model.detector={self.model.detector} has no use "
                    f"for; leave it at {json.dumps(defaults[key])}"
                )
        return self

    @model_validator(mode="after")
    def _batches_are_parts_of_whole_draws(self) -> Self:
        schedule = self.schedule
        for key, pictures in schedule.batch_sizes.items():
            if pictures % (schedule.accumulate * schedule.pictures_a_draw):
                raise ValueError(
                    f"schedule.{key} {pictures} can't be cut into schedule.accumulate {schedule.accumulate} parts of "
                    f"whole draws of schedule.pictures_a_draw {schedule.pictures_a_draw}; use a multiple of "
                    f"{schedule.accumulate * schedule.pictures_a_draw}, or change one of the two"
                )
        return self
