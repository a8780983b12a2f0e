"""The runs of the experiment: what is missing is made, in order, and its figures are kept as it ends."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock
from typing import Any

import yaml

from benchmarks.common import save, when
from benchmarks.evidence import world
from benchmarks.evidence.arms import ARMS, EPOCHS, RATIOS, Arm
from benchmarks.evidence.label_sets import DATA, LABEL_SETS, TEACHER_SIZE, LabelSet, command_of
from benchmarks.evidence.measured import Took, run_measured
from benchmarks.evidence.statistics import MARGINS
from richsem_prep.demo.dataset import TRAIN_ANNOTATIONS
from richsem_schemas.cache.jobs import hold_job
from richsem_schemas.errors import RichSemError
from richsem_schemas.io.files import write_atomically
from richsem_schemas.io.words import one_line

RESULTS = Path("benchmarks/results/evidence")
RUNS = Path("runs/evidence")
BASE = Path("benchmarks/evidence/base.yaml")

_PARTS = "parts.json"
_Part = Mapping[str, float | None]
"""Seconds that a part of a run took, of one that was killed None."""

_UNKNOWN: _Part = {"processor_s": None, "wall_s": None}

_FEWEST_STEPS = 100
"""That tell what a step takes."""

LEAST_SEEDS = 3
MOST_SEEDS = 10


class FailedError(RichSemError):
    """A command of the experiment failed; the message says which, and where its words are."""


@dataclass(frozen=True)
class Planned:
    """One arm to be trained with one seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its file of figures."""
        return f"{self.arm.name}-{self.seed}"

    @property
    def result(self) -> Path:
        """Where its figures are kept."""
        return RESULTS / "runs" / f"{self.name}.json"


def planned() -> Iterator[Planned]:
    """All runs in their order.

    The spread of the baseline first, then all arms of tier b with the fewest seeds, then tier c with one, then further
    seeds of tier b.
    """
    of_tier = {tier: [arm for arm in ARMS if arm.tier == tier] for tier in ("b", "c")}
    yield from (Planned(of_tier["b"][0], seed) for seed in range(LEAST_SEEDS))
    yield from (Planned(arm, seed) for seed in range(LEAST_SEEDS) for arm in of_tier["b"][1:])
    yield from (Planned(arm, 0) for arm in of_tier["c"])
    yield from (Planned(arm, seed) for seed in range(LEAST_SEEDS, MOST_SEEDS) for arm in of_tier["b"])


def recipe() -> str:
    """What all arms share, as a hash: runs of other recipes aren't compared."""
    return _hashed({"world": world.RECIPE, "base": BASE.read_text(), "epochs": EPOCHS})


def is_done(run: Planned) -> bool:
    """Whether its figures are there, and of this recipe and arm."""
    try:
        figures = json.loads(run.result.read_text())
    except FileNotFoundError:
        return False
    return figures["recipe"] == recipe() and figures["arm_recipe"] == arm_recipe(run.arm)


def arm_recipe(arm: Arm) -> str:
    """What the arm is, as a hash."""
    made = {name: command_of(LABEL_SETS[name]) for name in arm.label_sets}
    online = None if arm.online is None else f"{arm.online} at {TEACHER_SIZE}"
    return _hashed({"config": arm.config, "online": online, "label_sets": made, "drop_ratio": arm.drop_ratio})


def _hashed(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def spent_hours() -> float:
    """Processor hours of all runs of this recipe whose figures are there."""
    figures = [json.loads(path.read_text()) for path in (RESULTS / "runs").glob("*.json")]
    return sum(each["processor_s"] or 0.0 for each in figures if each["recipe"] == recipe()) / 3600


class Runner:
    """Makes what is missing, several runs at a time.

    `stop` ends those at hand, which go on another time; `on_done` is called after each, and after each label set.
    """

    def __init__(self, *, budget_hours: float, jobs: int, stop: Event, on_done: Callable[[], None]) -> None:
        self._budget_hours = budget_hours
        self._jobs = jobs
        self._stop = stop
        self._on_done = on_done
        self._preparing = Lock()
        self._keeping = Lock()

    def run_all(self, runs: Iterator[Planned]) -> None:
        """Make all that aren't done, until the budget is spent.

        Raises:
            FailedError: a command failed; those beside it were ended.
        """
        queue = (run for run in runs if not is_done(run))
        taking = Lock()

        def work() -> None:
            while not self._stop.is_set() and spent_hours() < self._budget_hours:
                with taking:
                    run = next(queue, None)
                if run is None:
                    return
                self._make(run)

        with ThreadPoolExecutor(self._jobs) as pool:
            workers = [pool.submit(self._stopping_others, work) for _ in range(self._jobs)]
        for each in workers:
            each.result()

    def _stopping_others(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            self._stop.set()
            raise

    def _make(self, run: Planned) -> None:
        with self._preparing:
            self._prepare(run.arm)
        if self._stop.is_set():
            return
        out = RUNS / run.name
        is_new = not (out / "config.yaml").exists()
        _require_own(out, f"{recipe()} {arm_recipe(run.arm)}", is_new=is_new)
        command = [*_training(run), *([] if is_new else ["--resume"])]
        out.parent.mkdir(parents=True, exist_ok=True)
        print(f"{datetime.now(UTC):%H:%M:%S} {run.name}{'' if is_new else ', goes on'}", flush=True)
        log, kept_parts = out / "log.jsonl", out / _PARTS
        before = _parts(kept_parts, is_new=is_new)
        if not is_new:
            # Where this process is killed, nobody will know what the part took that begins now.
            _keep_parts([*before, _UNKNOWN], kept_parts)
        # Of the steps before, a part that goes on has only the lines.
        begins_at = log.stat().st_size if log.exists() else 0
        took = self._run(run.name, command, watch=lambda: _last_step(log, begins_at))
        parts = [*before, _part(took)]
        if took.exit_code == 0:
            with self._keeping:
                keep_figures(run, out, parts, _seconds_a_step(took.places))
                self._on_done()
        elif out.is_dir():
            _keep_parts(parts, kept_parts)

    def _run(self, name: str, command: list[str], **watch: Any) -> Took:
        log = RUNS / f"{name}.log"
        took = run_measured(command, log, stop=self._stop, **watch)
        if took.exit_code and not self._stop.is_set():
            raise FailedError(
                f"{name} ended with {took.exit_code}: {_last_words(log)}; {log} has all of its words, and "
                f"{' '.join(command)} made it"
            )
        return took

    def _prepare(self, arm: Arm) -> None:
        """Make the world, the label sets and the annotations that an arm needs, unless they are there."""
        RUNS.mkdir(parents=True, exist_ok=True)
        world.draw(DATA / "evidence")
        # Every arm's text is that of the first set.
        for name in ("windows-4", *arm.label_sets):
            self._make_label_set(name)
        if arm.drop_ratio:
            self._drop(arm.drop_ratio)

    def _make_label_set(self, name: str) -> None:
        made = LABEL_SETS[name]
        if made.rescored_from is not None:
            self._make_label_set(made.rescored_from)
        folder, kept = made.out / "labels" / name, RESULTS / "caches" / f"{name}.json"
        made_by = " ".join(["world", _hashed(world.RECIPE), *command_of(made)])
        _require_own(folder, made_by, is_new=not folder.exists())
        if self._stop.is_set() or ((folder / "manifest.json").exists() and kept.exists()):
            return
        _forget_begun(made)
        print(f"{datetime.now(UTC):%H:%M:%S} label set {name}", flush=True)
        took = self._run(name, [sys.executable, "-m", "benchmarks.evidence.prep", *command_of(made), "--json"])
        if took.exit_code == 0:
            with self._keeping:
                _keep_label_set(name, json.loads(took.output), took)
                self._on_done()

    def _drop(self, ratio: float) -> None:
        out = DATA / "evidence-dropped" / f"{ratio:g}.json"
        if out.exists():
            return
        out.parent.mkdir(exist_ok=True)
        whole = DATA / "evidence" / TRAIN_ANNOTATIONS
        options = ["--ratio", f"{ratio:g}", "--seed", "0", "--out", str(out)]
        self._run(
            f"dropped-{ratio:g}", [sys.executable, "-m", "richsem_prep", "drop-annotations", str(whole), *options]
        )


def _forget_begun(made: LabelSet) -> None:
    """Let a label set that was stopped before be made from its first shard on: its figures are of the whole.

    Raises:
        RichSemError: a process that a killed one left is making it.
    """
    receipts = made.out / "receipts" / "labels" / made.name
    if receipts.is_dir():
        with hold_job(made.out.absolute(), None):
            shutil.rmtree(receipts)


def _training(run: Planned) -> list[str]:
    """The command that trains it, its config written first."""
    config = RUNS / "configs" / f"{run.arm.name}.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    values = _over({**yaml.safe_load(BASE.read_text()), "name": run.arm.title}, run.arm.config)
    # A run of another seed may be reading it.
    write_atomically(config, yaml.safe_dump(values, sort_keys=False).encode())
    options = ["--config", str(config), "--set", f"seed={run.seed}", "--out", str(RUNS / run.name)]
    if run.arm.online is None:
        return [sys.executable, "-m", "richsem_train", *options]
    teacher = ["--teacher", "demo", "--teacher-size", str(TEACHER_SIZE), "--label", run.arm.online]
    return [sys.executable, "-m", "benchmarks.evidence.online", *teacher, *options]


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Values over others, section by section."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return one_line(next((line for line in reversed(lines) if line.strip()), "it said nothing"))


def _require_own(made: Path, made_by: str, *, is_new: bool) -> None:
    """Check that what is used or gone on with was begun by the same recipe, which is noted of what is new.

    Raises:
        FailedError: by another.
    """
    note = RUNS / f"{made.name}.made-by"
    if is_new or not note.exists():
        write_atomically(note, made_by.encode())
    elif (found := note.read_text()) != made_by:
        raise FailedError(f"{made} was made by {found!r}, now it is {made_by!r}; remove it, and it is made anew")


def _last_step(log: Path, begins_at: int) -> int | None:
    """The step of the last whole line behind the first `begins_at` bytes of a run's log."""
    try:
        with log.open("rb") as file:
            file.seek(begins_at)
            lines = [line for line in file if line.endswith(b"\n")]
    except FileNotFoundError:
        return None
    last = json.loads(lines[-1]) if lines else {}
    return last["step"] if last.get("event") == "train" else None


def _part(took: Took) -> _Part:
    return {"processor_s": round(took.processor_s, 1), "wall_s": round(took.wall_s, 1)}


def _parts(known: Path, *, is_new: bool) -> list[_Part]:
    """What the parts took of something that was stopped before; of a part that was killed nobody knows."""
    if is_new:
        return []
    try:
        return list(json.loads(known.read_text()))
    except FileNotFoundError:
        return [_UNKNOWN]


def _keep_parts(parts: Sequence[_Part], known: Path) -> None:
    write_atomically(known, json.dumps(parts).encode())


def _in_all(parts: Sequence[_Part]) -> dict[str, float | None]:
    return {name: _sum([part[name] for part in parts]) for name in ("processor_s", "wall_s")}


def keep_figures(run: Planned, out: Path, parts: Sequence[_Part], seconds_a_step: float | None) -> None:
    """Write what a finished run gave; what it took is null where a part of it was killed."""
    results = json.loads((out / "results.json").read_text())
    figures = {
        "arm": run.arm.name,
        "seed": run.seed,
        "steps": results["step"],
        "metrics": results["metrics"],
        **_in_all(parts),
        "step_processor_s": seconds_a_step,
        "recipe": recipe(),
        "arm_recipe": arm_recipe(run.arm),
        **when(),
    }
    save("evidence-run", figures, run.result)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known), 1) if len(known) == len(values) else None


def _seconds_a_step(places: tuple[tuple[int, float], ...]) -> float | None:
    """Between the first and the last place that was seen, so without the start and the evaluation.

    None of fewer than `_FEWEST_STEPS`, since places are seen up to a second late.
    """
    if not places or places[-1][0] - places[0][0] < _FEWEST_STEPS:
        return None
    (first, before), (last, after) = places[0], places[-1]
    return round((after - before) / (last - first), 4)


def _keep_label_set(name: str, made: Mapping[str, Any], took: Took) -> None:
    is_rescored = LABEL_SETS[name].rescored_from is not None
    figures = {
        "cache": name,
        **_part(took),
        "label_bytes": made["bytes"] if is_rescored else made["label_bytes"],
        "picture_bytes": 0 if is_rescored else made["picture_bytes"],
        "views": made.get("views", 0),
        "regions": made["regions"],
        "teacher_forwards": 0 if is_rescored else made["views"],
        **when(),
    }
    save("evidence-cache", figures, RESULTS / "caches" / f"{name}.json")


def keep_world() -> None:
    """Write what the world is, unless it is there."""
    kept = RESULTS / "world.json"
    if kept.exists() and json.loads(kept.read_text())["recipe"] == recipe():
        return
    content = json.loads((DATA / "evidence" / TRAIN_ANNOTATIONS).read_text())
    counts = {
        frequency: sum(each["instance_count"] for each in content["categories"] if each["frequency"] == frequency)
        for frequency in "rcf"
    }
    figures = {
        "recipe": recipe(),
        "pictures": {"train": len(content["images"]), "extra": world.PICTURES_PER_CLASS * len(content["categories"])},
        "classes": len(content["categories"]),
        "instances": counts,
        "ratios": RATIOS,
        "margin": MARGINS,
        **when(),
    }
    save("evidence-world", figures, kept)
