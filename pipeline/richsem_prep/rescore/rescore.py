"""`richsem-prep rescore`: a label set from the embeddings of another, with other text, temperature or top-k."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from richsem_prep.rescore.shard import Rescoring, rescore_shard
from richsem_prep.shard.finish import finish_cache
from richsem_prep.shard.out_folder import sweep_shards
from richsem_prep.teacher.names import alike_warning
from richsem_schemas.cache.jobs import hold_job
from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import LabelManifest, LabelSpec, LabelsReceipt
from richsem_schemas.cache.reader import Cache, open_cache
from richsem_schemas.cache.record import require_same
from richsem_schemas.cache.shard import LabelShard
from richsem_schemas.cache.text_bank import TextBank, has_text_bank, read_text_bank, write_text_bank
from richsem_schemas.cache.text_folder import TextFolder, read_text_folder
from richsem_schemas.errors import ManifestMismatchError, RichSemError
from richsem_schemas.io.ordered_map import default_threads, ordered_map
from richsem_schemas.io.places import Place

_OF_TEACHER = ("weights_sha256", "model_config_sha256", "quick_gelu", "embed_dim", "logit_scale", "logit_bias")
"""These must agree, so that text and embeddings live in one space; a name may be spelled in several ways."""


@dataclass(frozen=True)
class Rescored:
    """The outcome of a run.

    Attributes:
        receipts: of all its shards.
        already: shards that were there before.
        seconds: from the first shard to the last.
        warning: of names that the teacher can't tell apart; None where there are none.
    """

    name: str
    source: str
    spec: LabelSpec
    receipts: tuple[LabelsReceipt, ...]
    already: int
    seconds: float
    warning: str | None


def rescore(
    out: Place,
    *,
    label_set: str,
    text: Place | None = None,
    source: str | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    threads: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Rescored:
    """Write a label set of top-k labels, without embeddings, for the same views under the same keys.

    A run that was killed goes on where it stopped; the bytes depend on neither threads nor history.

    Without other text, the labels are of the source's own; without a source, of the only set that has embeddings. The
    temperature is 1, and as many classes are kept a region as in the source, unless others are given; never more than
    there are.

    Raises:
        RichSemError: the cache isn't finished, is in use, or has no embeddings; the text is another teacher's; the
            set exists and is another.
    """
    cache = open_cache(out)
    target = cache.labels_layout.label_set(label_set)
    manifest = _source(cache, source, label_set)
    taken = cache.labels_layout.label_set(manifest.name)
    folder = None if text is None else read_text_folder(text)
    if folder is not None:
        _require_same_teacher(folder, manifest, text)
    bank = read_text_bank(taken) if folder is None else folder.bank
    spec = _spec(manifest.spec, folder, temperature=temperature, top_k=top_k, classes=len(bank.class_names))
    with hold_job(out, None):
        _begin(target, spec, bank, len(manifest.shards))
        rescoring = Rescoring(taken, manifest.spec, target, spec, bank)
        start = time.monotonic()
        receipts, already = _make_shards(rescoring, manifest, threads or default_threads(), on_progress)
        seconds = time.monotonic() - start
        finish_cache(cache.labels_layout, [label_set])
    return Rescored(label_set, manifest.name, spec, tuple(receipts), already, seconds, alike_warning(bank))


def _source(cache: Cache, name: str | None, target: str) -> LabelManifest:
    out = cache.labels_layout.out
    rich = [one for one, manifest in cache.label_sets.items() if manifest.spec.embeddings != "none" and one != target]
    if name is None and len(rich) == 1:
        name = rich[0]
    if name is None and len(rich) > 1:
        raise RichSemError(f"{out} has several label sets with embeddings: {', '.join(rich)}; choose one with --from")
    if name == target:
        raise RichSemError(
            f"--from {name} and --label-set {target} are the same label set; give the new one another name"
        )
    again = "`richsem-prep shard` with the same options, --embeddings float16 and a --label-set name of its own"
    if name is None:
        known = ", ".join(cache.label_sets) or "none"
        raise RichSemError(
            f"{out} has no finished label set with embeddings (finished: {known}), and rescoring starts from them; "
            f"make one first: {again}. It touches no picture"
        )
    manifest = cache.label_set(name)
    if manifest.spec.embeddings == "none":
        raise RichSemError(
            f"label set {name} of {out} was made with --embeddings none, and rescoring starts from them; "
            f"{f'take --from {rich[0]}' if rich else f'make a set with embeddings first: {again}'}"
        )
    return manifest


def _require_same_teacher(folder: TextFolder, source: LabelManifest, path: Place | None) -> None:
    found, wanted = folder.teacher, source.spec.teacher
    for field in _OF_TEACHER:
        if getattr(found, field) == getattr(wanted, field):
            continue
        raise ManifestMismatchError(
            f"--text {path} was made by another teacher than label set {source.name}: teacher.{field} is "
            f"{getattr(found, field)!r} ({found.name}) there, {getattr(wanted, field)!r} ({wanted.name}) here. Make "
            f"the text with that teacher: richsem-prep text --teacher {wanted.name} …"
        )


def _spec(
    source: LabelSpec, folder: TextFolder | None, *, temperature: float | None, top_k: int | None, classes: int
) -> LabelSpec:
    return source.model_copy(
        update={
            "text": source.text if folder is None else folder.spec,
            "embeddings": "none",
            "top_k": min(top_k or source.top_k, classes),
            "temperature": temperature or 1.0,
            "rescored_from": source.fingerprint,
        }
    )


def _begin(target: LabelSetLayout, spec: LabelSpec, bank: TextBank, shards: int) -> None:
    if target.spec.is_file():
        remedy = "Name another set with --label-set, or ask for the same"
        require_same(target.spec, LabelSpec.read(target.spec), spec, remedy=remedy)
    sweep_shards(target.cache, target, range(shards))
    if not has_text_bank(target, spec.text):
        write_text_bank(target, bank)
    spec.write(target.spec)


def _make_shards(
    rescoring: Rescoring, source: LabelManifest, threads: int, on_progress: Callable[[int, int], None] | None
) -> tuple[list[LabelsReceipt], int]:
    done, total, already = 0, source.regions, 0
    receipts = []

    def make(shard: int) -> tuple[LabelsReceipt, bool]:
        target = LabelShard(rescoring.target, shard)
        if target.is_done(rescoring.spec.fingerprint):
            return target.read_receipt(), True
        return rescore_shard(shard, rescoring), False

    with ThreadPoolExecutor(threads) as pool:
        shards = [summary.shard for summary in source.shards]
        for receipt, was_there in ordered_map(pool, make, shards, ahead=2 * threads):
            receipts.append(receipt)
            already += was_there
            done += receipt.summary.regions
            if on_progress:
                on_progress(done, total)
    return receipts, already
