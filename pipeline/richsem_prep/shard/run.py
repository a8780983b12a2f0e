"""The driver of `richsem-prep shard`: plan, teacher, text, shards, manifests, in this order."""

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from richsem_prep.executors.base import Executor, InlineExecutor, OnProgress, ShardOutcome
from richsem_prep.executors.progress import Progress
from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.finish import finish_cache, pictures_are_done, shard_is_done
from richsem_prep.shard.from_cache import adopt_plan, require_pictures_of_its_own
from richsem_prep.shard.plan import default_samples_per_shard, freeze_listing, planned_entries
from richsem_prep.shard.retry import drop_mended_shards
from richsem_prep.sources.dataset import Source
from richsem_prep.sources.datasets import find_dataset, find_pictures, open_source, other_annotations
from richsem_prep.teacher.names import alike_warning, text_spec
from richsem_prep.teacher.settings import MAX_DECODE_THREADS, WorkerDescription, WorkerSettings
from richsem_schemas.cache.jobs import JOBS_FOLDER, hold_job, one_at_a_time
from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelSpec, Plan, ViewsSpec, require_same
from richsem_schemas.cache.reader import read_plan
from richsem_schemas.cache.text_bank import has_text_bank, read_text_bank, write_text_bank
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import temporaries
from richsem_schemas.io.places import Place, RemotePath, is_local, lives_in_this_process, map_small_files

if TYPE_CHECKING:
    from richsem_prep.shard.task import ShardResult

_PARTS = ("manifest.json", "receipts", "plan", "pictures", "labels", "index", "quarantine", "audits")
_PROBES = 64
"""Pictures of a plan that are looked for, to tell where all of them lie."""

_SUFFIXES = (".json", ".jsonl", ".tar", ".parquet", ".arrow", ".npy", ".tmp")
"""Everything that this program writes into an OUT."""


class Reporter(Protocol):
    """Where a run says what it does."""

    def say(self, message: str) -> None:
        """One line that stays."""

    def stage(self, name: str, total: int | None, unit: str) -> OnProgress:
        """Begin a stage with a progress bar; returns what the counters are reported to."""

    def shard_done(self, outcome: ShardOutcome) -> None:
        """A shard was made or given up."""


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        results: of the shards made in this run, by shard.
        failed: shards given up, and why.
        left_out: what the listing left out, of the whole plan: missing pictures, and those that no cache holds.
        already: shards that were there before.
        complete: whether every shard of the label set is there now.
        pictures: that the complete cache holds.
        start_seconds: until the first shard could begin: listing, Ray, teacher, text.
        work_seconds: making shards.
        workers: how many worked.
    """

    layout: CacheLayout
    labels: str
    results: "dict[int, ShardResult]" = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    left_out: int = 0
    already: int = 0
    complete: bool = False
    pictures: int = 0
    start_seconds: float = 0.0
    work_seconds: float = 0.0
    workers: int = 0


def shard(config: ShardConfig, reporter: Reporter) -> RunSummary:
    """Run `richsem-prep shard`.

    Raises:
        RichSemError: a mistake of the user's, or something that would fail every shard.
    """
    start = time.monotonic()
    layout = CacheLayout(config.out, config.dataset)
    _require_usable_out(config.out, config.root, config.executor)
    if config.from_cache is not None:
        _require_usable_out(config.out, config.from_cache, config.executor, option="--from-cache")
    if not is_local(config.out):
        reporter.say(f"{config.out}: nothing keeps jobs apart there; see that no two make the same shards")
    with hold_job(config.out, range(*config.shard_range) if config.shard_range else None):
        with one_at_a_time(config.out):
            plan, root = _prepare_plan(config, layout, reporter)
        shards = _wanted_shards(config, plan)
        _sweep(layout, config.labels, shards)
        if config.retry_failed:
            drop_mended_shards(layout, plan, root, say=reporter.say)
        with closing(_make_executor(config, len(shards))) as executor:
            reporter.say(f"starting {executor.workers} worker{'s' * (executor.workers > 1)}, teacher {config.teacher}")
            description = executor.describe()
            with one_at_a_time(config.out):
                _prepare_label_set(config, layout.label_set(config.labels), plan, description, executor, reporter)
            summary = RunSummary(layout, config.labels, left_out=plan.rejected, workers=executor.workers)
            summary.start_seconds = time.monotonic() - start
            _make_shards(shards, plan, root, executor, reporter, summary)
        if not config.shard_range and not summary.failed:
            for note in finish_cache(layout, [config.labels]):
                reporter.say(f"note: {note}")
            summary.complete = True
            summary.pictures = CacheManifest.read(layout.manifest).samples
    return summary


def _make_shards(
    shards: range, plan: Plan, root: Place, executor: Executor, reporter: Reporter, summary: RunSummary
) -> None:
    layout, labels = summary.layout, summary.labels
    spec = LabelSpec.read(layout.label_set(labels).spec)
    done = map_small_files(layout.out, lambda shard: shard_is_done(layout, labels, shard, plan, spec), shards)
    missing = [shard for shard, is_done in zip(shards, done, strict=True) if not is_done]
    summary.already = len(shards) - len(missing)
    if not missing:
        return
    start = time.monotonic()
    on_progress = reporter.stage("shards", sum(map(plan.shard_samples, missing)), "images")
    for outcome in executor.run(missing, layout, labels, root, on_progress):
        reporter.shard_done(outcome)
        if outcome.result is not None:
            summary.results[outcome.shard] = outcome.result
        elif outcome.failure is not None:
            summary.failed[outcome.shard] = outcome.failure.message
    # What workers that were lost had begun.
    _sweep(layout, labels, shards)
    summary.work_seconds = time.monotonic() - start


def _require_usable_out(out: Place, root: Place, executor: str, *, option: str = "--root") -> None:
    if executor == "ray" and (lives_in_this_process(out) or lives_in_this_process(root)):
        raise RichSemError(f"--out {out} {option} {root}: only this process sees memory://; use --executor inline")
    if out.exists() and not out.is_dir():
        raise RichSemError(f"--out {out} is no folder; name one")
    try:
        os.fsencode(str(out)).decode()
    except UnicodeDecodeError:
        raise RichSemError(f"--out {str(out)!r} has a name that is no UTF-8; name another") from None
    inner, outer = sorted((f"{place.resolve()}/" for place in (out, root)), key=len, reverse=True)
    if inner.startswith(outer):
        raise RichSemError(f"--out {out} and {option} {root} lie in each other; a cache needs a folder of its own")
    if not out.is_dir() or (out / "plan" / "plan.json").is_file() or (out / "plan" / "listing.arrow").is_file():
        return
    strangers = sorted(path.name for path in out.iterdir() if path.name != JOBS_FOLDER and not _is_begun_listing(path))
    if strangers:
        raise RichSemError(
            f"--out {out} holds other things ({', '.join(strangers[:5])}) and no cache; name a new or empty folder"
        )


def _is_begun_listing(path: Place) -> bool:
    """Whether a listing is being made here, or was when its run was killed: nothing has its name yet."""
    return (
        path.name in {"plan", "quarantine"}
        and path.is_dir()
        and all(part.name.startswith(".") and part.name.endswith(".tmp") for part in path.iterdir())
    )


def _make_executor(config: ShardConfig, shards: int) -> Executor:
    settings = _worker_settings(config)
    if config.executor == "inline":
        return InlineExecutor(settings)
    from richsem_prep.executors.ray import RayExecutor  # noqa: PLC0415 - Ray is loaded when it is needed

    return RayExecutor(settings, workers=config.workers, address=config.ray_address, max_workers=max(shards, 1))


def _worker_settings(config: ShardConfig) -> WorkerSettings:
    return WorkerSettings(
        teacher=config.teacher,
        region_encoder=config.region_encoder,
        teacher_size=config.teacher_size,
        device=config.device,
        precision=config.precision,
        decode_threads=min(len(os.sched_getaffinity(0)), MAX_DECODE_THREADS),
    )


def _prepare_plan(config: ShardConfig, layout: CacheLayout, reporter: Reporter) -> tuple[Plan, Place]:
    """The plan of OUT, found there or made now, and where the originals lie."""
    if config.overwrite:
        _clear(config, layout, reporter)
    # Of the quarantine the listing's alone: jobs with other shards may be at work there.
    quarantined = (part for part in temporaries(layout.listing_quarantine.parent) if part.name.startswith(".listing."))
    for leftover in (*temporaries(layout.plan.parent), *quarantined):
        leftover.unlink(missing_ok=True)
    if config.from_cache is not None:
        return adopt_plan(layout, config.from_cache), config.root
    require_pictures_of_its_own(layout)
    if layout.plan.exists():
        plan = read_plan(layout)
        _require_same_plan(config, layout, plan)
        return plan, _root_of_pictures(config, layout, plan)
    source = open_source(config.dataset, config.root, annotations=config.annotations, images=config.images)
    for note in source.notes:
        reporter.say(note)
    if source.absent:
        shown = ", ".join(source.absent[:5]) + (", …" if len(source.absent) > 5 else "")
        known = source.class_count
        reporter.say(f"{known - len(source.absent)} of {known} classes found in {config.root}; absent: {shown}")
    return _freeze_plan(config, layout, source, reporter.stage("listing", None, "pictures")), source.root


def _root_of_pictures(config: ShardConfig, layout: CacheLayout, plan: Plan) -> Place:
    """Where the pictures of a plan lie; raw data that may be gone is only looked for where it is needed."""
    if plan.pictures == "copy" and not config.retry_failed:
        done = map_small_files(layout.out, lambda shard: pictures_are_done(layout, shard, plan), range(plan.shards))
        if all(done):
            return config.root
    names = [entry.name for entry in planned_entries(layout, plan, 0)[:_PROBES]]
    return find_pictures(config.dataset, config.root, plan, names, images=config.images)


def _freeze_plan(config: ShardConfig, layout: CacheLayout, source: Source, on_progress: OnProgress) -> Plan:
    listing = freeze_listing(
        layout,
        source.entries(),
        on_progress=lambda listed: on_progress(Progress(listed)),
        has_boxes=source.has_boxes,
        has_captions=source.has_captions,
    )
    samples = min(listing.listed, config.limit or listing.listed)
    plan = Plan(
        dataset=config.dataset,
        seed=config.seed,
        listed=listing.listed,
        samples=samples,
        samples_per_shard=config.samples_per_shard or default_samples_per_shard(samples),
        limit=config.limit,
        pictures=config.pictures,
        max_side=config.max_side,
        root=str(source.root) if config.pictures == "reference" else None,
        annotations=source.annotations,
        annotations_file=source.annotations_file,
        vocabulary=source.vocabulary,
        absent_classes=source.absent,
        listing=listing.file,
        rejected=listing.rejected,
        listing_quarantine=listing.quarantine,
    )
    plan.write(layout.plan)
    return plan


def _require_same_plan(config: ShardConfig, layout: CacheLayout, plan: Plan) -> None:
    fields = ("dataset", "seed", "samples_per_shard", "limit", "pictures", "max_side")
    asked = {field: getattr(config, field) for field in fields}
    asked["samples_per_shard"] = config.samples_per_shard or plan.samples_per_shard
    if plan.annotations is not None:
        asked |= other_annotations(plan, config.root, config.annotations)
    wanted = plan.model_copy(update=asked)
    remedy = "Use another --out, ask for the same, or begin anew with --overwrite"
    require_same(layout.plan, plan, wanted, remedy=remedy)


def _clear(config: ShardConfig, layout: CacheLayout, reporter: Reporter) -> None:
    """Make room for `--overwrite`: the label set alone where the pictures fit, else the whole cache."""
    try:
        plan = read_plan(layout)
        _require_same_plan(config, layout, plan)
    except FileNotFoundError:
        return
    except RichSemError:
        reporter.say(f"--overwrite: removing the cache in {config.out}")
        for part in _PARTS:
            _remove(config.out / part)
        return
    reporter.say(f"--overwrite: removing label set {config.labels} of {config.out}; its pictures stay")
    label_set = layout.label_set(config.labels)
    # First, so that what is half removed is no set.
    for path in (
        label_set.manifest,
        label_set.folder,
        label_set.index(0).parent,
        label_set.receipt(0).parent,
        label_set.audits,
    ):
        _remove(path)


def _remove(path: Place) -> None:
    """Remove a file, or what this program wrote into a folder; anything else in it stays."""
    if isinstance(path, RemotePath):
        path.unlink(missing_ok=True)
        written = [path / name for name in path.sizes_below() if PurePosixPath(name).suffix in _SUFFIXES]
        map_small_files(path, lambda file: file.unlink(missing_ok=True), written)
        return
    if not path.is_dir() or path.is_symlink():
        path.unlink(missing_ok=True)
        return
    for item in path.iterdir():
        if item.is_dir() or item.suffix in _SUFFIXES:
            _remove(item)
    with suppress(OSError):
        path.rmdir()


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


def _sweep(layout: CacheLayout, labels: str, shards: range) -> None:
    """Remove what a killed run or worker left under temporary names, of these shards alone: others may be at work."""
    label_set = layout.label_set(labels)
    folders = {path(0).parent for path in _files_of(layout, label_set)}
    mine = {layout.shard_name(shard) for shard in shards}
    for folder in folders:
        for path in temporaries(folder):
            if path.name.removeprefix(".").partition(".")[0] in mine:
                path.unlink(missing_ok=True)


def _files_of(layout: CacheLayout, label_set: LabelSetLayout) -> tuple[Callable[[int], Place], ...]:
    return (
        layout.pictures_tar,
        layout.pictures_index,
        layout.pictures_receipt,
        layout.quarantine,
        label_set.tar,
        label_set.index,
        label_set.receipt,
    )


def _prepare_label_set(
    config: ShardConfig,
    label_set: LabelSetLayout,
    plan: Plan,
    description: WorkerDescription,
    executor: Executor,
    reporter: Reporter,
) -> None:
    """Write the label set's spec and text bank, or check that they are what this run asks for."""
    spec = LabelSpec(
        plan_fingerprint=plan.fingerprint,
        teacher=description.teacher,
        region_encoder=description.region_encoder,
        precision=description.precision,
        views=ViewsSpec(
            crops=config.crops,
            mosaics=config.mosaics,
            windows=config.windows,
            whole=config.whole,
            jitters=config.jitters,
            noise_scales=config.noise,
            geometry=find_dataset(config.dataset).geometry.model_copy(update={"scale_jitter": config.scale_jitter}),
        ),
        text=text_spec(plan.vocabulary, config.names, description.templates),
        embeddings=config.embeddings,
        top_k=min(config.top_k, len(plan.vocabulary.class_names)),
    )
    if label_set.spec.is_file():
        remedy = "Name another set with --labels, ask for the same, or begin the set anew with --overwrite"
        require_same(label_set.spec, LabelSpec.read(label_set.spec), spec, remedy=remedy)
    if not has_text_bank(label_set, spec.text):
        on_progress = reporter.stage("text", len(plan.vocabulary.class_names), "classes")
        write_text_bank(label_set, executor.text_bank(plan.vocabulary, config.names, on_progress))
    if warning := alike_warning(read_text_bank(label_set)):
        reporter.say(f"warning: {warning}")
    spec.write(label_set.spec)
