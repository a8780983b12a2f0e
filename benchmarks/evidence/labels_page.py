"""What the label distances say, as a section of the page on the evidence; from their JSON alone."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.evidence import tables
from benchmarks.evidence.forms import EXACT, HARD, PADDED
from benchmarks.evidence.gradients import ANOTHER_BATCH, MEASURES

KINDS = {"windows": "Boxes of windows", "mosaics": "Tiles of mosaics", "crops": "Crops"}
WORLDS = {"demo": "the demo's world", "pictures": "real pictures"}

_OF_LABELS = ("form", "KL, mean", "KL, median", "total variation", "embeddings' cosine", "same class first", "no label")
_OF_GRADIENTS = ("branch", "detector", "summed", "all losses", "norm")
_STORAGE = ("float16", "int8")


def table(node: Mapping[str, Any]) -> str:
    """Figures of one kind of views of one world as a Markdown table, a form a row."""
    turns = node["gradients"].get("trained", {})
    columns = _OF_LABELS + (_OF_GRADIENTS if turns else ())
    rows = [[name, *_distances(found)] for name, found in node["forms"].items() if name != EXACT]
    if turns:
        rows.append([ANOTHER_BATCH, *[""] * (len(_OF_LABELS) - 1)])
        rows = [[*row, *_turns(turns.get(row[0]))] for row in rows]
    return tables.table(columns, rows)


def _distances(found: dict[str, Any]) -> list[str]:
    kl, is_reversed = found["kl"], found["kl"]["mean"] is None
    if is_reversed:
        kl = found["kl_reversed"]
    mark = "*" if is_reversed else ""
    cosine = found["cosine"]
    return [
        _small(kl["mean"]) + mark,
        _small(kl["median"]) + mark,
        _small(found["total_variation"]["mean"]),
        "" if cosine is None else _near_one(cosine["mean"]),
        _percent(found["top_1_agrees"]),
        _percent(found["without_label"]),
    ]


def _turns(turn: dict[str, Any] | None) -> list[str]:
    if turn is None:
        return [""] * len(_OF_GRADIENTS)
    branch, detector, everything = (turn[measure]["cosine"]["median"] for measure in MEASURES)
    cosines = [_near_one(each) for each in (branch, detector, turn["detector"].get("cosine_of_sum"), everything)]
    ratio = turn["detector"]["norm_ratio"]["median"]
    return [*cosines, "" if ratio is None else f"{ratio:.2f}"]


def _small(value: float | None) -> str:
    """Two digits that count, down to where only rounding is left."""
    if value is None:
        return ""
    if value < 1e-6:
        return "0" if value <= 0 else "< 1e-6"
    return f"{value:.2g}" if value < 0.01 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _percent(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1%}" if 0 < value < 0.01 or 0.99 < value < 1 else f"{value:.0%}"


def _near_one(value: float | None) -> str:
    if value is None:
        return ""
    return "1" if value > 1 - 5e-6 else f"{value:.5f}" if value > 0.999 else f"{value:.3f}"


def labels_section(figures: Mapping[str, Any]) -> str:
    """The section: what was compared, a table a world and kind of views, and what they say."""
    parts = ["## How far a cached label is from the exact one", _INTRODUCTION]
    for world, kinds in figures["worlds"].items():
        for kind, node in kinds.items():
            if node.get("forms"):
                parts += [_caption(world, kind, node), table(node), *_findings(node["gradients"].get("trained"))]
    return "\n\n".join([*parts, _NOTES]) + "\n"


def _caption(world: str, kind: str, node: dict[str, Any]) -> str:
    return (
        f"**{KINDS[kind]}, {WORLDS.get(world, world)}**: {node['regions']:,} regions of {node['views']:,} views, "
        f"{node['classes']} rows, entropy of the exact label {node['entropy']['mean']:.2f}."
    )


def _findings(turns: dict[str, Any] | None) -> list[str]:
    """What gradients say in a paragraph, or nothing where there are none."""
    if not turns or turns[ANOTHER_BATCH]["detector"]["cosine"]["median"] is None:
        return []
    tops = sorted({name.split(",")[0] for name in turns if name.startswith("top ")}, key=lambda name: int(name[4:]))
    kept = [f"{_least(turns, _STORAGE)} by {' and '.join(_STORAGE)}"]
    kept += [f"{_least(turns, [name for name in turns if name.startswith(f'{top},')])} by {top}" for top in tops]
    borrowed = [f"{_both(turns[name])} by {name}" for name in turns if name.endswith("K = 4")]
    others = [f"{_both(turns[PADDED])} where the teacher sees a padded batch", f"{_both(turns[HARD])} by hard labels"]
    other = _near_one(turns[ANOTHER_BATCH]["detector"]["cosine"]["median"])
    said = (
        f"Cosines of the soft loss's gradient by all weights: stored forms keep {', '.join(kept)} (the least of the "
        f"tails); of one batch, and summed over all, {'; '.join([*borrowed, *others])}. Two batches have {other}."
    )
    return [textwrap.fill(said, 120, break_on_hyphens=False)]


def _least(turns: dict[str, Any], names: Sequence[str]) -> str:
    return _near_one(min(turns[name]["detector"]["cosine"]["median"] for name in names))


def _both(turn: dict[str, Any]) -> str:
    detector = turn["detector"]
    return f"{_near_one(detector['cosine']['median'])} and {_near_one(detector['cosine_of_sum'])}"


_INTRODUCTION = """\
Without training. The exact label is what the demo's teacher says of the very view that the student sees, alone and
unrounded. KL(exact ‖ cached) in nats; \\* where that is infinite, since the form rules classes out, the other
direction. For a bucket KL and total variation are over the stored classes and one of all the others: lower bounds.
Total variation is also the error of the gradient at the student's logits. The last five columns are of a trained demo
detector, medians over batches of eight views: the cosine of the soft loss's gradient with that of exact labels, by the
semantic branch's projection and by all weights; *summed* the latter of the sum over all batches, in which what is
random is averaged out and what is biased stays; of all losses together, which is what moves the weights; and the norm
of the soft loss's gradient over that of exact labels. *another batch* is the exact gradient of other views, the noise
of training itself; *padded batch* what the reference's online teacher says, who sees two views padded to one size."""

_NOTES = """\
Stored windows, crops and mosaics are shown as the teacher saw them, so each is as near as its storage, in any number of
passes: more of them (V, or K with `views=stored`) bring variety, not nearness. The teacher doesn't know what is on real
pictures and wavers: its labels there are flat. Flat labels lose more by truncation, sure ones that now and then change
their mind by borrowing; neither world is a bound for CLIP's own labels over a thousand names.
What it calls them has little to do with their annotations, so hard labels say nothing there. Labels of real pictures
are of views at the reference's sizes, and the detector is shown those views at 256 pixels."""
