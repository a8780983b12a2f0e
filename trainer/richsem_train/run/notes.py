"""What a run says of itself before its first step."""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from richsem_schemas.annotations import DetectionData
from richsem_train.config import AnyAugmentation, DetectionConfig
from richsem_train.data.cache.alignment import WindowCache
from richsem_train.data.cache.source import TrainingCache
from richsem_train.data.extra import sharing_notes
from richsem_train.results.protocols import Limits, protocol_words
from richsem_train.results.tables import AP_UNDEFINED
from richsem_train.run.assemble import AssembledRun
from richsem_train.run.detectors import kind_of

_SHOWN = 5
"""Classes that a line names."""


def opening_notes(run: AssembledRun, first_step: int) -> Iterator[str]:
    """The lines of a run that begins, or goes on after `first_step` steps: its data, its detector, its steps."""
    train, extras = run.data.train, run.data.extras
    if run.start_note:
        yield run.start_note
    yield (
        f"{run.config.name}: {len(train):,} detection pictures, {len(train.category_ids):,} boxes, "
        f"{len(train.categories):,} categories" + (f"; {_views_note(extras)}" if extras else "; no extra data")
    )
    yield from _detection_notes(run)
    yield from _extra_notes(run)
    if rows := run.data.vocabulary.rows_note:
        yield rows
    if not len(run.truth.annotations.boxes):
        yield f"{AP_UNDEFINED}, so no checkpoint is kept as the best"
    yield scoring_note(run)
    yield from _step_notes(run, first_step)


def scoring_note(run: AssembledRun) -> str:
    """How val is scored, and by which rule classes are rare, common and frequent."""
    truth, limits = run.truth, Limits(run.config.evaluation.detections)
    return (
        f"val is scored by {protocol_words(truth.metric, limits)}; APr, APc and APf are of classes rare, common and "
        f"frequent {truth.frequencies.rule}"
    )


def _views_note(extras: Mapping[str, TrainingCache]) -> str:
    if len(extras) == 1:
        return f"{next(iter(extras.values())).views_per_pass:,} extra views a pass"
    counted = [f"{cache.views_per_pass:,} of {cache.source.layout.out}" for cache in extras.values()]
    return f"extra views a pass: {', '.join(counted)}"


def _detection_notes(run: AssembledRun) -> Iterator[str]:
    train, val = run.data.train, run.data.val.data
    for line in [*train.problem_lines(), *(f"val: {line}" for line in val.problem_lines())]:
        yield f"annotations: {line}"
    if sampling := _sampling_note(run):
        yield sampling
    if crowded := _crowded_note(train, run.config.model.most_boxes):
        yield crowded
    if run.data.windows is not None:
        yield from _windows_notes(run.config.detection, run.data.windows)
        if lacking := _lacking_note(train, run.data.windows):
            yield lacking


def _sampling_note(run: AssembledRun) -> str | None:
    """How often pictures are shown, where that isn't once an epoch."""
    if pictures := run.config.detection.class_aware_pictures:
        return f"an epoch shows {pictures:,} detection pictures, the same share of them for each category"
    factors, threshold = run.showings.factors, run.showings.threshold
    if threshold is None:
        return None
    which = f"detection.repeat_threshold {'auto, here ' if run.showings.is_auto else ''}{threshold:.3g}"
    repeated = int((factors > 1).sum())
    if not repeated:
        return f"no detection picture is repeated: none shows a category in a smaller share of them ({which})"
    # Rounded first: the threshold may be such a number of pictures, divided.
    border = math.ceil(round(threshold * len(factors), 6))
    return (
        f"{repeated:,} of {len(factors):,} detection pictures are repeated, those of categories in fewer than "
        f"{border:,} ({which}): by a factor of {factors.max():.1f} at most, so that an epoch shows {factors.sum():,.0f}"
    )


def _crowded_note(data: DetectionData, queries: int | None) -> str | None:
    """Where pictures have more boxes than there are queries to learn them; without a limit there are none such."""
    if queries is None:
        return None
    counts = np.diff(data.offsets)
    crowded = np.flatnonzero(counts > queries)
    if not len(crowded):
        return None
    first, most = crowded[0], int(counts.max())
    return (
        f"{len(crowded):,} detection pictures have more boxes than the detector has queries ({queries:,}), so some of "
        f"their boxes are never learnt: first {data.files[first]} with {counts[first]:,}; --set model.queries={most} "
        "gives each box one"
    )


def _windows_notes(detection: DetectionConfig, windows: WindowCache) -> Iterator[str]:
    source = windows.cache.source
    labels = f"({source.label_set}, {windows.cache.expected.labels})"
    otherwise = _drawn_otherwise(detection.augmentation, windows)
    if detection.views == "stored":
        yield (
            f"detection pictures are shown as {source.layout.out} has them: windows of {source.passes} passes with "
            f"soft labels {labels}"
        )
        if otherwise:
            yield f"detection.augmentation is not used; the windows were drawn {otherwise}"
    else:
        yield (
            f"detection pictures are augmented anew; their boxes have soft labels of the nearest of {source.passes} "
            f"windows in {source.layout.out} {labels}"
        )
        if otherwise:
            yield f"detection.augmentation draws what the windows don't show; they were drawn {otherwise}"


def _lacking_note(data: DetectionData, windows: WindowCache) -> str | None:
    """Where the annotations are partial: which boxes of the cache are no targets."""
    lacking = int(np.maximum(windows.listed_boxes - np.diff(data.offsets), 0).sum())
    if not lacking:
        return None
    return (
        f"the annotations lack {lacking:,} of {int(windows.listed_boxes.sum()):,} boxes that "
        f"{windows.cache.source.layout.out} has of these pictures; they are no targets"
    )


def _drawn_otherwise(asked: AnyAugmentation, windows: WindowCache) -> str | None:
    """How the windows were drawn, where the config says something else of augmentation."""
    drawn = windows.cache.source.spec.views.geometry
    if (jitter := drawn.scale_jitter) is not None:
        if asked.kind == "scale-jitter" and (asked.side, asked.factors) == (jitter.side, jitter.factors):
            return None
        low, high = jitter.factors
        return f"by scale jitter, {low:g} to {high:g} of what fits into {jitter.side} px"
    if asked.kind == "scale-jitter":
        return "without scale jitter"
    fields = ["short_sides", "longest_side", "first_short_sides", *(["crop_sides"] if drawn.first_short_sides else [])]
    differing = [field for field in fields if getattr(asked, field) != getattr(drawn, field)]
    if not differing:
        return None
    return f"with other sizes: {', '.join(f'{field} {getattr(drawn, field)}' for field in differing)}"


def _extra_notes(run: AssembledRun) -> Iterator[str]:
    for cache in run.data.extras.values():
        if cache.expected.takes_own_labels and cache.classes_without_row:
            yield _unlabelled_note(cache)
    if run.extra is None:
        return
    if run.config.detection.labels == "none" and any(each.labels != "hard" for each in run.config.extras.values()):
        yield "detection pictures have no soft labels (detection.labels=none); extra data alone has them"
    for source in run.extra.sources:
        yield from sharing_notes(
            source,
            world_size=run.ranks.world_size,
            pictures_a_draw=run.config.schedule.pictures_a_draw,
            workers=run.config.workers,
        )


def _unlabelled_note(cache: TrainingCache) -> str:
    lost = cache.classes_without_row
    shown = ", ".join(lost[:_SHOWN]) + (", ..." if len(lost) > _SHOWN else "")
    outcome = "their pictures teach nothing" if cache.expected.supervision == "image" else "they are unlabelled"
    return f"{cache.source.layout.out}: {len(lost):,} classes are not in the text, so {outcome}: {shown}"


def _step_notes(run: AssembledRun, first_step: int) -> Iterator[str]:
    schedule, model, device = run.config.schedule, run.config.model, run.ranks.device
    kind = kind_of(model)
    # Other devices than CUDA's round nothing.
    precision = "fp32" if schedule.precision == "tf32" and device.type != "cuda" else schedule.precision
    how = ", ".join(filter(None, [precision, kind.words(model, device)]))
    trained = sum(parameter.numel() for parameter in run.detector.parameters() if parameter.requires_grad)
    yield (
        f"{trained:,} trained parameters; {run.ranks.world_size} x {device.type}, {how}; {run.total_steps:,} steps of "
        f"{_pictures_a_step(run)} pictures" + (f", from step {first_step:,} on" if first_step else "")
    )
    if note := kind.note(model, device):
        yield note


def _pictures_a_step(run: AssembledRun) -> str:
    detection, extra = (run.shares[kind].global_batch for kind in ("detection", "extra"))
    return f"{detection}" if run.extra is None or detection == extra else f"{detection} detection or {extra} extra"
