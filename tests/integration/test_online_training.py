"""Training with the teacher inside: the steps of `richsem-train`, other labels, exact resumes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from benchmarks.evidence import online
from benchmarks.evidence.online import OnlineLabels, assembled, train_online
from richsem_prep.teacher.teacher import load_teacher, parse_teacher
from richsem_schemas.command_line import run_program
from richsem_schemas.errors import RichSemError
from richsem_train.run.assemble import assemble
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.distributed import Ranks
from richsem_train.run.open_data import open_data
from tests.integration.programs import call
from tests.integration.shard_job import shard, use_small_views
from tests.trainer.data.datasets import seen_pixels
from tests.trainer.stopping import StopAt, assert_same
from tests.trainer.tiny import Quiet, World, losses_of, one_thread, write_split

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
TEACHER_SIZE = 96
ONLINE = {"detection__labels": "hard", "extra__labels": "hard"}
CACHED = {"detection__labels": "cache", "detection__views": "stored", "extra__labels": "embedding"}
NOISY = {"schedule__ema": 0.9, "model__dropout": 0.1}
"""With all that a checkpoint has to hold: averaged weights, and noise from the global generators."""

EPOCH_STEPS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Detection pictures and their windows with the demo teacher's labels, which are the extra data, too."""
    folder = tmp_path_factory.mktemp("world")
    root, out = folder / "data", folder / "cache"
    for split, pictures in (("train2017", 8), ("val", 4)):
        write_split(root, split, pictures, seed=pictures)
    (root / "annotations").mkdir()
    (root / "train2017.json").rename(root / "annotations" / "instances_train2017.json")
    with pytest.MonkeyPatch.context() as patched:
        use_small_views(patched, "coco")
        options = {"crops": None, "mosaics": None, "pictures": None, "windows": 2, "teacher_size": TEACHER_SIZE}
        shard(root, out, "demo", dataset="coco", **options)
    return World(root, out)


def changed(world, **changes):
    train = {"annotations": "annotations/instances_train2017.json", "images": "train2017"}
    extra = {"cache": str(world.cache), "views": "windows", "lanes": 2}
    return {"detection__train": train, "detection__cache": str(world.cache), "extra": extra} | changes


def run_online(world, out, label="both", *, teacher_size=TEACHER_SIZE, resume=False, reporter=None, **changes):
    labels = OnlineLabels("demo", teacher_size, label)
    config = world.config(**changed(world, **(ONLINE | changes)))
    with patch("richsem_train.results.plots.plot_run"), one_thread():
        return train_online(config, out, labels, resume=resume, device="cpu", reporter=reporter or Quiet())


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """OUT of an uninterrupted run of two epochs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run_online(world, out, **NOISY).stopped_by is None
    return out


@pytest.mark.parametrize("step", [3, EPOCH_STEPS + 1])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(world, whole, tmp_path, step):
    assert run_online(world, tmp_path, reporter=StopAt(step), **NOISY).stopped_by == "SIGTERM"
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").step == step
    assert run_online(world, tmp_path, resume=True, **NOISY).table is not None
    assert (tmp_path / "results.json").is_file()
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("changes", [{"teacher_size": 128}, {"label": "extra"}])
def test_a_run_goes_on_with_its_own_teacher_alone(world, whole, changes):
    with pytest.raises(RichSemError, match="the online teacher is another label set than the run began with"):
        run_online(world, whole, resume=True, **NOISY, **changes)


def test_a_run_with_a_teacher_inside_does_not_go_on_without(world, whole):
    with pytest.raises(RichSemError, match=r"the online teacher is another .* its fingerprint is None, it was demo"):
        world.run(whole, resume=True, **changed(world, **ONLINE, **NOISY))


@pytest.mark.parametrize("label", ["detection", "extra", "both"])
def test_the_teacher_labels_the_steps_it_is_told_to_and_changes_nothing_else(world, label):
    config = world.config(**changed(world, **ONLINE))
    run = assemble(config, open_data(config), Ranks(0, 1, CPU))
    teacher = load_teacher(parse_teacher("demo"), device=CPU)
    live = assembled(run, teacher, OnlineLabels("demo", TEACHER_SIZE, label))
    pairs = zip(run.batches(0, 4), live.batches(0, 4), strict=True)
    for plain, ours in pairs:
        assert (plain.step, plain.kind) == (ours.step, ours.kind)
        assert torch.equal(seen_pixels(plain.batch), seen_pixels(ours.batch))
        for before, after in zip(plain.batch.targets, ours.batch.targets, strict=True):
            assert torch.equal(before.boxes_cxcywh_norm, after.boxes_cxcywh_norm)
            assert torch.equal(before.labels, after.labels)
            if label in (ours.kind, "both"):
                assert not after.is_hard
                assert after.soft_labels.embeddings.shape == (len(after.labels), teacher.identity.embed_dim)
            else:
                assert after.is_hard
                assert after.soft_labels is None


def test_on_stored_windows_it_learns_what_the_cache_teaches(world, tmp_path):
    """Labels are alike but for rounding, and so are the first steps; those of another teacher's size are not."""
    changes = CACHED | {"schedule__epochs": 1}
    run_online(world, tmp_path / "online", **changes)
    run_online(world, tmp_path / "other", **changes, teacher_size=48)
    world.run(tmp_path / "cached", **changed(world, **changes))
    ours, other, cached = (losses_of(tmp_path / name) for name in ("online", "other", "cached"))
    assert [line["data"] for line in cached] == ["detection", "extra"] * (EPOCH_STEPS // 2)
    for line, theirs in zip(ours, cached, strict=True):
        assert line["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert line["losses"] == pytest.approx(theirs["losses"], rel=2e-3)
    assert abs(other[1]["losses"]["loss_soft"] / cached[1]["losses"]["loss_soft"] - 1) > 0.1


@pytest.mark.parametrize(
    ("label", "changes", "message"),
    [
        ("both", {"extra": None}, "--label both: the config has no extra data .* use --label detection"),
        (
            "extra",
            ONLINE | {"detection__labels": "none", "model__semantic_branch": False},
            "model.semantic_branch is false, so nothing would learn",
        ),
    ],
)
def test_what_can_not_be_labelled_or_learnt_is_refused(world, tmp_path, label, changes, message):
    config = world.config(
        **changed(world, **{"detection__labels": "hard", "text": {"cache": str(world.cache)}} | changes)
    )
    with pytest.raises(RichSemError, match=message):
        train_online(config, tmp_path / "out", OnlineLabels("demo", None, label), reporter=Quiet())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["of the cache", "cache", "folder"])
def test_another_teacher_than_the_text_banks_is_refused(world, resnet, tmp_path, text, prep):
    named = {} if text == "of the cache" else {"text": {text: str(world.cache)}}
    if text == "folder":
        named = {"text": {"folder": str(tmp_path / "text")}}
        code, said = prep(
            "text", "--names", world.cache / "plan/plan.json", "--teacher", "demo", "--out", tmp_path / "text"
        )
        assert code == 0, said
    labels = OnlineLabels(resnet, TEACHER_SIZE, "both")
    config = world.config(**changed(world, **ONLINE, **named))
    with pytest.raises(RichSemError, match=r"--teacher local-dir:resnet .* isn't that of .* text bank, demo \(weights"):
        train_online(config, tmp_path / "out", labels, device="cpu", reporter=Quiet())
    assert not (tmp_path / "out").exists()


def test_the_command_trains_and_tells_the_figures(world, tmp_path, capsys):
    config = world.write_config(tmp_path / "tiny.yaml", **changed(world, **ONLINE, schedule__epochs=1))
    options = ("--config", config, "--teacher", "demo", "--teacher-size", TEACHER_SIZE, "--label", "both")
    arguments = (*options, "--out", tmp_path / "out", "--set", "seed=3", "--device", "cpu")
    program = SimpleNamespace(run=lambda: run_program(online.app))
    with patch("richsem_train.results.plots.plot_run"):
        assert call(program, "online", *arguments) == 0
    printed = capsys.readouterr()
    assert "detection and extra steps are labelled by demo, which sees each picture at 96 px" in printed.err
    assert "AP" in printed.out
    assert len(losses_of(tmp_path / "out")) == EPOCH_STEPS

    command = [sys.executable, "-m", "benchmarks.evidence.online", *map(str, arguments)]
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert "go on with it by --resume" in again.stderr
