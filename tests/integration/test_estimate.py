from dataclasses import replace

import pytest
from typer.testing import CliRunner

from richsem_prep.cli import app
from richsem_prep.commands.estimate import estimate_table
from richsem_prep.executors.make_executor import make_executor
from richsem_prep.shard import run as driver
from richsem_prep.shard.config import ShardConfig
from richsem_prep.shard.estimate import Estimate, estimate
from richsem_schemas.errors import RichSemError
from tests.integration.shard_job import Quiet

GIVEN = Estimate(
    pictures=1_000, shards=16, measured=100, quarantined=0, measured_seconds=10, device="cpu", passes=5, shows=10,
    views=2_000, regions=5_000, listing_bytes=10, picture_bytes=1_000, label_bytes=100, device_hours=3,
    teacher_hours=2, start_seconds=1, workers=None,
)  # fmt: skip


def config(raw, out, teacher, **changes):
    given = {"dataset": "folder", "root": raw, "out": out, "teacher": teacher, "teacher_size": 64}
    return ShardConfig(**{**given, "executor": "inline", "device": "cpu", "label_set": "x", **changes})


def test_an_estimate_is_near_what_the_run_then_weighs_and_writes_nothing_into_its_folder(pictures, tmp_path, resnet):
    asked = config(pictures, tmp_path / "out", resnet, mosaics=1)
    found = estimate(asked, Quiet(), make_executor, samples=1_000, seconds=600)
    assert not (tmp_path / "out").exists()
    summary = driver.shard(asked, Quiet(), make_executor)
    receipts = [result.receipt.summary for result in summary.results.values()]
    assert (found.pictures, found.measured, found.quarantined, found.shards) == (91, 91, 1, 2)
    assert found.regions == pytest.approx(sum(item.regions for item in receipts), rel=0.05)
    assert found.label_bytes == pytest.approx(sum(item.tar.bytes for item in receipts), rel=0.05)
    made = sum(result.picture_bytes for result in summary.results.values())
    assert found.picture_bytes == pytest.approx(made, rel=0.05)
    assert 0 < found.teacher_hours < found.device_hours


def test_measuring_stops_after_the_time_and_scales_to_the_limit(pictures, tmp_path, resnet):
    asked = config(pictures, tmp_path / "out", resnet, mosaics=0, limit=50, pictures="reference")
    found = estimate(asked, Quiet(), make_executor, samples=40, seconds=1e-3)
    assert found.measured == 8
    assert found.pictures == 50
    assert found.views == pytest.approx(50, rel=0.2)
    assert found.picture_bytes < 50 * 2048


def test_pictures_that_are_all_broken_are_said_to_be(tmp_path, resnet):
    (tmp_path / "raw" / "a").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "raw" / "a" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff no picture")
    with pytest.raises(RichSemError, match="none of 3 pictures"):
        estimate(config(tmp_path / "raw", tmp_path / "out", resnet), Quiet(), make_executor, samples=9, seconds=9)


def test_the_cache_has_paid_for_itself_when_online_teachers_would_have_taken_as_long():
    # Five passes take the teacher two hours, so ten shows take four.
    assert GIVEN.online_hours == 4
    assert GIVEN.runs_to_pay == 3 / 4
    assert replace(GIVEN, shows=24).online_hours == pytest.approx(9.6)
    assert GIVEN.bytes == 1_110


def test_wall_time_is_shared_by_workers():
    shown = {str(a): str(b) for a, b in zip(*(column.cells for column in estimate_table(GIVEN).columns), strict=True)}
    assert shown["with 4 workers"].startswith("45.0 min")
    assert "0.75 training runs" in shown["pays for itself"]
    named = estimate_table(replace(GIVEN, workers=2)).columns[0].cells
    assert [cell for cell in named if cell.startswith("with ")] == ["with 2 workers"]


def test_workers_without_a_shard_save_no_time():
    # Of 17 shards one worker of 16 makes two; of 3 no more than three workers have any.
    assert replace(GIVEN, shards=17).hours_with(16) == pytest.approx(3 * 2 / 17)
    few = replace(GIVEN, shards=3, workers=8)
    assert few.hours_with(8) == few.hours_with(3) == 1
    (shown,) = [str(cell) for cell in estimate_table(few).columns[1].cells if "a device like this one" in str(cell)]
    assert shown.startswith("1.0 h")
    assert "so 3 shards keep no more busy" in shown


def test_the_command_takes_the_options_of_shard():
    result = CliRunner().invoke(app, ["estimate", "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert all(option in result.output for option in ("--mosaics", "--teacher-size", "--workers", "--samples"))
    assert "--overwrite" in result.output
    assert "│ --from-cache" not in result.output
    result = CliRunner().invoke(app, ["estimate", "--dataset", "unheard-of"])
    assert isinstance(result.exception, RichSemError)
