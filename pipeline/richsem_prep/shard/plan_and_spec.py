"""Before shards are made: the plan of OUT, the label set's spec and its text bank, found there or made now."""

from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.executor import Executor
from richsem_prep.shard.finish import pictures_are_done
from richsem_prep.shard.from_cache import adopt_plan, require_pictures_of_its_own
from richsem_prep.shard.out_folder import remove_cache, remove_label_set, sweep_listing
from richsem_prep.shard.plan import default_samples_per_shard, freeze_listing, planned_entries
from richsem_prep.shard.progress import OnProgress, Progress, Reporter
from richsem_prep.sources.dataset import Source
from richsem_prep.sources.datasets import find_dataset, find_pictures, open_source
from richsem_prep.sources.detection_dataset import DetectionDataset
from richsem_prep.teacher.names import alike_warning, text_spec
from richsem_prep.teacher.worker_settings import WorkerDescription
from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout
from richsem_schemas.cache.manifest import LabelSpec, Plan, ViewsSpec
from richsem_schemas.cache.reader import read_plan
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.text_bank import has_text_bank, read_text_bank, write_text_bank
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.places import Place, map_small_files

_PROBES = 64
"""Pictures of a plan that are looked for, to tell where all of them lie."""


def prepare_plan(config: ShardConfig, layout: CacheLayout, reporter: Reporter) -> tuple[Plan, Place]:
    """The plan of OUT, and where the originals lie.

    Raises:
        ManifestMismatchError: OUT follows another plan than is asked for.
        SourceError: the raw data isn't there.
    """
    if config.overwrite:
        _make_room(config, layout, reporter)
    sweep_listing(layout)
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


def _make_room(config: ShardConfig, layout: CacheLayout, reporter: Reporter) -> None:
    """Remove the label set alone where the pictures fit, else the whole cache."""
    try:
        _require_same_plan(config, layout, read_plan(layout))
    except FileNotFoundError:
        return
    except RichSemError:
        reporter.say(f"--overwrite: removing the cache in {config.out}")
        remove_cache(layout)
        return
    reporter.say(f"--overwrite: removing label set {config.label_set} of {config.out}; its pictures stay")
    remove_label_set(layout.label_set(config.label_set))


def _require_same_plan(config: ShardConfig, layout: CacheLayout, plan: Plan) -> None:
    fields = ("dataset", "seed", "samples_per_shard", "limit", "pictures", "max_side")
    asked = {field: getattr(config, field) for field in fields}
    asked["samples_per_shard"] = config.samples_per_shard or plan.samples_per_shard
    if plan.annotations is not None and isinstance(record := find_dataset(plan.dataset), DetectionDataset):
        asked |= record.other_annotations(plan, config.root, config.annotations)
    wanted = plan.model_copy(update=asked)
    remedy = "Use another --out, ask for the same, or begin anew with --overwrite"
    require_same(layout.plan, plan, wanted, remedy=remedy)


def _root_of_pictures(config: ShardConfig, layout: CacheLayout, plan: Plan) -> Place:
    """Where the pictures of a plan lie; raw data that may be gone is only looked for where it is needed."""
    if plan.pictures == "copy" and not config.retry_failed:
        done = map_small_files(layout.out, lambda shard: pictures_are_done(layout, shard, plan), range(plan.shards))
        if all(done):
            return config.root
    names = [entry.name for entry in planned_entries(layout, plan, 0, range(min(_PROBES, plan.shard_samples(0))))]
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


def prepare_label_set(
    config: ShardConfig,
    label_set: LabelSetLayout,
    plan: Plan,
    description: WorkerDescription,
    executor: Executor,
    reporter: Reporter,
) -> None:
    """Write the label set's spec and text bank, or check that they are what this run asks for.

    Raises:
        ManifestMismatchError: the set was begun otherwise; names the fields that differ.
    """
    spec = _label_spec(config, plan, description)
    if label_set.spec.is_file():
        remedy = "Name another set with --label-set, ask for the same, or begin the set anew with --overwrite"
        require_same(label_set.spec, LabelSpec.read(label_set.spec), spec, remedy=remedy)
    if not has_text_bank(label_set, spec.text):
        on_progress = reporter.stage("text", len(plan.vocabulary.class_names), "classes")
        write_text_bank(label_set, executor.text_bank(plan.vocabulary, config.names, on_progress))
    if warning := alike_warning(read_text_bank(label_set)):
        reporter.say(f"warning: {warning}")
    spec.write(label_set.spec)


def _label_spec(config: ShardConfig, plan: Plan, description: WorkerDescription) -> LabelSpec:
    return LabelSpec(
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
