"""The driver of `richsem-prep shard`: plan, teacher, text, shards, manifests, in this order."""

import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field

from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.executor import Executor, MakeExecutor
from richsem_prep.shard.finish import finish_cache, shard_is_done
from richsem_prep.shard.out_folder import require_usable_out, sweep_shards
from richsem_prep.shard.plan_and_spec import prepare_label_set, prepare_plan
from richsem_prep.shard.progress import Reporter, ShardResult
from richsem_prep.shard.retry import drop_mended_shards
from richsem_schemas.cache.jobs import hold_job, one_at_a_time
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelSpec, Plan, ShardSummary
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import Place, RemotePath, map_small_files


@dataclass
class RunSummary:
    """A run's shards and its times.

    Attributes:
        results: of the shards made in this run, by shard.
        failed: shards given up, and why.
        left_out: what the listing left out, of the whole plan: missing pictures, and those that no cache holds.
        already: shards that were there before.
        complete: whether every shard of the label set is there now.
        pictures: that the complete cache holds.
        start_seconds: until the first shard could begin: listing, Ray, teacher, text.
    """

    layout: CacheLayout
    label_set: str
    results: dict[int, ShardResult] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    left_out: int = 0
    already: int = 0
    complete: bool = False
    pictures: int = 0
    start_seconds: float = 0.0
    work_seconds: float = 0.0
    workers: int = 0

    @property
    def summaries(self) -> list[ShardSummary]:
        """Of the labels of the shards made in this run."""
        return [result.receipt.summary for result in self.results.values()]

    @property
    def stage_seconds(self) -> dict[str, float]:
        """By stage, summed over shards."""
        total: Counter[str] = Counter()
        for result in self.results.values():
            total.update(result.seconds)
        return dict(total)


def shard(config: ShardConfig, reporter: Reporter, make_executor: MakeExecutor) -> RunSummary:
    """Run `richsem-prep shard`.

    Raises:
        RichSemError: a mistake of the user's, or something that would fail every shard.
    """
    start = time.monotonic()
    layout = CacheLayout(config.out, config.dataset)
    label_set = layout.label_set(config.label_set)
    require_usable_out(config)
    if isinstance(config.out, RemotePath):
        reporter.say(f"{config.out}: nothing keeps jobs apart there; see that no two make the same shards")
    with hold_job(config.out, range(*config.shard_range) if config.shard_range else None):
        # It starts while the plan is made.
        with closing(make_executor(config)) as executor:
            with one_at_a_time(config.out):
                plan, root = prepare_plan(config, layout, reporter)
            shards = _wanted_shards(config, plan)
            sweep_shards(layout, label_set, shards)
            if config.retry_failed:
                drop_mended_shards(layout, plan, root, say=reporter.say)
            executor.start(len(shards))
            reporter.say(f"starting {executor.workers} worker{'s' * (executor.workers > 1)}, teacher {config.teacher}")
            description = executor.describe()
            with one_at_a_time(config.out):
                prepare_label_set(config, label_set, plan, description, executor, reporter)
            summary = RunSummary(layout, config.label_set, left_out=plan.rejected, workers=executor.workers)
            summary.start_seconds = time.monotonic() - start
            _make_shards(shards, plan, root, executor, reporter, summary)
        if not config.shard_range and not summary.failed:
            for note in finish_cache(layout, [config.label_set]):
                reporter.say(f"note: {note}")
            summary.complete = True
            summary.pictures = CacheManifest.read(layout.manifest).samples
    return summary


def _wanted_shards(config: ShardConfig, plan: Plan) -> range:
    if config.shard_range is None:
        return range(plan.shards)
    first, last = config.shard_range
    if first >= plan.shards:
        raise RichSemError(
            f"--shard-range {first}:{last} begins after the last shard; the plan has {plan.shards} "
            f"(0:{plan.shards}) of {plan.samples_per_shard} samples"
        )
    return range(first, min(last, plan.shards))


def _make_shards(
    shards: range, plan: Plan, root: Place, executor: Executor, reporter: Reporter, summary: RunSummary
) -> None:
    layout, name = summary.layout, summary.label_set
    spec = LabelSpec.read(layout.label_set(name).spec)
    done = map_small_files(layout.out, lambda shard: shard_is_done(layout, name, shard, plan, spec), shards)
    missing = [shard for shard, is_done in zip(shards, done, strict=True) if not is_done]
    summary.already = len(shards) - len(missing)
    if not missing:
        return
    start = time.monotonic()
    on_progress = reporter.stage("shards", sum(map(plan.shard_samples, missing)), "images")
    for outcome in executor.run(missing, layout, name, root, on_progress):
        reporter.shard_done(outcome)
        if outcome.result is not None:
            summary.results[outcome.shard] = outcome.result
        elif outcome.failure is not None:
            summary.failed[outcome.shard] = outcome.failure.message
    # Workers that were lost leave what they had begun.
    sweep_shards(layout, layout.label_set(name), shards)
    summary.work_seconds = time.monotonic() - start
