"""`richsem-prep view`: one self-contained HTML page of rendered views, their boxes and their soft labels.

Everything that comes from a cache is escaped, and the page's own policy forbids scripts and requests.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from richsem_prep.explore.shown_views import ShownView, choose_views, load_view
from richsem_schemas.cache.manifest import LabelManifest
from richsem_schemas.cache.reader import Cache
from richsem_schemas.cache.view import VIEW_KINDS
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.output_files import require_no_inputs
from richsem_schemas.io.places import Place
from richsem_schemas.io.words import os_error_parts, readable_bytes
from richsem_schemas.vocabularies.vocabulary import NO_LABEL

CLASSES_SHOWN = 5
COLOURS = 8
"""Regions of one view that have a colour of their own; further ones begin anew."""

REGIONS_LISTED = 24
"""Regions of one view whose labels are written out; all boxes are drawn."""


def write_page(cache: Cache, label_set: str, path: Path, *, views: int, root: Place | None) -> int:
    """Write a page about a label set; returns how many views it shows.

    At most so many `views`; originals that the cache refers to lie below `root`, or where the plan says.

    Raises:
        RichSemError: the file's folder is not there, it is one that is read, or originals can't be found.
        FullDiskError: there is no space for it.
        CorruptCacheError: a file of the cache is missing or damaged.
    """
    require_page(path, cache)
    if cache.labels_elsewhere is not None and not cache.layout.plan.is_file():
        raise RichSemError(
            f"{cache.labels_layout.out} holds labels alone, and the cache of its pictures, {cache.layout.out}, isn't "
            "there; bring it back, or record its new place with the same `richsem-prep shard --from-cache`"
        )
    root = root or cache.originals_root
    chosen = choose_views(cache, label_set, views)
    try:
        shown = [load_view(cache, label_set, shard, row, root) for shard, row in chosen]
    except OSError as error:
        raise RichSemError(unreadable(cache, error)) from error
    _require_not_read(path, cache, label_set, shown, root)
    # Names may hold what UTF-8 has no bytes for.
    write_atomically(path, page_html(cache, cache.label_sets[label_set], shown).encode("utf-8", "replace"))
    return len(shown)


def unreadable(cache: Cache, error: OSError) -> str:
    """A file of a cache, or an original that it refers to, that can't be read, and what to do."""
    remedy = f"see what else is with `richsem-prep verify {cache.labels_layout.out}`"
    if cache.manifest.plan.pictures == "reference":
        remedy += "; where the originals have moved, say so with --root"
    name, reason = os_error_parts(error)
    return f"{name or 'a file'}: can't be read ({reason}); {remedy}"


def require_page(path: Path, cache: Cache) -> None:
    """Check, before any work, that a page can be written, and not into the cache, where `verify` finds strangers.

    Raises:
        RichSemError: it can't.
    """
    if not path.parent.is_dir():
        raise RichSemError(f"--html {path}: there is no folder {path.parent}; make it, or name another file")
    if path.is_dir():
        raise RichSemError(f"--html {path} is a folder; name a file in it, such as {path / 'views.html'}")
    for out in (cache.layout.out, cache.labels_layout.out):
        if isinstance(out, Path) and path.resolve().is_relative_to(out.resolve()):
            raise RichSemError(f"--html {path} lies in the cache {out}; name a file beside it, such as {out}.html")


def _require_not_read(path: Path, cache: Cache, label_set: str, shown: Sequence[ShownView], root: Place | None) -> None:
    """Refuse to write over what is shown, by whatever link."""
    layout, views = cache.layout, cache.labels_layout.label_set(label_set)
    read: list[Place] = [layout.manifest, layout.plan, views.manifest, views.spec, views.text, views.text_features]
    for number in {view.shard for view in shown}:
        pictures, labels = cache.picture_shard(number), cache.label_shard(label_set, number)
        read += [*pictures.files, *labels.files]
    if root is not None:
        read += [root / name for view in shown for name in view.picture_names]
    require_no_inputs([path], [file for file in read if isinstance(file, Path)], remedy="name another --html")


def page_html(cache: Cache, manifest: LabelManifest, views: Sequence[ShownView]) -> str:
    """The page, without a script, a style sheet or a picture from elsewhere."""
    return (
        templates_of(__package__)
        .get_template("page.html.j2")
        .render(
            dataset=cache.manifest.plan.dataset,
            label_set=manifest.name,
            facts=_facts(cache, manifest),
            shown=len(views),
            views=f"{manifest.views:,}",
            classes_shown=CLASSES_SHOWN,
            sections=_sections(cache, manifest, views),
        )
    )


def templates_of(*packages: str) -> Environment:
    """The templates of packages, the first one's before those of the next; what they are filled with is escaped."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in packages]),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: object) -> object:
    """Control characters, marks that turn the writing direction among them, are replaced in what comes from a cache."""
    if type(value) is not str or value.isprintable():
        return value
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in value)


def _facts(cache: Cache, manifest: LabelManifest) -> dict[str, str]:
    plan, spec = cache.manifest.plan, manifest.spec
    size = f"views at {spec.region_encoder.teacher_size} px" if spec.region_encoder.teacher_size else "views full size"
    has_none = spec.embeddings == "none"
    embeddings = "no embeddings" if has_none else f"embeddings of {spec.teacher.embed_dim} × {spec.embeddings}"
    passes = {f"{kind}s": count for kind, count in spec.views.passes.items()}
    return {
        "Pictures": f"{cache.manifest.samples:,} ({readable_bytes(cache.manifest.bytes)})",
        "Regions": f"{manifest.regions:,} ({readable_bytes(manifest.bytes)})",
        "Passes": ", ".join(f"{kind} {count}" for kind, count in passes.items() if count) or "none",
        "Teacher": spec.teacher.name,
        "Region encoder": f"{spec.region_encoder.kind}, {size}, {spec.precision}",
        "Vocabulary": f"{spec.text.classes:,} names of {spec.text.vocabulary}",
        "Stored a region": f"top {spec.top_k} classes; {embeddings}",
        "Fingerprint": manifest.fingerprint[:12],
        "Seed": str(plan.seed),
    }


def _sections(cache: Cache, manifest: LabelManifest, views: Sequence[ShownView]) -> list[dict[str, Any]]:
    """The views of each kind; those with a single region stand side by side."""
    names = cache.text_bank(manifest.name).class_names
    hard_names = cache.manifest.plan.vocabulary.class_names
    sections = []
    for kind in VIEW_KINDS:
        mine = [view for view in views if view.row["kind"] == kind]
        if mine:
            layout = "cards" if all(len(view.labelled.view.regions) == 1 for view in mine) else "rows"
            articles = [_article(view, names, hard_names) for view in mine]
            sections.append({"kind": kind, "layout": layout, "views": articles})
    return sections


def _article(shown: ShownView, names: Sequence[str], hard_names: Sequence[str]) -> dict[str, Any]:
    view = shown.labelled.view
    height, width = view.canvas_hw
    listed = range(min(len(view.regions), REGIONS_LISTED))
    return {
        "key": shown.row["key"],
        "pass_index": view.pass_index,
        "shard": shown.shard,
        "width": width,
        "height": height,
        "jpeg": base64.b64encode(shown.jpeg).decode(),
        "boxes": [_box(number, box, width, height) for number, box in enumerate(view.regions["box_xyxy_px"])],
        "regions": [_region(shown, number, names, hard_names) for number in listed],
        "more_regions": len(view.regions) - len(listed),
    }


def _box(number: int, box_xyxy_px: NDArray[np.float32], width: int, height: int) -> dict[str, Any]:
    # Kept off the canvas's border, where half the line would be cut away.
    inset = max(width, height) * 0.004
    left, top, right, bottom = box_xyxy_px.tolist()
    return {
        "number": number + 1,
        "colour": f"c{number % COLOURS}",
        "x": left + inset,
        "y": top + inset,
        "width": max(right - left - 2 * inset, 0.1),
        "height": max(bottom - top - 2 * inset, 0.1),
        "left": 100 * left / width,
        "top": 100 * top / height,
    }


def _region(shown: ShownView, number: int, names: Sequence[str], hard_names: Sequence[str]) -> dict[str, Any]:
    region, labels = shown.labelled.view.regions[number], shown.labelled.labels
    category_id = int(region["category_id"])
    class_ids = labels.class_ids[number, :CLASSES_SHOWN].tolist()
    probs = np.exp(labels.log_probs[number, :CLASSES_SHOWN].astype(np.float64)).tolist()
    return {
        "number": number + 1,
        "colour": f"c{number % COLOURS}",
        "hard_label": None if category_id == NO_LABEL else hard_names[category_id],
        "picture": shown.picture_names[int(region["tile"])],
        "classes": [
            (names[class_id], prob, class_id == category_id != NO_LABEL)
            for class_id, prob in zip(class_ids, probs, strict=True)
        ],
        "others": len(names) - len(probs),
        "rest": max(1 - sum(probs), 0.0),
    }
