"""Results of the experiment as they could have come out: arms, and files of runs and caches of them."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TestArm:
    """What the page needs to know of an arm."""

    __test__ = False

    name: str
    title: str
    group: str
    tier: str = "b"
    caches: tuple[str, ...] = ()
    online: str | None = None
    k: int | None = None
    v: int | None = None


BASELINE = TestArm("baseline", "baseline", "baseline")
BRANCH = TestArm("branch", "the branch with hard labels", "branch")
ONLINE = TestArm("online-detection", "online teacher, detection", "online", online="detection")
ONLINE_EXTRA = TestArm("online-extra", "online teacher, extra", "online", online="extra")
ONLINE_BOTH = TestArm("online-both", "online teacher, both", "online", online="both", tier="c")
ARMS = [
    BASELINE,
    BRANCH,
    ONLINE,
    ONLINE_EXTRA,
    ONLINE_BOTH,
    *(
        TestArm(f"windows-{views}-{k}", f"{views} windows, K = {k}", "windows", caches=(f"windows-{k}",), k=k)
        for views in ("stored", "fresh")
        for k in (1, 4)
    ),
    TestArm("crops-1", "crops, K = 1", "crops", caches=("crops-1",), k=1, tier="c"),
    *(TestArm(f"mosaics-{v}", f"mosaics, V = {v}", "mosaics", caches=(f"mosaics-{v}",), v=v) for v in (1, 4)),
    TestArm("top-8-fresh", "top 8, no tail", "labels", caches=("windows-4", "top-8"), k=4, tier="c"),
    TestArm("dropped-50-hard", "half dropped, no semantics", "dropped", tier="c"),
    TestArm("dropped-50-soft", "half dropped, semantics", "dropped", caches=("windows-4",), k=4, tier="c"),
    TestArm("worse-fresh", "a worse teacher", "teachers", caches=("worse",), k=4, tier="c"),
]
BY_NAME = {arm.name: arm for arm in ARMS}


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
        "train_peak_mib": 900,
        "machine": {"cpu": "a CPU", "cores": 2, "gpu": None, "torch": "2.15", "python": "3.11"},
        "date": f"2026-11-30T1{seed}:00:00+00:00",
        "commit": "0123456789abcdef",
        "recipe": "one",
        **changed,
    }
    _write(folder / "runs" / f"{arm}-{seed}.json", content)


def write_caches(folder, arms=ARMS):
    for number, name in enumerate(sorted({cache for arm in arms for cache in arm.caches})):
        content = {
            "benchmark": "evidence-cache",
            "cache": name,
            "processor_s": 300.0,
            "wall_s": 200.0,
            "label_bytes": 1_000_000 * (number + 1),
            "picture_bytes": 20_000_000,
            "views": 4000,
            "regions": 8000,
            "teacher_forwards": 4000,
        }
        _write(folder / "caches" / f"{name}.json", content)


def write_world(folder, **changed):
    content = {
        "benchmark": "evidence-world",
        "pictures": {"train": 1900, "val": 600, "extra": 2880},
        "classes": 144,
        "instances": {"train": 13000, "val": 3456},
        "margin": {"AP": 0.02, "APr": 0.03},
        "budget_hours": 8,
        **changed,
    }
    _write(folder / "world.json", content)


def _write(path: Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
