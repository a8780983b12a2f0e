"""The results of the experiment, as `make evidence` keeps them: runs, caches, the world."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.label_sets import LABEL_SETS
from richsem_schemas.errors import RichSemError

METRICS = ("AP", "APr", "APc", "APf")

_REMEDY = "remove the file, and `make evidence` makes it anew"


class Run(BaseModel, frozen=True):
    """One arm trained with one seed.

    Attributes:
        metrics: 0 to 1 by name; -1 or null where no category has boxes.
        processor_s: of the whole command, start and evaluation included; None where a part of the run was killed.
            `wall_s` likewise.
        step_processor_s: processor seconds a step; None where too few steps were seen.
        recipe: hash of the world and the schedule; runs of different recipes aren't compared.
        arm_recipe: hash of what the arm is.
    """

    arm: str
    seed: int
    steps: int
    metrics: Mapping[str, float | None]
    processor_s: float | None
    wall_s: float | None
    step_processor_s: float | None
    machine: Mapping[str, Any]
    date: str
    commit: str
    recipe: str
    arm_recipe: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.arm}-{self.seed}"

    @property
    def machine_name(self) -> str:
        """Processor, cores and GPU in words."""
        cores = f"{self.machine.get('cores')} cores of {self.machine.get('cpu')}"
        return f"{gpu}, {cores}" if (gpu := self.machine.get("gpu")) else cores


class Cache(BaseModel, frozen=True):
    """What a label set of a cache took to make and takes to keep; None where a part of the making was killed."""

    cache: str
    processor_s: float | None
    wall_s: float | None
    label_bytes: int
    picture_bytes: int
    views: int
    regions: int
    teacher_forwards: int

    @property
    def name(self) -> str:
        """Of its file."""
        return self.cache


@dataclass(frozen=True)
class Results:
    """All results of one recipe.

    Attributes:
        runs: by arm and seed.
        caches: by name.
        world: what `world.json` says; empty where it isn't there.
        labels: what `labels.json` says; None where it isn't there.
        other_recipes: runs of other recipes, which are left out.
        undeclared: names of arms that have runs and are no longer declared.
    """

    runs: Mapping[str, Mapping[int, Run]]
    caches: Mapping[str, Cache]
    world: Mapping[str, Any]
    labels: Mapping[str, Any] | None
    other_recipes: int
    undeclared: tuple[str, ...]

    @property
    def all_runs(self) -> list[Run]:
        return [run for runs in self.runs.values() for run in runs.values()]

    def of(self, arm: Arm) -> Mapping[int, Run]:
        """An arm's runs by seed."""
        return self.runs.get(arm.name, {})

    def metric(self, arm: Arm, name: str) -> dict[int, float]:
        """An arm's defined values of a metric, by seed."""
        values = {seed: run.metrics.get(name) for seed, run in self.of(arm).items()}
        return {seed: value for seed, value in values.items() if value is not None and 0 <= value <= 1}

    @property
    def clock(self) -> str | None:
        """The machine that most runs were made on: seconds of others aren't compared with its own."""
        counted = Counter(run.machine_name for run in self.all_runs)
        return max(sorted(counted), key=counted.__getitem__, default=None)

    def step_seconds(self, arm: Arm) -> dict[int, float]:
        """Processor seconds a step by seed, on the machine `clock`."""
        seconds = {seed: run.step_processor_s for seed, run in self.of(arm).items() if run.machine_name == self.clock}
        return {seed: each for seed, each in seconds.items() if each is not None}

    def run_seconds(self, arm: Arm) -> list[float]:
        """Processor seconds of the runs that have them, on the machine `clock`."""
        seconds = [run.processor_s for run in self.of(arm).values() if run.machine_name == self.clock]
        return [each for each in seconds if each is not None]

    def preparation(self, arm: Arm) -> "Preparation | None":
        """What the cached labels of an arm take; None where one of its label sets has no figures, or not all of them.

        Arms without cached labels take extra pictures out of a cache as well, whose labels they don't read: that is
        nothing that they would need.
        """
        if arm.passes is None:
            return Preparation(0.0, 0, 0)
        made = {name for label_set in arm.label_sets for name in _made_from(label_set)}
        taken = [self.caches[name].processor_s for name in made if name in self.caches]
        known = [each for each in taken if each is not None]
        if len(known) < len(made):
            return None
        return Preparation(
            processor_s=math.fsum(known),
            label_bytes=sum(self.caches[name].label_bytes for name in arm.label_sets),
            picture_bytes=sum(map(self._picture_bytes, {LABEL_SETS[name].pictures for name in arm.label_sets})),
        )

    def _picture_bytes(self, pictures: str) -> int:
        """Of a cache: all of its label sets share them, and those that are rescored tell nothing of them."""
        found = (cache.picture_bytes for cache in self.caches.values() if LABEL_SETS[cache.name].pictures == pictures)
        return max(found, default=0)


@dataclass(frozen=True)
class Preparation:
    """What cached labels take.

    Attributes:
        processor_s: to make them, and what they are rescored from.
        label_bytes: that they keep on a disk; `picture_bytes` likewise.
    """

    processor_s: float
    label_bytes: int
    picture_bytes: int


def _made_from(label_set: str) -> list[str]:
    """A label set and the one that it is rescored from."""
    base = LABEL_SETS[label_set].rescored_from
    return [label_set] if base is None else [label_set, base]


def read_results(folder: Path, arms: Sequence[Arm]) -> Results:
    """Read all that is there.

    Runs of the world's recipe count, of each arm those that are what the newest is; others are counted alone.

    Raises:
        RichSemError: a file isn't what its name says.
    """
    found = [_read(path, Run) for path in sorted((folder / "runs").glob("*.json"))]
    caches = [_read(path, Cache) for path in sorted((folder / "caches").glob("*.json"))]
    world = _content(folder / "world.json") or {}
    declared = {arm.name for arm in arms}
    known = [run for run in found if run.arm in declared]
    comparable = {arm.name: _of_one_recipe([run for run in known if run.arm == arm.name], world) for arm in arms}
    return Results(
        runs=comparable,
        caches={cache.cache: cache for cache in caches if cache.cache in LABEL_SETS},
        world=world,
        labels=_content(folder / "labels.json"),
        other_recipes=len(known) - sum(map(len, comparable.values())),
        undeclared=tuple(sorted({run.arm for run in found} - declared)),
    )


def _of_one_recipe(runs: Sequence[Run], world: Mapping[str, Any]) -> dict[int, Run]:
    """Of an arm's runs, by seed, those in the world of today that are what the newest of them is."""
    of_world = sorted((run for run in runs if run.recipe == world.get("recipe")), key=lambda run: run.seed)
    newest = max(of_world, key=lambda run: run.date, default=None)
    return {run.seed: run for run in of_world if newest is not None and run.arm_recipe == newest.arm_recipe}


_Kind = TypeVar("_Kind", Run, Cache)


def _read(path: Path, kind: type[_Kind]) -> _Kind:
    try:
        result = kind.model_validate(_content(path))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise RichSemError(f"{path}: {place}: {first['msg']}; {_REMEDY}") from error
    if path.stem != result.name:
        raise RichSemError(f"{path} holds {result.name}: a result lies under its own name; {_REMEDY}")
    return result


def _content(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RichSemError(f"{path} is no JSON: {error}; {_REMEDY}") from error
