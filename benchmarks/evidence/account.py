"""What ran: the world, the runs, when, where, by which code, and what is missing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.results import Results, Run
from benchmarks.evidence.statistics import FEWEST_PAIRS, MARGINS
from benchmarks.evidence.tables import duration
from richsem_schemas.vocabularies.lvis import FREQUENCY_NAMES

TIERS = {"b": "with several seeds", "c": "with one seed, as trials"}
"""How the arms of a tier are to be run."""

_COMMIT_LETTERS = 8
_MOST_COMMITS = 5


def what_ran(arms: Sequence[Arm], results: Results) -> str:
    """A list: the world, runs, dates, machines, what hasn't run, what is left out."""
    return "\n".join(f"- {line}" for line in _lines(arms, results))


def _lines(arms: Sequence[Arm], results: Results) -> Iterator[str]:
    yield from _world(results.world)
    runs = results.all_runs
    if runs:
        yield from _runs(runs, results)
    else:
        yield "Nothing has run yet."
    yield from _missing(arms, results)
    yield from _left_out(results)


def _world(world: Mapping[str, Any]) -> Iterator[str]:
    if not world:
        yield "The world has not been drawn yet."
        return
    parts = [f"{world['classes']:,} classes"]
    parts += [f"{kind}: {_counts(world[kind])}" for kind in ("pictures", "instances") if kind in world]
    yield f"The world: {'; '.join(parts)}."
    if "margin" in world and dict(world["margin"]) != MARGINS:
        yield (
            f"The margin was {_counts(world['margin'])} when the world was drawn and is {_counts(MARGINS)} here: it "
            "was not set before all runs."
        )


def _counts(counts: Mapping[str, float]) -> str:
    return ", ".join(f"{FREQUENCY_NAMES.get(name, name)} {count:,}" for name, count in counts.items())


def _runs(runs: Sequence[Run], results: Results) -> Iterator[str]:
    seeds, steps = sorted({run.seed for run in runs}), sorted({run.steps for run in runs})
    taken, wall = sum(run.processor_s or 0.0 for run in runs), sum(run.wall_s or 0.0 for run in runs)
    made = sum(cache.processor_s or 0.0 for cache in results.caches.values())
    arms = sum(1 for of_arm in results.runs.values() if of_arm)
    yield (
        f"{_number(len(runs), 'run')} of {_number(arms, 'arm')}, {_seeds(seeds)}, "
        f"{' or '.join(f'{count:,}' for count in steps)} steps each: {duration(taken)} of processor time, "
        f"{duration(wall)} by the clock; label sets took {duration(made)} of processor time."
    )
    days = sorted({run.date[:10] for run in runs})
    yield f"{days[0] if len(days) == 1 else f'{days[0]} to {days[-1]}'}; {_commits(runs)}."
    if untimed := sum(run.processor_s is None for run in runs):
        yield f"Killed and gone on with: {_number(untimed, 'run')}, whose time is not counted."
    machines = Counter(f"{run.machine_name}, torch {run.machine.get('torch')}" for run in runs)
    counted = [f"{name} ({_number(count, 'run')})" for name, count in sorted(machines.items())]
    yield f"Machines: {'; '.join(counted)}."
    if len({run.machine_name for run in runs}) > 1:
        yield f"Seconds are those of {results.clock} alone."


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > 2 and seeds[-1] - seeds[0] == len(seeds) - 1:
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"


def _commits(runs: Sequence[Run]) -> str:
    """The commits in the order of their runs; the first and last of many."""
    commits = list(dict.fromkeys(run.commit[:_COMMIT_LETTERS] for run in sorted(runs, key=lambda run: run.date)))
    if len(commits) > _MOST_COMMITS:
        return f"{len(commits)} commits, `{commits[0]}` to `{commits[-1]}`"
    return f"{'commit' if len(commits) == 1 else 'commits'} {', '.join(f'`{commit}`' for commit in commits)}"


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _missing(arms: Sequence[Arm], results: Results) -> Iterator[str]:
    """A line a tier: what hasn't run, and what has too few seeds where several are wanted."""
    for tier, how in TIERS.items():
        of_tier = [arm for arm in arms if arm.tier == tier]
        missing = [arm.title for arm in of_tier if not results.of(arm)]
        few = [
            f"{arm.title} ({len(results.of(arm))})"
            for arm in of_tier
            if tier == "b" and 0 < len(results.of(arm)) < FEWEST_PAIRS
        ]
        if missing:
            which = "all of it" if len(missing) == len(of_tier) else "; ".join(missing)
            yield f"Not run yet of those {how} (tier {tier}): {which}."
        if few:
            yield f"Fewer than {FEWEST_PAIRS} seeds yet: {'; '.join(few)}."


def _left_out(results: Results) -> Iterator[str]:
    if results.other_recipes:
        yield f"Left out: {_number(results.other_recipes, 'run')} of another world, schedule or form of its arm."
    if results.undeclared:
        yield f"Left out: arms that are no longer declared, {', '.join(f'`{name}`' for name in results.undeclared)}."
