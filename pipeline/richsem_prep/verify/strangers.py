"""Files that no cache of such a plan and such label sets holds."""

import re
from collections.abc import Iterator

from richsem_prep.verify.files import CacheFiles, Problem, Report
from richsem_schemas.cache.layout import CacheLayout
from richsem_schemas.cache.manifest import AuditRecord, Plan
from richsem_schemas.cache.shard import LabelShard, PictureShard
from richsem_schemas.io.places import Place

_AUDIT_FILE = re.compile(r"audits/(?P<label_set>[^/]+)/\d{8}T\d{12}\.json")

_LABEL_SET_FOLDERS = ("labels/", "index/labels/", "receipts/labels/", "audits/")


def check_strangers(report: Report, layout: CacheLayout, plan: Plan, label_sets: list[str], *, are_all: bool) -> None:
    """Report the files that don't belong to a cache, and what is wrong with its audits.

    Where `label_sets` are not `are_all`, files of the others belong to the cache, too.
    """
    files = report.files
    known = {files.relative(path) for path in _files(files, layout, plan, label_sets)}
    own_folders = tuple(f"{folder}{name}/" for folder in _LABEL_SET_FOLDERS for name in label_sets)
    for path in files.sizes:
        is_of_other_set = path.startswith(_LABEL_SET_FOLDERS) and not path.startswith(own_folders)
        if path in known or (is_of_other_set and not are_all):
            continue
        audit = _AUDIT_FILE.fullmatch(path)
        if audit is not None and audit["label_set"] in label_sets:
            _check_audit(report, layout.out / path, audit["label_set"])
        else:
            report.problems.append(Problem(path, "this file doesn't belong to the cache", "remove it"))


def _files(files: CacheFiles, layout: CacheLayout, plan: Plan, names: list[str]) -> Iterator[Place]:
    yield from (layout.manifest, layout.plan, layout.listing, layout.pictures_elsewhere)
    if plan.listing_quarantine is not None:
        yield layout.listing_quarantine
    label_sets = [layout.label_set(name) for name in names]
    for labels in label_sets:
        yield from (labels.spec, labels.manifest, labels.text, labels.text_features)
    for number in shard_numbers(files, layout, plan):
        yield layout.quarantine(number)
        yield from PictureShard(layout, number).files
        for labels in label_sets:
            yield from LabelShard(labels, number).files


def shard_numbers(files: CacheFiles, layout: CacheLayout, plan: Plan, *, folder: str = "") -> set[int]:
    """Numbers of the plan's shards after which files in a folder are named."""
    prefix = f"{layout.name}-"
    numbers = set()
    for path in files.sizes:
        name = path.rpartition("/")[2].partition(".")[0]
        digits = name.removeprefix(prefix)
        if path.startswith(folder) and re.fullmatch("[0-9]{6,9}", digits) and name == layout.shard_name(int(digits)):
            numbers.add(int(digits))
    return {number for number in numbers if number < plan.shards}


def _check_audit(report: Report, path: Place, label_set: str) -> None:
    record = report.advising("remove it, and audit again").record(path, AuditRecord.read)
    if record is not None and record.label_set != label_set:
        report.advising("remove it").add(path, f"it is an audit of {record.label_set!r}")
