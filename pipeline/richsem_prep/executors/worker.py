"""One worker: owns one device and one teacher, and makes whole shards. The same object serves every executor."""

import os
from collections.abc import Callable

import numpy
import open_clip
import PIL
import PIL.features
import torch
import torchvision

from richsem_prep.shard.progress import Progress, ShardResult
from richsem_prep.shard.task import ShardInputs, run_shard
from richsem_prep.teacher.region_encoder import make_region_encoder
from richsem_prep.teacher.teacher import load_teacher, parse_teacher, torch_device
from richsem_prep.teacher.text import TEMPLATES, text_bank
from richsem_prep.teacher.worker_settings import WorkerDescription, WorkerSettings
from richsem_schemas.cache.field_types import NamePolicy, Precision
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import Environment, LabelSpec, Plan
from richsem_schemas.cache.reader import pictures_layout
from richsem_schemas.cache.text_bank import TextBank, read_text_bank
from richsem_schemas.errors import TeacherError
from richsem_schemas.io.memory import keep_freed_memory
from richsem_schemas.io.ordered_map import cores
from richsem_schemas.io.places import Place
from richsem_schemas.pictures.resize import KERNEL
from richsem_schemas.vocabularies.vocabulary import Vocabulary

TORCH_THREADS = 1
"""Pinned, since the number of threads changes the last digits: the bytes must not depend on how many workers share a
machine. On a CPU two workers of one thread each beat one of two; on a GPU it doesn't matter."""

LEAST_DIM_FOR_THREADS = 256
"""Width of the smallest teacher whose text all cores encode. One like the demo's takes less time for an operation than
threads take to meet, and much more where something else runs on the machine."""

_BYTES_OF_BATCHES = 4 * 2**30
"""What a worker takes of a GPU beside its weights, at most: a batch's layers in half precision, and CUDA itself."""


class Worker:
    """Loads the teacher once, then makes shards.

    Raises:
        TeacherError: the teacher can't be built, or the device isn't there.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        keep_freed_memory()
        torch.set_num_threads(TORCH_THREADS)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        device = torch_device(settings.device)
        self.progress = Progress()
        self._teacher = load_teacher(parse_teacher(settings.teacher), device=device)
        self._precision: Precision = settings.precision or ("fp16" if device.type == "cuda" else "fp32")
        self.encoder = make_region_encoder(
            self._teacher,
            kind=settings.region_encoder,
            teacher_size=settings.teacher_size,
            precision=self._precision,
        )
        self._decode_threads = settings.decode_threads
        self._inputs: ShardInputs | None = None

    def describe(self) -> WorkerDescription:
        """Teacher, encoder and environment, for the label set's spec."""
        return WorkerDescription(
            self._teacher.identity,
            self.encoder.spec,
            self._precision,
            TEMPLATES,
            _environment(self._teacher.device),
            has_room_for_two(self.weights_bytes, _memory_bytes(self._teacher.device)),
        )

    def text_bank(
        self, vocabulary: Vocabulary, policy: NamePolicy, on_progress: Callable[[int, int], None] | None = None
    ) -> TextBank:
        """The text bank of a vocabulary; progress takes the classes done, and all."""

        def count(done: int, total: int) -> None:
            self.progress.text_classes = done
            if on_progress is not None:
                on_progress(done, total)

        # No shard is being made yet, so all cores are free for it.
        if self._teacher.identity.embed_dim >= LEAST_DIM_FOR_THREADS:
            torch.set_num_threads(cores())
        try:
            return text_bank(self._teacher, vocabulary, policy, on_progress=count)
        finally:
            torch.set_num_threads(TORCH_THREADS)

    @property
    def weights_bytes(self) -> int:
        """Of the teacher's parameters and buffers, both towers, as they are in memory."""
        return sum(tensor.nbytes for tensor in self._teacher.model.state_dict().values())

    def open(self, layout: CacheLayout, name: str, root: Place | None) -> None:
        """Get ready for the shards of one label set.

        Raises:
            TeacherError: this machine's weights are not those that the label set was begun with.
        """
        label_set = layout.label_set(name)
        spec = LabelSpec.read(label_set.spec)
        if spec.teacher != self._teacher.identity:
            raise TeacherError(
                f"{label_set.spec} was begun with weights {spec.teacher.weights_sha256[:12]}…, the same name gives "
                f"{self._teacher.identity.weights_sha256[:12]}… on {os.uname().nodename}; "
                "put the same weights on every machine"
            )
        self._inputs = ShardInputs(
            layout=layout,
            label_set=name,
            plan=Plan.read(layout.plan),
            spec=spec,
            text=read_text_bank(label_set),
            root=root,
            decode_threads=self._decode_threads,
            environment=_environment(self._teacher.device),
            pictures=pictures_layout(layout),
        )

    def run(self, shard: int) -> ShardResult:
        """Make one shard."""
        assert self._inputs is not None
        return run_shard(shard, self._inputs, self.encoder, self.progress)


def has_room_for_two(weights_bytes: int, memory_bytes: int | None) -> bool:
    """Whether a GPU of so much memory has room for two workers; one without an own memory always has."""
    return memory_bytes is None or 2 * (weights_bytes + _BYTES_OF_BATCHES) <= memory_bytes


def _memory_bytes(device: torch.device) -> int | None:
    """Of a GPU; None of the host."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def _environment(device: torch.device) -> Environment:
    cpu = f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        torch_threads=TORCH_THREADS,
        versions={
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "open_clip": open_clip.__version__,
            "pillow": PIL.__version__,
            "resizer": KERNEL,
            "libjpeg_turbo": str(PIL.features.version_feature("libjpeg_turbo")),
            "numpy": numpy.__version__,
        },
    )
