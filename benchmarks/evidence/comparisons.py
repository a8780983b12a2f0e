"""The comparisons of a question, each with its verdict, and the answer that they make together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.evidence.arms import Arm
from benchmarks.evidence.questions import Question
from benchmarks.evidence.results import Results
from benchmarks.evidence.statistics import MARGINS, Difference, Verdict, paired_difference, verdicts

GOOD = (Verdict.AS_GOOD, Verdict.BETTER)
CLAIMED = (*GOOD, Verdict.WORSE, Verdict.UNDECIDED)
"""Verdicts of arms with enough seeds."""


@dataclass(frozen=True)
class Comparison:
    """An arm held against another: differences and verdicts by metric."""

    arm: Arm
    reference: Arm
    differences: Mapping[str, Difference | None]
    verdicts: Mapping[str, Verdict]

    @property
    def pairs(self) -> int:
        """Seeds that both have."""
        return max((each.pairs for each in self.differences.values() if each), default=0)


def compare(question: Question, arms: Sequence[Arm], results: Results) -> list[Comparison]:
    """All comparisons of a question; those of one metric are a family, whose errors are held together."""
    pairs = list(question.pairs(arms))
    differences: dict[str, list[Difference | None]] = {}
    for metric, margin in MARGINS.items():
        differences[metric] = [
            paired_difference(results.metric(arm, metric), results.metric(reference, metric), margin)
            for arm, reference in pairs
        ]
    told = {metric: verdicts(each) for metric, each in differences.items()}
    return [
        Comparison(
            arm,
            reference,
            {metric: each[row] for metric, each in differences.items()},
            {metric: each[row] for metric, each in told.items()},
        )
        for row, (arm, reference) in enumerate(pairs)
    ]


def answers(question: Question, comparisons: Sequence[Comparison]) -> list[str]:
    """The answer, a sentence a line: by ladders, or pair by pair."""
    if all(set(each.verdicts.values()) == {Verdict.NOT_RUN} for each in comparisons):
        return ["Not run yet."]
    told = _ladders(comparisons) if question.ladder else _pairs(comparisons, question.reference_is_told)
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in told]


def _pairs(comparisons: Sequence[Comparison], reference_is_told: bool) -> Iterator[str]:
    """A sentence for all comparisons that have come out the same; of those without a claim their number."""
    alike: dict[str, list[str]] = {}
    for each in comparisons:
        if set(CLAIMED) & set(each.verdicts.values()):
            over = f", against {each.reference.title}" if reference_is_told else ""
            alike.setdefault(f"{_verdict_in_words(each)}{over}", []).append(each.arm.title)
    yield from (f"{verdict}: {'; '.join(titles)}" for verdict, titles in alike.items())
    missing = sum(set(each.verdicts.values()) == {Verdict.NOT_RUN} for each in comparisons)
    trials = len(comparisons) - missing - sum(map(len, alike.values()))
    if trials:
        yield f"{trials} {'trial' if trials == 1 else 'trials'}, of which nothing is claimed"
    if missing:
        yield f"{missing} not run"


def _verdict_in_words(comparison: Comparison) -> str:
    found = set(comparison.verdicts.values())
    if len(found) == 1:
        return f"{found.pop()} by {' and '.join(comparison.verdicts)}"
    return ", ".join(f"{verdict} by {metric}" for metric, verdict in comparison.verdicts.items())


def _ladders(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """A sentence a kind of views, whose arms differ in how many of them there are."""
    kinds: dict[str, list[Comparison]] = {}
    for each in comparisons:
        # Titles are such as "fresh windows, K = 4".
        kinds.setdefault(each.arm.title.rpartition(", ")[0], []).append(each)
    for kind, steps in kinds.items():
        steps.sort(key=lambda each: each.arm.passes or 0)
        places = [each.arm.title.rpartition(", ")[2] for each in steps]
        told = {
            metric: ladder(list(zip(places, (each.verdicts[metric] for each in steps), strict=True)))
            for metric in MARGINS
        }
        ran = {verdict for each in steps for verdict in each.verdicts.values()} & set(CLAIMED)
        yield f"{kind}: {_by_metrics(told) if ran else next(iter(told.values()))}"


def _by_metrics(told: Mapping[str, str]) -> str:
    """What is said of each metric; once where it is the same."""
    if len(set(told.values())) == 1:
        return f"by {' and '.join(told)} {next(iter(told.values()))}"
    return "; ".join(f"by {metric} {verdict}" for metric, verdict in told.items())


def ladder(steps: Sequence[tuple[str, Verdict]]) -> str:
    """From which step on all are good, then what is said of the others."""
    claimed = [(step, verdict) for step, verdict in steps if verdict in CLAIMED]
    first = len(claimed)
    while first and claimed[first - 1][1] in GOOD:
        first -= 1
    good = claimed[first:]
    told = []
    if len(good) > 1:
        words = " or ".join(str(verdict) for verdict in GOOD if verdict in {verdict for _, verdict in good})
        told.append(f"{words} from {good[0][0]} on")
    else:
        first = len(claimed)
    reached = {step for step, _ in claimed[first:]}
    for verdict in (*CLAIMED, Verdict.TRIAL, Verdict.NOT_RUN):
        if places := [step for step, found in steps if found == verdict and step not in reached]:
            told.append(f"{'a trial' if verdict == Verdict.TRIAL else verdict} at {_joined(places)}")
    return ", ".join(told)


def _joined(places: Sequence[str]) -> str:
    """Steps of one ladder, its letter once."""
    letter, _, first = places[0].rpartition(" ")
    return f"{letter} {', '.join([first, *(place.rpartition(' ')[2] for place in places[1:])])}"
