"""The executor that a config asks for."""

from richsem_prep.executors.inline import InlineExecutor
from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.executor import Executor
from richsem_prep.teacher.worker_settings import WorkerSettings
from richsem_schemas.io.ordered_map import default_threads


def make_executor(config: ShardConfig) -> Executor:
    """The executor of a run; it may begin to start in the background.

    Raises:
        RichSemError: its cluster can't be reached.
    """
    settings = WorkerSettings(
        teacher=config.teacher,
        region_encoder=config.region_encoder,
        teacher_size=config.teacher_size,
        device=config.device,
        precision=config.precision,
        decode_threads=default_threads(),
    )
    if config.executor == "inline":
        return InlineExecutor(settings)
    from richsem_prep.executors.ray import RayExecutor  # noqa: PLC0415 - Ray is loaded when it is needed

    return RayExecutor(settings, workers=config.workers, address=config.ray_address)
