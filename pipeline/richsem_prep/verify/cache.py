"""`richsem-prep verify`: whether a whole cache is what it says, byte for byte and value for value.

A cache is untrusted: only regular files that lie in OUT itself are opened, what a file claims is checked against its
size before it is believed, and whatever a library raises on it becomes a problem to report.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from richsem_prep.shard.finish import resizers_note
from richsem_prep.verify.elsewhere import columns_elsewhere, pictures_note
from richsem_prep.verify.rescored import embeddings_behind, rescored_problems
from richsem_prep.verify.shard import MAX_PROBLEMS_A_FILE, CacheUnderTest, Problem, check_labels, check_pictures, reason
from richsem_prep.verify.tar import BytesDone
from richsem_prep.verify.views import LabelSetUnderTest
from richsem_schemas.cache.jobs import JOBS_FOLDER
from richsem_schemas.cache.layout import CacheLayout, check_set_name
from richsem_schemas.cache.manifest import (
    AuditRecord,
    CacheManifest,
    LabelManifest,
    LabelSpec,
    Plan,
    ShardSummary,
    TextManifest,
)
from richsem_schemas.cache.text_bank import TextBank, read_text_bank
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import FileHash, hash_bytes, read_file
from richsem_schemas.io.ordered_map import ordered_map
from richsem_schemas.io.places import Place, RemotePath
from richsem_schemas.io.words import printable_text, readable_bytes

MAX_THREADS = 16

MAX_PROBLEMS_SHOWN = 50
"""Lines printed; a cache that is broken all over has one a file."""

_SHARD_FILE = re.compile(r"(?P<folder>.+)/(?P<stem>[A-Za-z0-9_-]+)\.(?:tar|parquet|jsonl?)")
_NUMBER = re.compile(r".+-(\d{6,9})")

_AUDIT_FILE = re.compile(r"audits/(?P<labels>[^/]+)/\d{8}T\d{12}\.json")

_Record = TypeVar("_Record", Plan, CacheManifest, LabelManifest, LabelSpec, TextManifest, AuditRecord)


@dataclass(frozen=True)
class Verification:
    """What `verify_cache` found.

    Attributes:
        problems: everything wrong.
        notes: what a user may want to know, but need not mend.
        files: regular files looked at.
        bytes: of them, read and hashed.
        pictures: as the receipts count them.
        views: of all label sets that were checked.
        regions: likewise.
        label_sets: that were checked.
    """

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    files: int
    bytes: int
    pictures: int
    views: int
    regions: int
    label_sets: tuple[str, ...]


def verify_cache(
    out: Place,
    *,
    labels: str | None = None,
    threads: int | None = None,
    thorough: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Check a cache: every file against its hash, every member against the index, every value against its range.

    What a hash already covers and costs much to compute again is sampled, the same sample every time: soft labels from
    their embeddings, and each picture's own hash.

    Args:
        out: folder of the cache.
        labels: check this label set alone, beside the pictures; None checks all.
        threads: shards checked at a time.
        thorough: compute again all that is otherwise sampled.
        on_progress: called with bytes done and bytes in all, from any thread.

    Raises:
        RichSemError: there is no cache, or no such label set.
    """
    out = out.resolve()
    tree = _walk(out)
    plan = _read_plan(out, tree)
    if plan is None:
        if not tree.problems:
            raise RichSemError(f"{out} holds no cache (plan/plan.json is missing); make one with `richsem-prep shard`")
        return Verification(tuple(tree.problems), tuple(tree.notes), len(tree.sizes), 0, 0, 0, 0, ())
    layout = CacheLayout(out, plan.dataset)
    sets = _label_sets(layout, tree, labels)
    total = sum(tree.sizes.values())
    done = BytesDone(lambda count: on_progress(min(count, total), total) if on_progress else None)
    cache = CacheUnderTest(layout, plan, tree.sizes, done, thorough)
    return _Verifier(cache, tree, sets, labels is None).run(threads or min(os.cpu_count() or 1, MAX_THREADS))


@dataclass(eq=False)
class _Tree:
    """What lies in OUT, found without following a link."""

    sizes: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def _walk(out: Place) -> _Tree:
    if isinstance(out, RemotePath):
        # Where a local cache was copied to a URL, its locks may have come along.
        return _Tree({name: size for name, size in out.sizes_below().items() if name.split("/")[0] != JOBS_FOLDER})
    if not out.is_dir():
        raise RichSemError(f"{out} is no folder; name the OUT of a `richsem-prep shard`")
    tree = _Tree()
    leftovers = 0
    for name, entry in _entries(out, ""):
        if entry.is_symlink():
            tree.problems.append(_link_problem(out, name, entry))
        elif entry.name.startswith(".") and entry.name.endswith(".tmp"):
            leftovers += 1
        elif not stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            tree.problems.append(Problem(name, "neither a file nor a folder", "remove it"))
        else:
            tree.sizes[name] = entry.stat(follow_symlinks=False).st_size
    if leftovers:
        tree.notes.append(
            f"{leftovers} temporary file{'s' * (leftovers > 1)} of a run that goes on or was killed; "
            "the next `richsem-prep shard` removes what was left"
        )
    return tree


def _entries(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder that is no folder itself, by name; `JOBS_FOLDER` holds locks and no data."""
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if prefix or entry.name != JOBS_FOLDER:
                yield from _entries(folder / entry.name, f"{prefix}{entry.name}/")
        else:
            yield prefix + entry.name, entry


def _link_problem(out: Path, name: str, entry: os.DirEntry[str]) -> Problem:
    try:
        target = Path(entry.path).resolve()
    except (OSError, RuntimeError):
        return Problem(name, "a link that leads nowhere; it was not followed", "remove it")
    where = "within the cache" if target.is_relative_to(out) else "out of the cache"
    remedy = "put the files themselves in its place"
    return Problem(name, f"a link that leads {where}, to {target}; it was not followed", remedy)


def _read_plan(out: Place, tree: _Tree) -> Plan | None:
    """The plan, from the manifest where its own file is broken."""
    layout = CacheLayout(out, "any")
    again = "run the same `richsem-prep shard` again: it lists the source anew and keeps what fits"
    if "plan/plan.json" not in tree.sizes:
        if not tree.sizes:
            return None
        tree.problems.append(Problem("plan/plan.json", "it is missing", again))
    else:
        try:
            return Plan.read(layout.plan)
        except Exception as error:
            tree.problems.append(Problem("plan/plan.json", reason(error, layout.plan), f"delete it and {again}"))
    if "manifest.json" in tree.sizes:
        try:
            return CacheManifest.read(layout.manifest).plan
        except Exception as error:
            tree.problems.append(Problem("manifest.json", reason(error, layout.manifest), "delete it, then as above"))
    return None


def _label_sets(layout: CacheLayout, tree: _Tree, wanted: str | None) -> list[str]:
    """Names of the label sets to check: all that left a trace, or the one asked for."""
    found = set()
    for path in tree.sizes:
        parts = path.split("/")
        if parts[0] in {"receipts", "index"} and parts[1:2] == ["labels"]:
            parts = parts[1:]
        if parts[0] == "labels" and len(parts) > 2:
            found.add(parts[1])
    if wanted is not None and wanted not in found:
        raise RichSemError(f"{layout.out} has no label set {wanted!r}; it has: {', '.join(sorted(found)) or 'none'}")
    return sorted(name for name in found if _is_set_name(name) and wanted in {None, name})


def _is_set_name(name: str) -> bool:
    try:
        check_set_name(name)
    except ValueError:
        return False
    return True


@dataclass(eq=False)
class _Verifier:
    """One verification under way.

    Attributes:
        cache: what the shards' checks share.
        tree: what lies in OUT; its problems and notes are the ones that grow.
        set_names: label sets to check.
        all_sets: whether those are all.
    """

    cache: CacheUnderTest
    tree: _Tree
    set_names: list[str]
    all_sets: bool

    def run(self, threads: int) -> Verification:
        """Check the cache's own files, then the shards, some at a time."""
        cache, plan = self.cache, self.cache.plan
        cache.done.add(cache.sizes.get(cache.relative(cache.layout.plan), 0))
        self._check_strangers()
        manifest = self._check_manifest()
        self._check_listing()
        elsewhere = self._check_elsewhere(manifest)
        sets = [labels for name in self.set_names if (labels := self._check_label_set(name)) is not None]
        recorded = _by_shard(manifest)
        shards = self._shards(recorded, sets)
        check = partial(_check_shard, cache, recorded, elsewhere, sets, [_by_shard(labels.manifest) for labels in sets])
        with ThreadPoolExecutor(threads) as pool:
            for problems in ordered_map(pool, check, shards, ahead=4 * threads):
                self.tree.problems.extend(problems)
        if elsewhere is not None:
            self.tree.notes.append(pictures_note(elsewhere))
        elif plan.pictures == "reference":
            self.tree.notes.append("the pictures lie outside of the cache and were not looked at")
        manifests = [labels.manifest for labels in sets if labels.manifest is not None]
        self.tree.notes.extend(note for made in manifests if (note := resizers_note(made)) is not None)
        return Verification(
            tuple(self.tree.problems),
            tuple(self.tree.notes),
            files=len(self.tree.sizes),
            bytes=cache.done.total,
            pictures=manifest.samples if manifest else 0,
            views=sum(item.views for item in manifests),
            regions=sum(item.regions for item in manifests),
            label_sets=tuple(self.set_names),
        )

    def _add(self, path: Place, message: str, remedy: str) -> None:
        self.tree.problems.append(Problem(self.cache.relative(path), message, remedy))

    def _read(self, path: Place, kind: type[_Record], *, remedy: str, missing: str = "it is missing") -> _Record | None:
        """A sealed file, or None and a problem."""
        if not self.cache.has(path):
            self._add(path, missing, remedy)
            return None
        self.cache.done.add(self.cache.sizes[self.cache.relative(path)])
        try:
            return kind.read(path)
        except Exception as error:
            self._add(path, reason(error, path), remedy)
            return None

    def _check_strangers(self) -> None:
        """Report files that no cache of this plan holds."""
        layout, plan = self.cache.layout, self.cache.plan
        known = {layout.manifest, layout.plan, layout.listing}
        if plan.listing_quarantine is not None:
            known.add(layout.listing_quarantine)
        if self.cache.has(layout.pictures_elsewhere):
            known.add(layout.pictures_elsewhere)
        shard_folders = {layout.pictures_tar(0).parent, layout.pictures_index(0).parent}
        shard_folders |= {layout.pictures_receipt(0).parent, layout.quarantine(0).parent}
        for name in self.set_names:
            labels = layout.label_set(name)
            known |= {labels.spec, labels.manifest, labels.text, labels.text_features}
            shard_folders |= {labels.tar(0).parent, labels.index(0).parent, labels.receipt(0).parent}
        names = {self.cache.relative(path) for path in known}
        folders = {self.cache.relative(folder): folder for folder in shard_folders}
        for path in self.cache.sizes:
            if path in names or self._is_other_set(path) or self._check_audit(path):
                continue
            if not self._is_shard_file(path, folders):
                self.tree.problems.append(Problem(path, "this file doesn't belong to the cache", "remove it"))

    def _is_shard_file(self, path: str, folders: dict[str, Place]) -> bool:
        layout = self.cache.layout
        match = _SHARD_FILE.fullmatch(path)
        number = _NUMBER.fullmatch(match["stem"]) if match else None
        if match is None or number is None or match["folder"] not in folders:
            return False
        shard = int(number[1])
        mine = {layout.pictures_tar(shard), layout.pictures_index(shard), layout.pictures_receipt(shard)}
        mine.add(layout.quarantine(shard))
        for name in self.set_names:
            labels = layout.label_set(name)
            mine |= {labels.tar(shard), labels.index(shard), labels.receipt(shard)}
        return shard < self.cache.plan.shards and layout.out / path in mine

    def _check_audit(self, path: str) -> bool:
        """Whether a file is an audit of one of the sets; what is wrong with it is reported."""
        match = _AUDIT_FILE.fullmatch(path)
        if match is None or match["labels"] not in self.set_names:
            return False
        record = self._read(self.cache.layout.out / path, AuditRecord, remedy="remove it, and audit again")
        if record is not None and record.labels != match["labels"]:
            self.tree.problems.append(Problem(path, f"it is an audit of {record.labels!r}", "remove it"))
        return True

    def _is_other_set(self, path: str) -> bool:
        """Whether a file is of a label set that was not asked about."""
        if self.all_sets:
            return False
        prefixes = ("labels/", "index/labels/", "receipts/labels/", "audits/")
        mine = tuple(f"{prefix}{name}/" for prefix in prefixes for name in self.set_names)
        return path.startswith(prefixes) and not path.startswith(mine)

    def _check_manifest(self) -> CacheManifest | None:
        layout, plan = self.cache.layout, self.cache.plan
        remedy = f"run `richsem-prep finish {layout.out}`"
        missing = f"the cache is not finished: {self._receipts(layout.pictures_receipt(0).parent)}"
        if self._shards_done(layout.pictures_receipt(0).parent) < plan.shards and not self.cache.has(layout.manifest):
            remedy = "run the same `richsem-prep shard` again, or `richsem-prep finish` after runs with --shard-range"
        manifest = self._read(layout.manifest, CacheManifest, remedy=remedy, missing=missing)
        if manifest is None:
            return None
        for message in _manifest_problems(manifest, plan):
            self._add(layout.manifest, message, remedy)
        return manifest

    def _check_elsewhere(self, manifest: CacheManifest | None) -> CacheManifest | None:
        """What a folder of labels alone says of its pictures; None for a cache that holds its own."""
        layout, plan = self.cache.layout, self.cache.plan
        if not self.cache.has(layout.pictures_elsewhere):
            return None
        remedy = "run the same `richsem-prep shard --from-cache` again"
        record = self._read(layout.pictures_elsewhere, CacheManifest, remedy=remedy)
        if record is None or record.pictures_in is None:
            return None
        if record.plan.fingerprint != plan.fingerprint or (manifest is not None and manifest.shards != record.shards):
            self._add(layout.pictures_elsewhere, "it speaks of other pictures than the plan and the manifest", remedy)
        return record

    def _receipts(self, folder: Place) -> str:
        return f"{self._shards_done(folder)} of {self.cache.plan.shards} shards have a receipt"

    def _shards_done(self, folder: Place) -> int:
        prefix = self.cache.relative(folder) + "/"
        return sum(path.startswith(prefix) for path in self.cache.sizes)

    def _check_listing(self) -> None:
        layout, plan = self.cache.layout, self.cache.plan
        remedy = f"delete {layout.plan} and run the same `richsem-prep shard` again: it lists the source anew"
        self._check_hash(layout.listing, plan.listing, said_by="the plan", remedy=remedy)
        if plan.listing_quarantine is not None:
            self._check_hash(layout.listing_quarantine, plan.listing_quarantine, said_by="the plan", remedy=remedy)
        if plan.samples > plan.listed:
            self._add(layout.plan, f"it takes {plan.samples} samples of {plan.listed} listed", remedy)

    def _check_hash(self, path: Place, expected: FileHash, *, said_by: str, remedy: str) -> None:
        if problem := self.cache.file_problem(path, expected, said_by=said_by):
            self._add(path, problem, remedy)

    def _check_label_set(self, name: str) -> LabelSetUnderTest | None:
        """Check a label set's own files; None where nothing says what it should be."""
        cache, labels = self.cache, self.cache.layout.label_set(name)
        finish = f"run `richsem-prep finish {cache.layout.out} --label-set {name}`"
        receipts = labels.receipt(0).parent
        if not cache.has(labels.manifest) and self._shards_done(receipts) < cache.plan.shards:
            finish = "run the same `richsem-prep shard` again, or `richsem-prep finish` after runs with --shard-range"
        missing = f"the label set is not finished: {self._receipts(receipts)}"
        manifest = self._read(labels.manifest, LabelManifest, remedy=finish, missing=missing)
        again = "run the same `richsem-prep shard` again"
        spec = self._read(labels.spec, LabelSpec, remedy=f"delete {labels.spec} and {again}")
        spec = spec or (manifest.spec if manifest else None)
        if spec is None:
            return None
        remedy = f"begin the set anew: the same `richsem-prep shard` with --label-set {name} --overwrite"
        for message in _spec_problems(spec, cache.plan):
            self._add(labels.spec, message, remedy)
        if manifest is not None:
            for message in _label_manifest_problems(manifest, name, spec, cache.plan):
                self._add(labels.manifest, message, finish)
        text = self._check_text(labels, spec, manifest)
        return LabelSetUnderTest(labels, spec, manifest, text)

    def _check_text(self, labels: Any, spec: LabelSpec, manifest: LabelManifest | None) -> TextBank | None:
        remedy = f"delete {labels.text} and run the same `richsem-prep shard` again"
        sealed = self._read(labels.text, TextManifest, remedy=remedy)
        if sealed is None:
            return None
        before = len(self.tree.problems)
        if manifest is not None and hash_bytes(read_file(labels.text)) != manifest.text:
            self._add(labels.text, "it is not the text that the manifest names", remedy)
        self._check_hash(labels.text_features, sealed.features, said_by="text.json", remedy=remedy)
        if len(self.tree.problems) > before:
            return None
        try:
            bank = read_text_bank(labels)
        except Exception as error:
            self._add(labels.text_features, reason(error, labels.text_features), remedy)
            return None
        for message in _text_problems(bank, spec, self.cache.plan):
            self._add(labels.text, message, remedy)
        return bank if len(self.tree.problems) == before else None

    def _shards(self, recorded: dict[int, ShardSummary], sets: list[LabelSetUnderTest]) -> list[int]:
        """Shards to check: those that a manifest names, and those that have a receipt."""
        layout, plan = self.cache.layout, self.cache.plan
        shards = set(recorded)
        for labels in sets:
            shards |= set(_by_shard(labels.manifest))
        for path in self.cache.sizes:
            number = _NUMBER.fullmatch(Path(path).stem) if path.startswith("receipts/") else None
            if number and Path(path).stem == layout.shard_name(int(number[1])):
                shards.add(int(number[1]))
        return sorted(shard for shard in shards if shard < plan.shards)


def _check_shard(
    cache: CacheUnderTest,
    recorded: dict[int, ShardSummary],
    elsewhere: CacheManifest | None,
    sets: list[LabelSetUnderTest],
    recorded_labels: list[dict[int, ShardSummary]],
    shard: int,
) -> list[Problem]:
    if elsewhere is None:
        problems, rows = check_pictures(cache, shard, recorded.get(shard))
    else:
        problems, rows = [], columns_elsewhere(elsewhere, shard)
    for labels, summaries in zip(sets, recorded_labels, strict=True):
        # An unfinished set has no receipt for some shards yet.
        if labels.manifest is not None or cache.has(labels.layout.receipt(shard)):
            found = check_labels(cache, labels, shard, summaries.get(shard), rows)
            problems += found or _check_rescored(cache, labels, sets, shard)
    return problems


def _check_rescored(
    cache: CacheUnderTest, labels: LabelSetUnderTest, sets: list[LabelSetUnderTest], shard: int
) -> list[Problem]:
    source = embeddings_behind(labels, sets)
    if source is None or not cache.has(source.layout.tar(shard)) or not cache.has(source.layout.index(shard)):
        return []
    path, remedy = labels.layout.tar(shard), f"delete {labels.layout.receipt(shard)} and run the same `rescore` again"
    found = islice(rescored_problems(labels, source, shard, seed=cache.plan.seed), MAX_PROBLEMS_A_FILE)
    return [Problem(cache.relative(path), message, remedy) for message in found]


def _by_shard(manifest: CacheManifest | LabelManifest | None) -> dict[int, ShardSummary]:
    return {summary.shard: summary for summary in manifest.shards} if manifest else {}


def _manifest_problems(manifest: CacheManifest, plan: Plan) -> Iterator[str]:
    if manifest.plan != plan:
        yield "its plan is not that of plan/plan.json"
    if manifest.fingerprint != plan.fingerprint:
        yield "its fingerprint is not that of the plan"
    yield from _shards_problems(manifest.shards, plan)
    yield from _total_problems(manifest, "samples", "quarantined")


def _label_manifest_problems(manifest: LabelManifest, name: str, spec: LabelSpec, plan: Plan) -> Iterator[str]:
    if manifest.name != name:
        yield f"it names the label set {manifest.name!r}"
    if manifest.spec != spec:
        yield "its spec is not that of spec.json"
    if manifest.fingerprint != spec.fingerprint:
        yield "its fingerprint is not that of the spec"
    yield from _shards_problems(manifest.shards, plan)
    yield from _total_problems(manifest, "views", "regions")


def _shards_problems(shards: tuple[ShardSummary, ...], plan: Plan) -> Iterator[str]:
    if len(shards) != plan.shards or any(number != summary.shard for number, summary in enumerate(shards)):
        yield f"its {len(shards)} shards are not the {plan.shards} of the plan, in order"


def _total_problems(manifest: CacheManifest | LabelManifest, *counts: str) -> Iterator[str]:
    for name in counts:
        total = sum(getattr(summary, name) for summary in manifest.shards)
        if getattr(manifest, name) != total:
            yield f"it counts {getattr(manifest, name):,} {name}, its shards {total:,}"
    if manifest.bytes != (total := sum(summary.tar.bytes for summary in manifest.shards)):
        yield f"it counts {manifest.bytes:,} bytes, its shards {total:,}"


def _spec_problems(spec: LabelSpec, plan: Plan) -> Iterator[str]:
    if spec.plan_fingerprint != plan.fingerprint:
        yield "it was made for another plan"
    if spec.top_k > spec.text.classes:
        yield f"top_k {spec.top_k} is more than its {spec.text.classes} classes"
    if spec.text.vocabulary == plan.vocabulary.name and spec.text.classes != len(plan.vocabulary.class_names):
        yield f"it has {spec.text.classes} classes, the plan {len(plan.vocabulary.class_names)}"


def _text_problems(bank: TextBank, spec: LabelSpec, plan: Plan) -> Iterator[str]:
    if len(bank.class_names) != spec.text.classes or bank.features.shape != (
        spec.text.classes,
        spec.teacher.embed_dim,
    ):
        yield f"it is not one row of {spec.teacher.embed_dim} numbers for each of {spec.text.classes} classes"
    if spec.text.vocabulary == plan.vocabulary.name and bank.class_names != plan.vocabulary.class_names:
        yield "its class names are not those of the plan"
    if len(bank.prompted_names) != len(bank.class_names) or len(bank.templates) != spec.text.templates:
        yield "its prompts are not those that the spec counts"
    if bank.prompts_sha256 != spec.text.prompts_sha256:
        yield "its prompts are not those of the spec"
    if bank.logit_scale != spec.teacher.logit_scale:
        yield f"its logit scale is {bank.logit_scale}, the teacher's {spec.teacher.logit_scale}"
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(bank.features.astype(np.float64), axis=1)
    if not (np.isfinite(norms) & (norms > 0)).all():
        yield "its features have rows that are zero or no numbers"


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
