"""The files that say what a cache and its label sets are: plan, listing, manifests, specs, text banks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from richsem_prep.verify.files import Report
from richsem_schemas.cache.layout import CacheLayout, LabelSetLayout
from richsem_schemas.cache.manifest import CacheManifest, LabelManifest, LabelSpec, Plan, ShardSummary, TextManifest
from richsem_schemas.cache.text_bank import TextBank, read_bank
from richsem_schemas.io.files import hash_bytes, read_file
from richsem_schemas.io.places import Place

_AGAIN = "run the same `richsem-prep shard` again"

_Manifest = TypeVar("_Manifest", CacheManifest, LabelManifest)


@dataclass(frozen=True, eq=False)
class LabelSetUnderTest:
    """What the checks of all shards of a label set share.

    Attributes:
        spec: what it should be.
        manifest: what it says it is; None where it isn't finished.
        text: its text bank; None where it is broken.
    """

    layout: LabelSetLayout
    spec: LabelSpec
    manifest: LabelManifest | None
    text: TextBank | None

    @cached_property
    def summaries(self) -> dict[int, ShardSummary]:
        """The shards that its manifest names."""
        return {summary.shard: summary for summary in self.manifest.shards} if self.manifest else {}


def read_plan(report: Report) -> Plan | None:
    """The plan of a cache, from the manifest where its own file is broken; None where there is none."""
    files, layout = report.files, CacheLayout(report.files.out, "any")
    if not files.sizes:
        return None
    remedy = f"{_AGAIN}: it lists the source anew and keeps what fits"
    if files.has(layout.plan):
        remedy = f"delete it and {remedy}"
    plan = report.advising(remedy).record(layout.plan, Plan.read)
    if plan is not None or not files.has(layout.manifest):
        return plan
    manifest = report.advising("delete it, then as above").attempt(
        layout.manifest, lambda: CacheManifest.read(layout.manifest)
    )
    return None if manifest is None else manifest.plan


def check_listing(report: Report, layout: CacheLayout, plan: Plan) -> bool:
    """Check the listing of the source; returns whether it is the one that the plan was made from."""
    report = report.advising(f"delete {layout.plan} and {_AGAIN}: it lists the source anew")
    is_intact = report.has_hash(layout.listing, plan.listing, said_by="the plan")
    if plan.listing_quarantine is not None:
        report.has_hash(layout.listing_quarantine, plan.listing_quarantine, said_by="the plan")
    if plan.samples > plan.listed:
        report.add(layout.plan, f"it takes {plan.samples} samples of {plan.listed} listed")
    return is_intact


def check_manifest(report: Report, layout: CacheLayout, plan: Plan) -> CacheManifest | None:
    """Check the manifest of the pictures; None where there is none that can be read."""
    report = report.advising(f"run `richsem-prep finish {layout.out}`")
    receipts = layout.pictures_receipt(0).parent
    manifest = _read_manifest(report, CacheManifest.read, layout.manifest, receipts, plan, what="cache")
    if manifest is not None:
        report.add_all(layout.manifest, _manifest_problems(manifest, plan))
    return manifest


def check_pictures_elsewhere(
    report: Report, layout: CacheLayout, plan: Plan, manifest: CacheManifest | None
) -> CacheManifest | None:
    """What a folder of labels alone says of its pictures; None for a cache that holds its own."""
    if not report.files.has(layout.pictures_elsewhere):
        return None
    report = report.advising("run the same `richsem-prep shard --from-cache` again")
    record = report.record(layout.pictures_elsewhere, CacheManifest.read)
    if record is None or record.pictures_in is None:
        return None
    if record.plan.fingerprint != plan.fingerprint or (manifest is not None and manifest.shards != record.shards):
        report.add(layout.pictures_elsewhere, "it speaks of other pictures than the plan and the manifest")
    return record


def check_label_set(report: Report, labels: LabelSetLayout, plan: Plan) -> LabelSetUnderTest | None:
    """Check a label set's own files; None where nothing says what it should be."""
    out, name = labels.cache.out, labels.name
    finish = report.advising(f"run `richsem-prep finish {out} --label-set {name}`")
    receipts = labels.receipt(0).parent
    manifest = _read_manifest(finish, LabelManifest.read, labels.manifest, receipts, plan, what="label set")
    spec = report.advising(f"delete {labels.spec} and {_AGAIN}").record(labels.spec, LabelSpec.read)
    spec = spec or (manifest.spec if manifest else None)
    if spec is None:
        return None
    anew = report.advising(f"begin the set anew: the same `richsem-prep shard` with --label-set {name} --overwrite")
    anew.add_all(labels.spec, _spec_problems(spec, plan))
    if manifest is not None:
        finish.add_all(labels.manifest, _label_manifest_problems(manifest, name, spec, plan))
    text = _check_text(report.advising(f"delete {labels.text} and {_AGAIN}"), labels, spec, manifest, plan)
    return LabelSetUnderTest(labels, spec, manifest, text)


def _check_text(
    report: Report, labels: LabelSetLayout, spec: LabelSpec, manifest: LabelManifest | None, plan: Plan
) -> TextBank | None:
    sealed = report.record(labels.text, TextManifest.read)
    if sealed is None:
        return None
    before = len(report.problems)
    if manifest is not None and hash_bytes(read_file(labels.text)) != manifest.text:
        report.add(labels.text, "it is not the text that the manifest names")
    report.has_hash(labels.text_features, sealed.features, said_by="text.json")
    if len(report.problems) > before:
        return None
    bank = report.attempt(labels.text_features, lambda: read_bank(sealed, labels.text))
    if bank is None or report.add_all(labels.text, _text_problems(bank, spec, plan)):
        return None
    return bank


def _read_manifest(
    report: Report, read: Callable[[Place], _Manifest], path: Place, receipts: Place, plan: Plan, *, what: str
) -> _Manifest | None:
    done = report.files.count_below(receipts)
    if done < plan.shards and not report.files.has(path):
        report = report.advising(f"{_AGAIN}, or `richsem-prep finish` after runs with --shard-range")
    missing = f"the {what} is not finished: {done} of {plan.shards} shards have a receipt"
    return report.record(path, read, missing=missing)


def _manifest_problems(manifest: CacheManifest, plan: Plan) -> Iterator[str]:
    if manifest.plan != plan:
        yield "its plan is not that of plan/plan.json"
    if manifest.fingerprint != plan.fingerprint:
        yield "its fingerprint is not that of the plan"
    yield from _shards_problems(manifest, plan, "samples", "quarantined")


def _label_manifest_problems(manifest: LabelManifest, name: str, spec: LabelSpec, plan: Plan) -> Iterator[str]:
    if manifest.name != name:
        yield f"it names the label set {manifest.name!r}"
    if manifest.spec != spec:
        yield "its spec is not that of spec.json"
    if manifest.fingerprint != spec.fingerprint:
        yield "its fingerprint is not that of the spec"
    yield from _shards_problems(manifest, plan, "views", "regions")


def _shards_problems(manifest: CacheManifest | LabelManifest, plan: Plan, *counts: str) -> Iterator[str]:
    shards = manifest.shards
    if len(shards) != plan.shards or any(number != summary.shard for number, summary in enumerate(shards)):
        yield f"its {len(shards)} shards are not the {plan.shards} of the plan, in order"
    totals = {name: sum(getattr(summary, name) for summary in shards) for name in counts}
    totals["bytes"] = sum(summary.tar.bytes for summary in shards)
    for name, total in totals.items():
        if getattr(manifest, name) != total:
            yield f"it counts {getattr(manifest, name):,} {name}, its shards {total:,}"


def _spec_problems(spec: LabelSpec, plan: Plan) -> Iterator[str]:
    if spec.plan_fingerprint != plan.fingerprint:
        yield "it was made for another plan"
    if spec.top_k > spec.text.classes:
        yield f"top_k {spec.top_k} is more than its {spec.text.classes} classes"
    if spec.text.vocabulary == plan.vocabulary.name and spec.text.classes != len(plan.vocabulary.class_names):
        yield f"it has {spec.text.classes} classes, the plan {len(plan.vocabulary.class_names)}"


def _text_problems(bank: TextBank, spec: LabelSpec, plan: Plan) -> Iterator[str]:
    classes, dim = spec.text.classes, spec.teacher.embed_dim
    if len(bank.class_names) != classes or bank.features.shape != (classes, dim):
        yield f"it is not one row of {dim} numbers for each of {classes} classes"
    if spec.text.vocabulary == plan.vocabulary.name and bank.class_names != plan.vocabulary.class_names:
        yield "its class names are not those of the plan"
    if len(bank.templates) != spec.text.templates:
        yield "its prompts are not those that the spec counts"
    if bank.prompts_sha256 != spec.text.prompts_sha256:
        yield "its prompts are not those of the spec"
    yield from bank.problems(spec.teacher)
