import json
import math
import statistics

import pytest
from rich.console import Console

from richsem_schemas.scoring.metrics import json_metrics
from richsem_train.results.tables import comparison_content, comparison_table, paired_differences, results_table, spread

ARMS = {
    "hard": [{"AP": 0.50, "APr": 0.30}, {"AP": 0.52, "APr": 0.36}, {"AP": 0.54, "APr": 0.30}],
    "soft": [{"AP": 0.58, "APr": 0.40}, {"AP": 0.57, "APr": 0.42}, {"AP": 0.62, "APr": -1.0}],
}


def shown(table) -> str:
    console = Console(width=140)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_spread_is_mean_and_sample_deviation():
    values = [0.1, 0.4, 0.35]
    found = spread(values)
    assert found.mean == pytest.approx(statistics.mean(values))
    assert found.deviation == pytest.approx(statistics.stdev(values))


def test_a_spread_leaves_out_what_is_not_defined_and_of_one_value_has_no_deviation():
    assert (spread([0.25, -1.0, None, math.nan]).values, spread([0.25]).deviation) == ((0.25,), None)
    assert spread([-1.0, None]) is None


def test_differences_are_paired_by_seed_and_skip_what_is_not_defined():
    assert paired_differences(ARMS["soft"], ARMS["hard"], "AP") == pytest.approx([0.08, 0.05, 0.08])
    assert paired_differences(ARMS["soft"], ARMS["hard"], "APr") == pytest.approx([0.10, 0.06])


def test_results_table_orders_metrics_and_shows_undefined_ones_as_a_dash():
    text = shown(results_table({"last": {"s/step": 0.25, "APr": -1.0, "AP": 0.5}, "best": {"AP": 0.51}}, title="Run"))
    header = next(line for line in text.splitlines() if "APr" in line)
    assert header.index("AP ") < header.index("APr") < header.index("s/step")
    assert [cell.strip() for cell in text.split("last")[1].split("│")[1:4]] == ["0.500", "-", "0.250"]


def test_comparison_table_shows_mean_deviation_and_difference():
    text = shown(comparison_table(ARMS, title="Demo", columns=("AP",), baseline="hard"))
    assert "0.520 ±0.020" in text
    assert "0.590 ±0.026" in text
    assert "(+0.070)" in text
    assert "over up to 3 seeds" in " ".join(text.split())


def test_an_arm_without_runs_is_shown_as_such():
    assert "-" in shown(
        comparison_table({"hard": [{"AP": 0.5}], "late": []}, title="Demo", columns=("AP",), baseline="hard")
    )


def test_metrics_without_a_value_are_null_in_json():
    assert json_metrics({"AP": 0.5, "APr": -1.0, "APc": math.nan}) == {"AP": 0.5, "APr": None, "APc": None}


def test_comparison_content_holds_every_seed_and_the_paired_difference():
    content = comparison_content(ARMS, baseline="hard")
    soft = content["arms"]["soft"]
    assert soft["seeds"][2] == {"AP": 0.62, "APr": None}
    assert soft["summary"]["AP"]["mean"] == pytest.approx(0.59)
    assert soft["summary"]["AP"]["difference"]["mean"] == pytest.approx(0.07)
    assert soft["summary"]["APr"]["seeds"] == 2
    assert "difference" not in content["arms"]["hard"]["summary"]["AP"]
    json.dumps(content, allow_nan=False)


def test_names_in_tables_are_no_markup_and_cannot_steer_a_terminal():
    name = "[red]a[/red]\x1b[2J\x9b1m"
    for table in (
        results_table({name: {"AP": 0.5}}, title=f"{name} on val"),
        comparison_table({name: [{"AP": 0.5}], "b": [{"AP": 0.6}]}, title=name, columns=("AP",), baseline=name),
    ):
        text = shown(table)
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert text.count(r"[red]a[/red]\x1b[2J\x9b1m") >= 2
