"""`richsem-prep view`: one self-contained HTML page of rendered views, their boxes and their soft labels.

Everything that comes from a cache is escaped, and the page's own policy forbids scripts and requests.
"""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richsem_schemas.cache.codec import LabelledView
from richsem_schemas.cache.index import PictureRow, ViewRow
from richsem_schemas.cache.manifest import LabelManifest
from richsem_schemas.cache.reader import Cache, picture_rows, read_pictures, read_views, view_rows
from richsem_schemas.cache.render import render_view
from richsem_schemas.cache.view import VIEW_KINDS, ViewKind
from richsem_schemas.cache.view_batch import ShardPictures, ViewBatch
from richsem_schemas.cache.view_checks import geometry_problems
from richsem_schemas.errors import CorruptCacheError, RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.output_files import require_no_inputs
from richsem_schemas.io.places import Place, open_place
from richsem_schemas.io.words import os_error_parts, readable_bytes
from richsem_schemas.pictures.decode import decode_picture

CLASSES_SHOWN = 5
COLOURS = 8
"""Regions of one view that have a colour of their own; further ones begin anew."""

REGIONS_LISTED = 24
"""Regions of one view whose labels are written out; all boxes are drawn."""

_NO_REGIONS = "<li><i>no box is seen in it</i></li>"
_LONGEST_SIDE = 960
_JPEG_QUALITY = 85
_UNLABELLED = 0


@dataclass(frozen=True, eq=False)
class ShownView:
    """A view with what the page tells about it.

    Attributes:
        row: where it stands.
        shard: its number.
        labelled: recipe and labels.
        picture_names: of its tiles.
        jpeg: the rendered view, perhaps smaller than its canvas.
    """

    row: ViewRow
    shard: int
    labelled: LabelledView
    picture_names: tuple[str, ...]
    jpeg: bytes


def write_page(cache: Cache, labels: str, path: Path, *, views: int, root: Place | None) -> int:
    """Write a page about a label set; returns how many views it shows.

    Args:
        cache: a finished cache.
        labels: name of a finished label set.
        path: the file to write, whole or not at all.
        views: how many to show; fewer where the set has fewer.
        root: where originals lie, for caches that refer to them; None is where the cache says.

    Raises:
        RichSemError: the file's folder is not there, it is one that is read, or originals can't be found.
        FullDiskError: there is no space for it.
        CorruptCacheError: a file of the cache is missing or damaged.
    """
    if not path.parent.is_dir():
        raise RichSemError(f"--html {path}: there is no folder {path.parent}; make it, or name another file")
    if path.is_dir():
        raise RichSemError(f"--html {path} is a folder; name a file in it, such as {path / 'views.html'}")
    if cache.labels_elsewhere is not None and not cache.layout.plan.is_file():
        raise RichSemError(
            f"{cache.labels_layout.out} holds labels alone, and the cache of its pictures, {cache.layout.out}, isn't "
            "there; bring it back, or record its new place with the same `richsem-prep shard --from-cache`"
        )
    root = root or (open_place(cache.manifest.plan.root) if cache.manifest.plan.root else None)
    chosen = choose_views(cache, labels, views)
    try:
        shown = [_load(cache, labels, shard, row, root) for shard, row in chosen]
    except OSError as error:
        raise RichSemError(unreadable(cache, error)) from error
    _require_page(path, cache, labels, shown, root)
    # Names may hold what UTF-8 has no bytes for.
    write_atomically(path, page_html(cache, cache.label_sets[labels], shown).encode("utf-8", "replace"))
    return len(shown)


def unreadable(cache: Cache, error: OSError) -> str:
    """A file of a cache, or an original that it refers to, that can't be read, and what to do."""
    remedy = f"see what else is with `richsem-prep verify {cache.labels_layout.out}`"
    if cache.manifest.plan.pictures == "reference":
        remedy += "; where the originals have moved, say so with --root"
    name, reason = os_error_parts(error)
    return f"{name or 'a file'}: can't be read ({reason}); {remedy}"


def _require_page(path: Path, cache: Cache, labels: str, shown: Sequence[ShownView], root: Place | None) -> None:
    """Refuse to write into the cache, where `verify` finds strangers, or over what is shown, by whatever link."""
    layout, views = cache.layout, cache.labels_layout.label_set(labels)
    read: list[Place] = [layout.manifest, layout.plan, views.manifest, views.spec, views.text, views.text_features]
    for shard in {view.shard for view in shown}:
        read += [layout.pictures_tar(shard), layout.pictures_index(shard), views.tar(shard), views.index(shard)]
    if root is not None:
        read += [root / name for view in shown for name in view.picture_names]
    require_no_inputs([path], [file for file in read if isinstance(file, Path)], remedy="name another --html")
    for out in (layout.out, cache.labels_layout.out):
        if isinstance(out, Path) and path.resolve().is_relative_to(out.resolve()):
            raise RichSemError(f"--html {path} lies in the cache {out}; name a file beside it, such as {out}.html")


def choose_views(cache: Cache, labels: str, views: int) -> list[tuple[int, ViewRow]]:
    """Draw views evenly from all kinds, shards and passes; the same ones each time.

    Returns:
        Shard and index row of each, in the order of kinds, shards and keys.
    """
    manifest = cache.label_sets[labels]
    rng = np.random.default_rng([cache.manifest.plan.seed, views])
    shards = [shard.shard for shard in manifest.shards if shard.views]
    if not shards:
        return []
    # More shards than views are not needed, and a large cache has thousands.
    spread = [shards[int(place)] for place in np.linspace(0, len(shards) - 1, min(views, len(shards)))]
    rows = [(shard, row) for shard in spread for row in view_rows(cache.labels_layout, labels, shard)]
    groups: dict[tuple[str, int, int], list[tuple[int, ViewRow]]] = {}
    for place in rng.permutation(len(rows)).tolist():
        shard, row = rows[place]
        groups.setdefault((row.kind, row.pass_index, shard), []).append(rows[place])
    chosen: list[tuple[int, ViewRow]] = []
    available = Counter(row.kind for _, row in rows)
    kinds = sorted(available, key=lambda kind: available[kind])
    for number, kind in enumerate(kinds):
        # What the rarer kinds can't fill goes to the others.
        wanted = (views - len(chosen)) // (len(kinds) - number)
        queues = [groups[key] for key in _diagonally([key for key in groups if key[0] == kind])]
        turns = max(len(queue) for queue in queues)
        dealt = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
        chosen += dealt[:wanted]
    return sorted(chosen, key=lambda item: (VIEW_KINDS.index(item[1].kind), item[0], item[1].key, item[1].pass_index))


def _diagonally(keys: list[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Order (kind, pass, shard) so that neighbours differ in both pass and shard."""
    passes = sorted({key[1] for key in keys})
    shards = sorted({key[2] for key in keys})

    def turn(key: tuple[str, int, int]) -> tuple[int, int]:
        pass_place, shard_place = passes.index(key[1]), shards.index(key[2])
        return (pass_place - shard_place) % len(passes), shard_place

    return sorted(keys, key=turn)


def _load(cache: Cache, labels: str, shard: int, row: ViewRow, root: Place | None) -> ShownView:
    layout = cache.layout
    rows = {item.sample: item for item in picture_rows(layout, shard)}
    (labelled,) = read_views(cache.labels_layout, labels, shard, [row])
    _require_sound(cache, labels, shard, row, labelled, list(rows.values()))
    samples = labelled.view.tiles["sample"].tolist()
    wanted = [rows[sample] for sample in dict.fromkeys(samples)]
    stored = {item.row.sample: item for item in read_pictures(layout, shard, wanted, root=root)}
    rendered = render_view(labelled.view, {sample: decode_picture(item.data) for sample, item in stored.items()})
    names = tuple(stored[sample].row.name for sample in samples)
    return ShownView(row, shard, labelled, names, _jpeg(Image.fromarray(rendered)))


def _require_sound(
    cache: Cache, labels: str, shard: int, row: ViewRow, labelled: LabelledView, pictures: list[PictureRow]
) -> None:
    """Refuse what would render wrongly, or exhaust the memory."""
    plan, classes = cache.manifest.plan, cache.label_sets[labels].spec.text.classes
    batch = ViewBatch.of([(f"{row.key}.{row.member}", labelled)])
    problems = list(geometry_problems(batch, ShardPictures.of(pictures, plan)))
    class_ids = labelled.labels.class_ids
    if ((class_ids < 0) | (class_ids >= classes)).any():
        problems.append(f"{row.key}.{row.member}: a class id is out of range")
    if problems:
        path = cache.labels_layout.label_set(labels).tar(shard)
        raise CorruptCacheError(f"{path}: {problems[0]}; run `richsem-prep verify {cache.labels_layout.out}`")


def _jpeg(picture: Image.Image) -> bytes:
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def page_html(cache: Cache, manifest: LabelManifest, views: Sequence[ShownView]) -> str:
    """The page, without a script, a style sheet or a picture from elsewhere."""
    names = cache.text_bank(manifest.name).class_names
    hard_names = cache.manifest.plan.vocabulary.class_names
    figures = "\n".join(_section_html(kind, views, names, hard_names) for kind in VIEW_KINDS)
    title = f"{cache.manifest.plan.dataset} · {manifest.name}"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_text(cache.manifest.plan.dataset)} <span>{_text(manifest.name)}</span></h1>
<dl>
{_facts_html(cache, manifest)}
</dl>
<p>{_legend(len(views), manifest)}</p>
</header>
<main>
{figures}
</main>
</body>
</html>
"""


def _legend(shown: int, manifest: LabelManifest) -> str:
    return (
        f"{shown} of {manifest.views:,} views, as teacher and student see them. Each region has a colour and a number: "
        f"its box in the picture, its hard label, and the teacher's {CLASSES_SHOWN} most probable classes. "
        "<b>✓</b> marks the hard label among them."
    )


def _facts_html(cache: Cache, manifest: LabelManifest) -> str:
    plan, spec = cache.manifest.plan, manifest.spec
    size = f"views at {spec.region_encoder.teacher_size} px" if spec.region_encoder.teacher_size else "views full size"
    embeddings = "no embeddings" if spec.embeddings == "none" else f"{spec.teacher.embed_dim} × {spec.embeddings}"
    passes = {f"{kind}s": count for kind, count in spec.views.passes.items()}
    facts = {
        "Pictures": f"{cache.manifest.samples:,} ({readable_bytes(cache.manifest.bytes)})",
        "Regions": f"{manifest.regions:,} ({readable_bytes(manifest.bytes)})",
        "Passes": ", ".join(f"{kind} {count}" for kind, count in passes.items() if count) or "none",
        "Teacher": spec.teacher.name,
        "Region encoder": f"{spec.region_encoder.kind}, {size}, {spec.precision}",
        "Vocabulary": f"{spec.text.classes:,} names of {spec.text.vocabulary}",
        "Stored a region": f"top {spec.top_k}, {embeddings}",
        "Fingerprint": manifest.fingerprint[:12],
        "Seed": str(plan.seed),
    }
    return "\n".join(f"<div><dt>{name}</dt><dd>{_text(value)}</dd></div>" for name, value in facts.items())


def _section_html(kind: ViewKind, views: Sequence[ShownView], names: Sequence[str], hard_names: Sequence[str]) -> str:
    """The views of one kind; those with a single region stand side by side."""
    mine = [view for view in views if view.row.kind == kind]
    if not mine:
        return ""
    layout = "cards" if all(len(view.labelled.view.regions) == 1 for view in mine) else "rows"
    articles = "\n".join(_view_html(view, names, hard_names) for view in mine)
    return f'<section class="{layout}">\n<h2>{kind.capitalize()} views</h2>\n{articles}\n</section>'


def _view_html(shown: ShownView, names: Sequence[str], hard_names: Sequence[str]) -> str:
    view, row = shown.labelled.view, shown.row
    height, width = view.canvas_hw
    boxes = "".join(_box_svg(number, box, view.canvas_hw) for number, box in enumerate(view.regions["box_xyxy_px"]))
    tags = "".join(_tag_html(number, box, view.canvas_hw) for number, box in enumerate(view.regions["box_xyxy_px"]))
    listed = range(min(len(view.regions), REGIONS_LISTED))
    regions = "\n".join(_region_html(shown, number, names, hard_names) for number in listed) or _NO_REGIONS
    if len(view.regions) > REGIONS_LISTED:
        regions += f"\n<li>and {len(view.regions) - REGIONS_LISTED:,} more regions</li>"
    data = base64.b64encode(shown.jpeg).decode()
    return f"""<article>
<h3>{_text(row.key)} <span>pass {view.pass_index} · shard {shown.shard} · {width}×{height} px</span></h3>
<div class="pair">
<div class="frame"><div class="canvas" style="--ratio:{width / height:.4f};aspect-ratio:{width}/{height}">
<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="{view.kind} view {_text(row.key)}">
<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>
{tags}
</div></div>
<ol>
{regions}
</ol>
</div>
</article>"""


def _box_svg(number: int, box_xyxy_px: NDArray[np.float32], canvas_hw: tuple[int, int]) -> str:
    """A box drawn twice, pale below its colour, so that it shows on any picture."""
    # Kept off the canvas's border, where half the line would be cut away.
    inset = max(canvas_hw) * 0.004
    x1, y1, x2, y2 = (float(value) for value in box_xyxy_px)
    corner = f'x="{x1 + inset:.1f}" y="{y1 + inset:.1f}"'
    size = f'width="{max(x2 - x1 - 2 * inset, 0.1):.1f}" height="{max(y2 - y1 - 2 * inset, 0.1):.1f}"'
    return f'<g class="c{number % COLOURS}"><rect class="halo" {corner} {size}/><rect class="box" {corner} {size}/></g>'


def _tag_html(number: int, box_xyxy_px: NDArray[np.float32], canvas_hw: tuple[int, int]) -> str:
    left, top = float(box_xyxy_px[0]) / canvas_hw[1], float(box_xyxy_px[1]) / canvas_hw[0]
    return f'<span class="tag c{number % COLOURS}" style="left:{left:.2%};top:{top:.2%}">{number + 1}</span>'


def _region_html(shown: ShownView, number: int, names: Sequence[str], hard_names: Sequence[str]) -> str:
    region, labels = shown.labelled.view.regions[number], shown.labelled.labels
    category_id = int(region["category_id"])
    hard = f"<b>{_text(hard_names[category_id])}</b>" if category_id != _UNLABELLED else "<i>without a hard label</i>"
    probs = np.exp(labels.log_probs[number, :CLASSES_SHOWN].astype(np.float64))
    bars = "\n".join(
        _bar_html(_text(names[class_id]), float(prob), is_hard=class_id == category_id != _UNLABELLED)
        for class_id, prob in zip(labels.class_ids[number, :CLASSES_SHOWN].tolist(), probs, strict=True)
    )
    others = len(names) - len(probs)
    rest = _rest_html(others, float(max(1 - probs.sum(), 0.0))) if others else ""
    picture = _text(shown.picture_names[int(region["tile"])])
    return f"""<li class="c{number % COLOURS}">
<div class="hard"><span class="tag">{number + 1}</span>{hard}</div>
<div class="file">{picture}</div>
<table>
{bars}
{rest}</table>
</li>"""


def _bar_html(name: str, prob: float, *, is_hard: bool) -> str:
    mark = ' <b title="the hard label">✓</b>' if is_hard else ""
    return (
        f'<tr><th>{name}{mark}</th><td class="bar"><span style="width:{prob:.2%}"></span></td>'
        f"<td>{_percent(prob)}</td></tr>"
    )


def _rest_html(others: int, mass: float) -> str:
    name = f"{others:,} other class{'es' * (others > 1)}"
    return (
        f'<tr class="rest"><th>{name}</th><td class="bar"><span style="width:{mass:.2%}"></span></td>'
        f"<td>{_percent(mass)}</td></tr>\n"
    )


def _percent(prob: float) -> str:
    return f"{prob:.1%}" if prob >= 0.0005 else "&lt;0.1%"


def _text(value: object) -> str:
    """Untrusted text as HTML; control characters, marks that turn the writing direction among them, are replaced."""
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value)))


_STYLE = """
:root{--bg:#f6f6f4;--card:#fff;--ink:#1c1d1f;--soft:#62666d;--line:#e3e3df;--track:#eeeeea;--rest:#a9adb3;--on:#fff}
.c0{--c:#2563c9}.c1{--c:#c2410c}.c2{--c:#0b7a5b}.c3{--c:#a21caf}
.c4{--c:#a16207}.c5{--c:#be123c}.c6{--c:#0e7490}.c7{--c:#4d7c0f}
@media (prefers-color-scheme:dark){
:root{--bg:#141517;--card:#1d1f22;--ink:#e8e8e6;--soft:#9a9fa7;--line:#303338;--track:#2a2d31;--rest:#6b7078;--on:#111}
.c0{--c:#7fb0ff}.c1{--c:#ff9a62}.c2{--c:#5fd3ac}.c3{--c:#e58cf0}
.c4{--c:#e6c35c}.c5{--c:#ff8ba3}.c6{--c:#67cfe3}.c7{--c:#b4d86a}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
font-variant-numeric:tabular-nums}
header,main{max-width:1240px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:26px;font-weight:650;letter-spacing:-.01em;margin:0 0 18px;overflow-wrap:anywhere}
h1 span{color:var(--soft);font-weight:400}
dl{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:12px 28px;margin:0;padding:16px 0;
border:solid var(--line);border-width:1px 0}
dt{color:var(--soft);font-size:12.5px}
dd{margin:0;overflow-wrap:anywhere}
header p{color:var(--soft);max-width:80ch;margin:16px 0 24px}
header p b{color:var(--ink)}
h2{font-size:18px;font-weight:650;margin:30px 0 14px}
article{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px 18px;min-width:0}
h3{font-size:14px;font-weight:600;margin:0 0 12px}
h3 span{display:inline-block;color:var(--soft);font-weight:400;font-size:13px}
section{display:grid;gap:20px;margin-bottom:36px}
section h2{grid-column:1/-1;margin-bottom:-6px}
.cards{grid-template-columns:repeat(auto-fill,minmax(min(350px,100%),1fr))}
.rows{grid-template-columns:minmax(0,1fr)}
.pair{display:grid;gap:16px}
.rows .pair{grid-template-columns:minmax(0,56fr) minmax(0,44fr);gap:26px;align-items:start}
.cards .frame{display:grid;place-items:center;height:300px;background:var(--track);border-radius:6px}
.cards .canvas{width:min(100%,300px*var(--ratio));max-width:none;max-height:300px}
.canvas{position:relative;width:100%;max-width:calc(620px*var(--ratio));border-radius:6px;overflow:hidden;
background:var(--track)}
.canvas img,.canvas svg{position:absolute;inset:0;width:100%;height:100%;display:block}
rect{fill:none;vector-effect:non-scaling-stroke}
.halo{stroke:rgba(255,255,255,.75);stroke-width:5}
.box{stroke:var(--c);stroke-width:2.5}
@media (prefers-color-scheme:dark){.halo{stroke:rgba(0,0,0,.6)}}
.tag{display:inline-flex;align-items:center;justify-content:center;min-width:22px;height:22px;padding:0 5px;
border-radius:5px;background:var(--c);color:var(--on);font-size:12.5px;font-weight:650;line-height:1}
.canvas .tag{position:absolute;margin:8px}
ol{list-style:none;margin:0;padding:0;display:grid;gap:14px}
li{min-width:0;border-left:3px solid var(--c);padding-left:12px}
.hard{display:flex;gap:8px;align-items:center;overflow-wrap:anywhere;min-width:0}
.hard i{color:var(--soft)}
.file{color:var(--soft);font-size:12.5px;overflow-wrap:anywhere;margin:2px 0 4px}
table{border-collapse:collapse;width:100%;table-layout:fixed;font-size:13.5px}
th{font-weight:400;text-align:left;width:46%;padding:1px 10px 1px 0;overflow-wrap:anywhere;line-height:1.3}
th b{color:var(--c)}
td{padding:1px 0}
td:last-child{width:56px;text-align:right}
.bar span{display:block;height:8px;min-width:1px;border-radius:4px;background:var(--c)}
.bar{background:linear-gradient(var(--track),var(--track)) center/100% 8px no-repeat}
.rest th,.rest td{color:var(--soft)}
.rest .bar span{background:var(--rest)}
@media (max-width:760px){
header,main{padding-left:14px;padding-right:14px}
.rows .pair{grid-template-columns:minmax(0,1fr);gap:16px}
article{padding:12px 14px 14px}}
@media print{article{break-inside:avoid}}
"""
