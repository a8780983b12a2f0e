"""Results of the experiment as they could have come out: arms, and files of runs and caches of them."""

import json
from pathlib import Path

from benchmarks.evidence.arms import Arm


def arm(name, title, group, tier="b", label_sets=(), **more):
    """An arm without a config, which the page doesn't look at."""
    return Arm(name, title, tier, group, label_sets=label_sets, **more)


def _views(kind, title, letter, counts, group, label_sets, tier="b"):
    return [
        arm(f"{kind}-{count}", f"{title}, {letter} = {count}", group, tier, (f"{label_sets}-{count}",), passes=count)
        for count in counts
    ]


ARMS = [
    arm("baseline", "baseline", "baseline"),
    arm("branch", "the branch with hard labels", "branch"),
    arm("online-detection", "online teacher, detection", "online", online="detection"),
    *_views("stored", "stored windows", "K", (1, 4), "windows", "windows"),
    *_views("fresh", "fresh windows", "K", (1, 4), "windows", "windows"),
    arm("online-extra", "online teacher, extra", "online", label_sets=("mosaics-4",), online="extra"),
    *_views("mosaics", "mosaics", "V", (1, 4), "extra", "mosaics"),
    arm("online-both", "online teacher, both", "online", label_sets=("mosaics-4",), online="both"),
    arm("cached-both", "windows and mosaics", "extra", "c", ("windows-4", "mosaics-4"), passes=4),
    arm("extra-hard", "extra pictures, hard labels", "extra", "c", ("mosaics-4",)),
    *_views("crops", "crops", "K", (1,), "extra", "crops", "c"),
    *_views("free-mosaics", "free mosaics", "K", (1,), "extra", "crops", "c"),
    arm("top8-bucket", "top 8, tail: bucket", "labels", "c", ("windows-4-top8",), passes=4),
    arm("int8", "8 bits", "labels", "c", ("windows-4-int8",), passes=4),
    arm("dropped-0.5-hard", "half dropped, hard labels", "dropped", "c", drop_ratio=0.5),
    arm("dropped-0.5-soft", "half dropped, soft labels", "dropped", "c", ("windows-4",), passes=4, drop_ratio=0.5),
    arm("worse", "a worse teacher", "teachers", "c", ("windows-4-worse",), passes=4),
]
BY_NAME = {each.name: each for each in ARMS}
LABEL_BYTES = {
    "crops-1": 3_000_000,
    "mosaics-1": 2_000_000,
    "mosaics-4": 8_000_000,
    "windows-1": 1_500_000,
    "windows-4": 6_000_000,
    "windows-4-int8": 3_200_000,
    "windows-4-top8": 1_600_000,
    "windows-4-worse": 6_000_000,
}
"""Of 8,000 regions."""


def write_run(folder, arm, seed, *, ap=0.5, apr=0.4, step_s=0.5, **changed):
    content = {
        "benchmark": "evidence-run",
        "arm": arm,
        "seed": seed,
        "steps": 1200,
        "metrics": {"AP": ap, "AP50": ap + 0.1, "APr": apr, "APc": ap, "APf": ap + 0.05},
        "processor_s": 1200 * step_s + 60,
        "wall_s": 700.0,
        "step_processor_s": step_s,
        "machine": {"cpu": "a CPU", "cores": 2, "gpu": None, "torch": "2.15", "python": "3.11"},
        "date": f"2026-11-30T1{seed}:00:00+00:00",
        "commit": "0123456789abcdef",
        "recipe": "one",
        "arm_recipe": "as it is",
        **changed,
    }
    _write(folder / "runs" / f"{arm}-{seed}.json", content)


def write_caches(folder, names=tuple(LABEL_BYTES), **changed):
    for name in names:
        content = {
            "benchmark": "evidence-cache",
            "cache": name,
            "processor_s": 30.0 if "top8" in name else 300.0,
            "wall_s": 200.0,
            "label_bytes": LABEL_BYTES[name],
            "picture_bytes": 0 if "top8" in name else 20_000_000,
            "views": 4000,
            "regions": 8000,
            "teacher_forwards": 4000,
            **changed,
        }
        _write(folder / "caches" / f"{name}.json", content)


def write_world(folder, **changed):
    content = {
        "benchmark": "evidence-world",
        "recipe": "one",
        "pictures": {"train": 1900, "extra": 2880},
        "classes": 144,
        "instances": {"r": 145, "c": 2330, "f": 8460},
        "margin": {"AP": 0.02, "APr": 0.03},
        **changed,
    }
    _write(folder / "world.json", content)


def _write(path: Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
