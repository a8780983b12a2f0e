"""Settings that a driver gives its workers, and their answer; needs neither torch nor Ray."""

from dataclasses import dataclass

from richsem_schemas.cache.field_types import Precision
from richsem_schemas.cache.manifest import Environment, RegionEncoderSpec, TeacherIdentity


@dataclass(frozen=True)
class WorkerSettings:
    """The settings of a worker before it knows any cache.

    Attributes:
        region_encoder: `roi-align`, `crop`, or None for what suits the teacher.
        teacher_size: longer side of a view as the teacher sees it, pixels; None is the view's own.
        device: as torch writes it; None is the first CUDA device if there is one.
        precision: None is fp16 on CUDA, fp32 elsewhere.
    """

    teacher: str
    region_encoder: str | None
    teacher_size: int | None
    device: str | None
    precision: Precision | None
    decode_threads: int


@dataclass(frozen=True)
class WorkerDescription:
    """A worker's answer: the teacher and the environment that its settings led to.

    Attributes:
        has_room_beside: whether its GPU has memory for another like it; True without a GPU.
    """

    teacher: TeacherIdentity
    region_encoder: RegionEncoderSpec
    precision: Precision
    templates: tuple[str, ...]
    environment: Environment
    has_room_beside: bool = True
