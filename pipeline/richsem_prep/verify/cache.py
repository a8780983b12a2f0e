"""`richsem-prep verify`: whether a whole cache is what it says, byte for byte and value for value.

A cache is untrusted: only regular files that lie in OUT itself are opened, what a file claims is checked against its
size before it is believed, and whatever a library raises on it becomes a problem to report.
"""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from richsem_prep.verify.files import BytesDone, CacheFiles, Problem, Report, find_files
from richsem_prep.verify.records import (
    check_label_set,
    check_listing,
    check_manifest,
    check_pictures_elsewhere,
    read_plan,
)
from richsem_prep.verify.shard import CacheUnderTest, check_shard
from richsem_prep.verify.strangers import check_strangers, shard_numbers
from richsem_schemas.cache.layout import CacheLayout, is_set_name
from richsem_schemas.cache.listed_boxes import read_box_rows
from richsem_schemas.cache.manifest import CacheManifest, Plan
from richsem_schemas.cache.resizers import resizers_note
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.ordered_map import default_threads, ordered_map
from richsem_schemas.io.places import Place, open_place
from richsem_schemas.io.words import printable_text, readable_bytes

MAX_PROBLEMS_SHOWN = 50
"""Lines printed; a cache that is broken all over has one a file."""

_LABEL_SET_FILE = re.compile(r"(?:(?:index|receipts)/)?labels/([^/]+)/")


@dataclass(frozen=True)
class Verification:
    """What `verify_cache` found.

    Attributes:
        notes: what a user may want to know, but need not mend.
        files: regular files looked at.
        bytes: of them, read and hashed.
        pictures: as the receipts count them.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    files: int
    bytes: int = 0
    pictures: int = 0
    views: int = 0
    regions: int = 0
    label_sets: tuple[str, ...] = ()


def verify_cache(
    out: Place,
    *,
    label_set: str | None = None,
    threads: int | None = None,
    thorough: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a cache: every file against its hash, every member against the index, every value against its range.

    What a hash already covers and costs much to compute again is sampled, the same sample every time: soft labels from
    their embeddings, and each picture's own hash.

    One label set may be named to be checked alone, beside the pictures; `thorough` computes again all that is otherwise
    sampled.

    Raises:
        RichSemError: there is no cache, or no such label set.
    """
    out = out.resolve()
    sizes, problems, notes = find_files(out)
    total = sum(sizes.values())
    done = BytesDone(lambda count: on_progress(min(count, total), total) if on_progress else None)
    report = Report(CacheFiles(out, sizes, done), remedy="", problems=problems)
    plan = read_plan(report)
    if plan is None:
        if not problems:
            raise RichSemError(f"{out} holds no cache (plan/plan.json is missing); make one with `richsem-prep shard`")
        return Verification(tuple(problems), tuple(notes), len(sizes))
    layout = CacheLayout(out, plan.dataset)
    names = _label_sets(layout, report.files, label_set)
    check_strangers(report, layout, plan, names, are_all=label_set is None)
    cache = _check_records(report, layout, plan, names, thorough=thorough)
    threads = threads or default_threads()
    with ThreadPoolExecutor(threads) as pool:
        for found in ordered_map(pool, partial(check_shard, cache), _shards(cache), ahead=4 * threads):
            problems.extend(found)
    manifests = [labels.manifest for labels in cache.label_sets if labels.manifest is not None]
    return Verification(
        tuple(problems),
        (*notes, *_notes(cache)),
        files=len(sizes),
        bytes=done.total,
        pictures=cache.manifest.samples if cache.manifest else 0,
        views=sum(manifest.views for manifest in manifests),
        regions=sum(manifest.regions for manifest in manifests),
        label_sets=tuple(names),
    )


def _label_sets(layout: CacheLayout, files: CacheFiles, wanted: str | None) -> list[str]:
    """Names of the label sets to check: all that left a trace, or the one asked for."""
    found = {match[1] for path in files.sizes if (match := _LABEL_SET_FILE.match(path))}
    if wanted is not None and wanted not in found:
        raise RichSemError(f"{layout.out} has no label set {wanted!r}; it has: {', '.join(sorted(found)) or 'none'}")
    return sorted(name for name in found if is_set_name(name) and wanted in {None, name})


def _check_records(
    report: Report, layout: CacheLayout, plan: Plan, names: list[str], *, thorough: bool
) -> CacheUnderTest:
    manifest = check_manifest(report, layout, plan)
    has_listing = check_listing(report, layout, plan)
    elsewhere = check_pictures_elsewhere(report, layout, plan, manifest)
    checked = (check_label_set(report, layout.label_set(name), plan) for name in names)
    label_sets = [labels for labels in checked if labels is not None]
    boxes = None
    if has_listing and any(labels.spec.views.has_boxes for labels in label_sets):
        remedy = f"delete {layout.plan} and run the same `richsem-prep shard` again: it lists the source anew"
        boxes = report.advising(remedy).attempt(layout.listing, lambda: read_box_rows(layout, plan))
    return CacheUnderTest(report.files, layout, plan, manifest, elsewhere, label_sets, boxes, thorough)


def _shards(cache: CacheUnderTest) -> list[int]:
    """Shards to check: those that a manifest names, and those that have a receipt."""
    numbers = shard_numbers(cache.files, cache.layout, cache.plan, folder="receipts/")
    numbers.update(cache.summaries, *(labels.summaries for labels in cache.label_sets))
    return sorted(number for number in numbers if number < cache.plan.shards)


def _notes(cache: CacheUnderTest) -> Iterator[str]:
    if cache.elsewhere is not None:
        yield _elsewhere_note(cache.elsewhere)
    elif cache.plan.pictures == "reference":
        yield "the pictures lie outside of the cache and were not looked at"
    for labels in cache.label_sets:
        if labels.manifest is not None and (note := resizers_note(labels.manifest)) is not None:
            yield note


def _elsewhere_note(elsewhere: CacheManifest) -> str:
    assert elsewhere.pictures_in is not None
    note = f"its pictures lie in {elsewhere.pictures_in} and were not looked at"
    if CacheLayout(open_place(elsewhere.pictures_in), elsewhere.plan.dataset).manifest.is_file():
        return note
    return f"{note}; that cache isn't there, so views were not compared with their pictures, nor looked into"


def problem_lines(out: Place, verification: Verification) -> Iterator[str]:
    """What is wrong, a line a problem, the first of them."""
    problems = verification.problems
    for problem in problems[:MAX_PROBLEMS_SHOWN]:
        yield printable_text(f"{out / problem.path}: {problem.message}; {problem.remedy}")
    files = len({problem.path for problem in problems})
    if problems:
        more = f", {len(problems) - MAX_PROBLEMS_SHOWN:,} of them not shown" * (len(problems) > MAX_PROBLEMS_SHOWN)
        yield (
            f"{out}: {len(problems):,} problem{'s' * (len(problems) > 1)} in {files:,} file{'s' * (files > 1)}{more}"
        )


def success_line(out: Place, verification: Verification, *, seconds: float) -> str:
    """What was found to be right."""
    v, sets = verification, len(verification.label_sets)
    counts = f"{v.files:,} files, {v.pictures:,} pictures, {v.views:,} views and {v.regions:,} regions"
    rate = f"{readable_bytes(v.bytes)} in {seconds:.1f} s, {v.bytes / 1e6 / max(seconds, 1e-9):,.0f} MB/s"
    return f"{out} is whole: {counts} in {sets} label set{'s' * (sets != 1)}; {rate}"
