"""Write `docs/evidence.md` and its figures from the results, as they are.

    python -m benchmarks.evidence.page

`make evidence` does so after its runs. All that is said is decided by rule from the figures; nothing of the page is
written by hand.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.evidence.account import what_ran
from benchmarks.evidence.arms import ARMS, Arm
from benchmarks.evidence.comparisons import GOOD, Comparison, answers, compare
from benchmarks.evidence.costs import savings
from benchmarks.evidence.figures import draw_arms, draw_costs
from benchmarks.evidence.labels_figure import draw as draw_labels
from benchmarks.evidence.labels_figure import shown_kinds
from benchmarks.evidence.labels_page import labels_section
from benchmarks.evidence.noise import spread_section
from benchmarks.evidence.questions import AGAINST_ONLINE, LABEL_SIZE, QUESTIONS, Question, in_order
from benchmarks.evidence.results import Results, read_results
from benchmarks.evidence.statistics import FEWEST_PAIRS, MARGINS
from benchmarks.evidence.tables import (
    arms_table,
    bytes_a_region,
    differences_table,
    label_sizes_table,
    savings_table,
    table,
)
from richsem_schemas.io.files import write_atomically

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "evidence"
DOCS = ROOT / "docs"
PAGE = Path("evidence.md")
ARMS_FIGURE = Path("images/evidence-arms.svg")
COSTS_FIGURE = Path("images/evidence-costs.svg")
LABELS_FIGURE = Path("images/evidence-labels.svg")

HEADER = (
    "<!-- Written by `make evidence` from benchmarks/results/evidence: edit benchmarks/evidence, not this page. -->"
)

INTRODUCTION = """# Evidence

RichSem's teacher is asked once and its labels are cached; the paper asks it in each step. Does that cost accuracy, and
what does it save? Arms that differ in one thing are trained for equal steps on a world drawn for it and compared seed
by seed. This page is written from their figures by rule."""

READING = f"""\
Runs with one seed draw the same weights and the same order of pictures where their arms have them in common, so what is
compared is the difference of two arms seed by seed, with its 95% interval by Student's t.

| verdict | when |
| --- | --- |
| as good | two one-sided tests find the difference within the margin, which was set before any run: {
    ", ".join(f"{margin} {metric}" for metric, margin in MARGINS.items())
} |
| better, worse | not shown to be within the margin, and a two-sided test finds a difference |
| undecided | neither |
| trial | fewer than {FEWEST_PAIRS} seeds that both arms have: nothing is claimed |

Tests are of 5%, by Holm's correction for all comparisons of one question by one metric, once for the claims of a
difference and once for those of equality. Intervals in the tables are not adjusted: one may leave zero out and its
verdict be undecided. ± is the standard deviation over seeds. Seconds are the processor's, of all cores; "in all" is one
run with the preparation of its caches."""

LIMITS = """\
- The world is drawn by code, its pictures are small, and its teacher was trained for it. What a label loses by being
  cached depends on how much the views of a thing differ; in real pictures they do so in other ways.
- The detector is small and sees few steps. Beside it the teacher is not what CLIP is beside DINO, so seconds don't
  carry over; [costs](costs.md) counts forwards at the paper's size.
- Repeat factors follow from the boxes that are there, so arms with boxes dropped take more steps than the others. Soft
  and hard labels on the same boxes take the same steps; only those are compared.
- Machines are shared with other work, so seconds scatter by themselves.
- Verdicts are computed anew with each seed. They hold where the number of seeds was set by the budget; whoever stops
  at a verdict that pleases errs more often than in 5%."""

GOING_ON = """\
`make evidence` makes what is missing, tier by tier, and writes this page anew. It may be stopped at any point and goes
on there. A finished run is a file in `benchmarks/results/evidence/runs`; what is there isn't run again."""

COSTS_QUESTION = "[Costs](#costs). From how many runs on does the cache pay?"


def evidence(folder: Path, arms: Sequence[Arm], docs: Path) -> str:
    """Draw the figures into the docs, and give the page's text.

    Args:
        folder: the results.
        arms: all that are declared.
        docs: figures are written into its `images`; those of an earlier page that this one has not are removed.

    Raises:
        RichSemError: a result isn't what its name says.
    """
    arms = in_order(arms)
    results = read_results(folder, arms)
    compared = {question.title: compare(question, arms, results) for question in QUESTIONS}
    figures = draw(arms, results, compared, docs)
    return "\n\n".join([HEADER, *_parts(arms, results, compared, figures)]) + "\n"


def draw(arms: Sequence[Arm], results: Results, compared: Mapping[str, list[Comparison]], docs: Path) -> set[Path]:
    """Draw what there is to draw; the paths below `docs`."""
    drawn = set()
    (docs / ARMS_FIGURE.parent).mkdir(parents=True, exist_ok=True)
    if results.all_runs:
        against_online = (compared[each.title] for each in QUESTIONS if each.pairs in AGAINST_ONLINE)
        draw_arms(arms, results, list(itertools.chain.from_iterable(against_online)), docs / ARMS_FIGURE)
        drawn.add(ARMS_FIGURE)
    if of_costs := savings(arms, results):
        draw_costs(of_costs, docs / COSTS_FIGURE)
        drawn.add(COSTS_FIGURE)
    if results.labels is not None and shown_kinds(results.labels):
        draw_labels(results.labels, docs / LABELS_FIGURE)
        drawn.add(LABELS_FIGURE)
    for stale in {ARMS_FIGURE, COSTS_FIGURE, LABELS_FIGURE} - drawn:
        (docs / stale).unlink(missing_ok=True)
    return drawn


def _parts(
    arms: Sequence[Arm], results: Results, compared: Mapping[str, list[Comparison]], figures: set[Path]
) -> Iterator[str]:
    yield INTRODUCTION
    yield "## Answers"
    yield table(
        ["question", "answer"],
        [
            *(_answer_row(each, compared[each.title]) for each in QUESTIONS),
            [COSTS_QUESTION, " ".join(pays(arms, results))],
        ],
    )
    if ARMS_FIGURE in figures:
        yield f"![AP and APr of each arm, seed by seed]({ARMS_FIGURE})"
    yield "## What ran"
    yield what_ran(arms, results)
    yield "## How to read it"
    yield READING
    yield "## The spread"
    yield from spread_section(arms, results, itertools.chain.from_iterable(compared.values()))
    for question in QUESTIONS:
        yield from _section(question, arms, results, compared[question.title])
    yield from _costs(arms, results, COSTS_FIGURE in figures)
    yield from _labels(results, LABELS_FIGURE in figures)
    yield "## What limits it"
    yield LIMITS
    yield "## Going on"
    yield GOING_ON


def _answer_row(question: Question, comparisons: Sequence[Comparison]) -> list[str]:
    return [f"[{question.title}]({anchor(question.title)}). {question.asked}", " ".join(answers(question, comparisons))]


def anchor(title: str) -> str:
    """What leads to a heading."""
    return "#" + title.lower().replace(" ", "-")


def _section(
    question: Question, arms: Sequence[Arm], results: Results, comparisons: Sequence[Comparison]
) -> Iterator[str]:
    """Question, answer, the arms and what was compared."""
    yield f"## {question.title}"
    yield question.asked
    told = answers(question, comparisons)
    yield f"**{told[0]}**" if len(told) == 1 else "\n".join(f"- **{sentence}**" for sentence in told)
    of_question = question.arms(arms)
    if any(results.of(arm) for arm in of_question):
        yield arms_table(of_question, results)
    if any(each.pairs for each in comparisons):
        yield "Differences, seed by seed:"
        yield differences_table(comparisons)
    if question.title == LABEL_SIZE and (sizes := label_sizes_table(of_question, results)):
        yield sizes
        yield _smallest_label(comparisons, results)


def _smallest_label(comparisons: Sequence[Comparison], results: Results) -> str:
    """The smallest that is as good by all metrics."""
    good = {
        each.arm.title: size
        for each in comparisons
        if set(each.verdicts.values()) <= set(GOOD) and (size := bytes_a_region(each.arm, results)) is not None
    }
    if not good:
        return "No smaller label is shown to be as good yet."
    smallest = min(good, key=good.__getitem__)
    return f"The smallest that is as good by {' and '.join(MARGINS)}: {smallest}, {good[smallest]:,.0f} bytes a region."


def pays(arms: Sequence[Arm], results: Results) -> list[str]:
    """From how many runs on, a sentence for all arms of which it is the same; of trials their number."""
    found = savings(arms, results)
    alike: dict[str, list[str]] = {}
    for each in found:
        if each.interval is not None:
            alike.setdefault(each.answer, []).append(each.arm.title)
    told = [f"{answer[0].upper()}{answer[1:]}: {'; '.join(titles)}." for answer, titles in alike.items()]
    if trials := len(found) - sum(map(len, alike.values())):
        told.append(f"{trials} {'trial' if trials == 1 else 'trials'}, of which nothing is claimed.")
    return told or ["Not run yet."]


def _costs(arms: Sequence[Arm], results: Results, drawn: bool) -> Iterator[str]:
    yield "## Costs"
    yield "From how many runs on does the cache pay?"
    of_costs = savings(arms, results)
    if not of_costs:
        yield "**Not run yet.**"
        return
    yield (
        "Preparation over what a run saves, which is the difference of a step times the steps; in brackets, at both "
        "ends of that difference's 95% interval, not adjusted. An online run keeps nothing on a disk; pictures are "
        "kept once for all label sets of a cache."
    )
    yield savings_table(of_costs)
    if drawn:
        yield f"![Processor hours over the number of runs, online and from caches]({COSTS_FIGURE})"


def _labels(results: Results, drawn: bool) -> Iterator[str]:
    """Label distances, which are measured without training, where they have been."""
    if results.labels is not None:
        yield labels_section(results.labels).rstrip()
    if drawn:
        yield f"![KL of each form of a label to the exact one]({LABELS_FIGURE})"


def main() -> None:
    """Write the page and its figures."""
    write_atomically(DOCS / PAGE, evidence(RESULTS, ARMS, DOCS).encode())


if __name__ == "__main__":
    main()
