"""The page reads well in each state of the results, and the committed one is that of the committed results."""

import json
import re

import pytest

from benchmarks.evidence import page
from benchmarks.evidence.page import ARMS_FIGURE, COSTS_FIGURE, LABELS_FIGURE, anchor, evidence
from benchmarks.evidence.questions import QUESTIONS
from richsem_schemas.errors import RichSemError
from tests.benchmarks.evidence.synthetic import ARMS, write_caches, write_run, write_world

TITLES = [question.title for question in QUESTIONS]


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    write_world(folder)
    write_caches(folder)
    return folder


def written(folder):
    docs = folder.parent / "docs"
    return evidence(folder, ARMS, docs), docs


def section(text, title):
    """What stands below a heading."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def row_of(text, first):
    """The first row of a table that begins with a cell, as its cells by the head of its column."""
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} |"))
    head = next(lines[number - 1] for number in range(place, 0, -1) if lines[number].startswith("| ---"))
    return dict(zip(cells(head), cells(lines[place]), strict=True))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def bytes_of(path):
    return path.read_bytes() if path.exists() else None


def every_seed(folder, count, *, scatter=0.0):
    for arm in ARMS:
        for seed in range(count):
            ap = 0.5 + 0.02 * seed + scatter * ((seed * 7 + len(arm.name) * 3) % 5 - 2)
            write_run(folder, arm.name, seed, ap=ap, apr=ap - 0.1, step_s=0.6 if arm.online else 0.5 + 0.001 * seed)


def test_nothing_run_is_said_and_every_heading_is_there(tmp_path):
    text, docs = written(tmp_path / "nothing")
    assert all(f"\n## {title}\n" in text for title in (*TITLES, "Costs", "The spread", "Going on"))
    assert text.count("Not run yet.") == 2 * (len(TITLES) + 1)
    assert "The world has not been drawn yet." in text
    assert "not run yet of those with several seeds (tier b): all of it" in text.lower()
    assert "![" not in text
    assert list((docs / "images").iterdir()) == []


def test_a_page_links_to_its_own_headings_and_figures(results):
    every_seed(results, 3)
    text, docs = written(results)
    headings = {anchor(title) for title in re.findall(r"^## (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\((#[^)]+)\)", text)) <= headings
    assert {docs / name for name in re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)} == {
        docs / ARMS_FIGURE, docs / COSTS_FIGURE,
    }  # fmt: skip
    assert all((docs / name).stat().st_size for name in (ARMS_FIGURE, COSTS_FIGURE))


def test_one_seed_claims_nothing(results):
    every_seed(results, 1)
    text, _ = written(results)
    answers = [cells(line)[1] for line in section(text, "Answers").splitlines() if line.startswith("| [")]
    assert len(answers) == len(TITLES) + 1
    assert all("rial" in answer for answer in answers)
    assert not re.search("better|worse|as good|undecided", re.sub("a (better|worse) teacher", "", "".join(answers)))
    assert "Not known yet" in section(text, "The spread")
    assert row_of(section(text, "Windows"), "stored windows, K = 4")["seeds"] == "1, trial"
    assert "Fewer than 3 seeds yet: baseline (1);" in section(text, "What ran")


def test_the_spread_of_the_first_arm_alone_says_what_can_be_seen(results):
    for seed, ap in enumerate((0.4, 0.5, 0.6)):
        write_run(results, "baseline", seed, ap=ap, apr=ap)
    spread = section(written(results)[0], "The spread")
    assert row_of(spread, "standard deviation of the baseline")["AP"] == "0.100 (2 d.f.)"
    # Unpaired: sqrt(2) x 0.1 x 5.653 / sqrt(3), the noncentral t's for 80% with 2 degrees of freedom.
    assert row_of(spread, "smallest difference seen, 3 seeds, as are at hand")["AP"] == "0.462"
    assert "have two seeds in common yet" in spread


def test_three_seeds_alike_are_as_good(results):
    every_seed(results, 3)
    text, _ = written(results)
    assert "- **Stored windows: by AP and APr as good from K = 1 on.**" in section(text, "Windows")
    dropped = section(text, "Dropped annotations")
    assert "**As good by AP and APr: fresh windows, K = 4; half dropped, soft labels.**" in dropped
    assert "The smallest that is as good by AP and APr: top 8, tail: bucket, 200 bytes a region." in text
    assert "From 3 runs on: stored windows, K = 1; " in section(text, "Answers")


def test_three_seeds_that_scatter_are_undecided_and_it_is_said_how_many_would_do(results):
    every_seed(results, 3, scatter=0.04)
    text, _ = written(results)
    assert "undecided" in section(text, "Windows")
    assert re.search(r"Equality within 0.02 AP takes about \d+ seeds; 3 are at hand", section(text, "The spread"))
    assert "No smaller label is shown to be as good yet." in text


def test_a_row_has_mean_and_deviation_and_costs_with_the_preparation(results):
    for seed, ap in enumerate((0.4, 0.5, 0.6)):
        write_run(results, "fresh-4", seed, ap=ap, apr=0.3, step_s=0.5)
    text, _ = written(results)
    # 1,200 x 0.5 + 60 = 660 s a run; a cache of 300 s, 6 MB and 20 MB.
    assert row_of(section(text, "Windows"), "fresh windows, K = 4") == {
        "arm": "fresh windows, K = 4",
        "seeds": "3",
        "AP": "0.500 ± 0.100",
        "APr": "0.300 ± 0.000",
        "APc": "0.500 ± 0.100",
        "APf": "0.550 ± 0.100",
        "s/step": "0.50 ± 0.00",
        "a run": "11 min",
        "preparation": "5 min",
        "in all": "16 min",
        "kept on disk": "26.0 MB",
    }


def test_arms_that_have_not_run_are_named(results):
    for seed in range(3):
        write_run(results, "baseline", seed)
    text, docs = written(results)
    missing = section(text, "What ran")
    assert "(tier b): the branch with hard labels; online teacher, detection;" in missing
    assert "(tier c): all of it." in missing
    assert row_of(section(text, "The branch alone"), "the branch with hard labels")["seeds"] == "not run"
    assert not (docs / COSTS_FIGURE).exists()


def test_runs_of_another_recipe_are_counted_and_left_out(results):
    write_run(results, "baseline", 0, recipe="old")
    write_run(results, "baseline", 1, ap=0.4)
    write_run(results, "baseline", 2, arm_recipe="as it was", date="2026-01-01T00:00:00+00:00")
    write_run(results, "gone", 0)
    text, _ = written(results)
    assert "Left out: 2 runs of another world, schedule or form of its arm." in text
    assert "Left out: arms that are no longer declared, `gone`." in text
    assert row_of(section(text, "The branch alone"), "baseline")["AP"] == "0.400"


def test_runs_of_a_world_that_is_drawn_anew_are_all_left_out(results):
    every_seed(results, 1)
    write_world(results, recipe="two")
    text, _ = written(results)
    assert "Nothing has run yet." in text
    assert f"Left out: {len(ARMS)} runs" in text


def test_a_run_that_was_killed_has_no_seconds(results):
    write_run(results, "baseline", 0, processor_s=None, wall_s=None)
    write_run(results, "branch", 0, step_processor_s=None)
    text, _ = written(results)
    assert "Killed and gone on with: 1 run, whose time is not counted." in text
    assert row_of(section(text, "The branch alone"), "baseline")["a run"] == "–"
    assert row_of(section(text, "The branch alone"), "the branch with hard labels")["s/step"] == "–"


def test_a_margin_changed_after_the_world_was_drawn_is_told(results):
    assert "not set before all runs" not in written(results)[0]
    write_world(results, margin={"AP": 0.05, "APr": 0.05})
    assert "The margin was AP 0.05, APr 0.05 when the world was drawn" in written(results)[0]


def test_label_distances_are_told_as_far_as_they_are_measured(results):
    measured = json.loads((page.RESULTS / "labels.json").read_text(encoding="utf-8"))
    demo = {"windows": measured["worlds"]["demo"]["windows"], "mosaics": {}}
    for worlds, are_drawn in (({}, False), ({"demo": demo}, True)):
        (results / "labels.json").write_text(json.dumps(measured | {"worlds": worlds}))
        text, docs = written(results)
        assert ("**Boxes of windows, the demo's world**" in text) == are_drawn
        assert (f"({LABELS_FIGURE})" in text) == (docs / LABELS_FIGURE).exists() == are_drawn


def test_the_same_results_are_the_same_bytes(results):
    every_seed(results, 3, scatter=0.01)
    first, docs = written(results)
    figures = {name: (docs / name).read_bytes() for name in (ARMS_FIGURE, COSTS_FIGURE)}
    assert written(results)[0] == first
    assert {name: (docs / name).read_bytes() for name in figures} == figures


def test_figures_of_results_that_are_gone_are_removed(results):
    every_seed(results, 1)
    _, docs = written(results)
    for path in (results / "runs").iterdir():
        path.unlink()
    written(results)
    assert list((docs / "images").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no JSON"),
        ("{}", "arm: Field required"),
        ("[]", "it: Input should be"),
        ("null", "it: Input should be"),
    ],
)
def test_a_broken_result_is_named(results, content, told):
    path = results / "runs" / "baseline-0.json"
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(RichSemError, match=f"baseline-0.json.*{told}.*make evidence"):
        written(results)


def test_a_result_under_another_name_is_refused(results):
    write_run(results, "baseline", 0)
    (results / "runs" / "baseline-0.json").rename(results / "runs" / "branch-0.json")
    with pytest.raises(RichSemError, match=r"branch-0\.json holds baseline-0"):
        written(results)


def test_the_page_is_that_of_the_committed_results(tmp_path):
    from benchmarks.evidence.arms import ARMS as DECLARED

    stale = "is stale: run `python -m benchmarks.evidence.page` and commit what it writes"
    text = evidence(page.RESULTS, DECLARED, tmp_path)
    assert (page.DOCS / page.PAGE).read_text(encoding="utf-8") == text, f"docs/{page.PAGE} {stale}"
    for figure in (ARMS_FIGURE, COSTS_FIGURE, LABELS_FIGURE):
        assert bytes_of(page.DOCS / figure) == bytes_of(tmp_path / figure), f"docs/{figure} {stale}"


def test_committed_results_are_of_the_machine_and_commit_that_they_name():
    for path in (page.RESULTS / "runs").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        assert content["benchmark"] == "evidence-run"
        assert content["machine"]["cpu"]
        assert content["commit"]
        assert content["date"]
