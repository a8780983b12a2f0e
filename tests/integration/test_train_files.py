"""What the trainer's commands write: never over what they read, with the usual rights; and full disks."""

import json
import os
import shutil
import sys

import pytest
import torch
from PIL import Image

from richsem_train.run import build
from richsem_train.run.checkpoint import load_checkpoint
from richsem_train.run.engine import Trainer
from tests.integration.train_command import altered_data
from tests.trainer.tiny import Quiet

ONE_EPOCH = {"schedule__epochs": 1}


@pytest.fixture
def best(trained, tmp_path):
    """A checkpoint of one's own."""
    return shutil.copy(trained / "checkpoints" / "best.pt", tmp_path / "best.pt")


@pytest.fixture
def pictures(world, tmp_path):
    """A folder of two pictures of one's own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for path in sorted((world.data / "val").iterdir())[:2]:
        shutil.copy(path, folder)
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Outputs that are inputs


def refuses(command, folder, *arguments):
    """The message of a command that is refused and leaves a folder as it was."""
    before = content(folder)
    assert command(*arguments) == 1
    assert content(folder) == before
    return command.error


def test_predict_into_the_folder_of_its_pictures_is_refused(command, best, pictures):
    names = sorted(pictures.iterdir())
    message = refuses(command, pictures, "predict", best, *names, "--out", pictures, "--device", "cpu")
    assert f"{names[0]} would be overwritten, and this command reads it" in message
    assert "name another --out than the folder of the pictures" in message


def test_one_that_links_to_it_is_refused_too(command, best, pictures, tmp_path):
    (tmp_path / "linked").symlink_to(pictures)
    names = sorted(pictures.iterdir())
    refuses(command, pictures, "predict", best, *names, "--out", tmp_path / "linked", "--device", "cpu")
    out = tmp_path / "hard"
    out.mkdir()
    os.link(names[1], out / names[1].name)
    message = refuses(command, out, "predict", best, *names, "--out", out, "--device", "cpu")
    assert f"{out / names[1].name} would be overwritten" in message
    assert f"(it is {names[1]})" in message


def test_so_is_a_picture_that_is_called_like_the_sheet(command, best, pictures, tmp_path):
    first, second = sorted(pictures.iterdir())
    out = tmp_path / "seen"
    out.mkdir()
    shutil.move(first, out / "sheet.jpg")
    message = refuses(command, out, "predict", best, out / "sheet.jpg", second, "--out", out, "--device", "cpu")
    assert f"{out / 'sheet.jpg'} would be overwritten" in message
    # Of a single picture there is no sheet.
    assert command("predict", best, out / "sheet.jpg", "--out", out, "--device", "cpu") == 0, command.stderr
    assert {path.name for path in out.iterdir()} == {
        *("sheet.jpg", "sheet-2.jpg", "predictions.json", "coco_results.json", "coco_images.json")
    }


def test_and_a_checkpoint_called_like_the_predictions(command, best, pictures, tmp_path):
    out = tmp_path / "seen"
    out.mkdir()
    os.symlink(best, out / "predictions.json")
    message = refuses(command, out, "predict", best, *pictures.iterdir(), "--out", out, "--device", "cpu")
    assert f"{out / 'predictions.json'} would be overwritten" in message


def test_predict_may_write_beside_its_pictures_and_again(command, best, pictures):
    names = sorted(pictures.iterdir())
    before = content(pictures)
    for _ in range(2):
        assert command("predict", best, *names, "--out", pictures / "seen", "--device", "cpu") == 0, command.stderr
    assert {name: data for name, data in before.items() if name != "seen"} == {
        path.name: path.read_bytes() for path in names
    }


def test_weights_are_not_exported_over_themselves(command, best, tmp_path):
    assert command("export", best) == 0, command.stderr
    exported = tmp_path / "best.safetensors"
    assert f"{exported} would be overwritten" in refuses(command, tmp_path, "export", exported)
    os.symlink(best, tmp_path / "link.safetensors")
    message = refuses(command, tmp_path, "export", best, "--out", tmp_path / "link.safetensors")
    assert "name another --out" in message
    assert command("export", exported, "--out", tmp_path / "again.safetensors") == 0, command.stderr


def test_detections_are_not_written_over_what_they_are_made_from(command, best, world, tmp_path):
    out = tmp_path / "detections"
    out.mkdir()
    os.link(world.data / "val.json", out / "detections-00000.arrow")
    message = refuses(command, out, "eval", best, "--out", out, "--device", "cpu")
    assert f"(it is {world.data / 'val.json'})" in message


def test_a_comparison_is_not_written_over_its_runs(command, trained, tmp_path):
    run = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "c").mkdir()
    os.link(run / "results.json", tmp_path / "c" / "comparison.json")
    message = refuses(command, tmp_path / "c", "compare", run, "--out", tmp_path / "c")
    assert f"(it is {run / 'results.json'})" in message
    assert command("compare", run, "--out", run) == 0, command.stderr
    assert {"comparison.json", "comparison.png", "results.json"} <= {path.name for path in run.iterdir()}


@pytest.mark.parametrize("what", ["predict", "eval", "compare"])
def test_a_file_in_the_place_of_a_folder_is_named(command, best, trained, pictures, tmp_path, what):
    arguments = {"predict": [best, *pictures.iterdir()], "eval": [best], "compare": [trained]}[what]
    (tmp_path / "file").touch()
    device = [] if what == "compare" else ["--device", "cpu"]
    assert command(what, *arguments, "--out", tmp_path / "file", *device) == 1
    assert f"--out {tmp_path / 'file'} is no folder; name a folder" in command.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory"),
        torch.OutOfMemoryError(),
        MemoryError(),
    ],
)
def test_a_detector_larger_than_the_memory_is_refused_in_words(command, monkeypatch, error):
    def too_large(*_, **__):
        raise error

    monkeypatch.setattr(build, "build_detector", too_large)
    assert command.train(**ONE_EPOCH) == 1
    assert "doesn't fit into the memory" in command.error
    assert "make it smaller: model.ffn_dim" in command.error
    assert not command.out.exists()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB\nand more"),
        MemoryError(),
    ],
)
def test_a_step_larger_than_the_memory_ends_the_run_with_what_makes_it_smaller(command, monkeypatch, error):
    launch = Trainer.launch

    def too_large(trainer, number, *rest):
        if number == 2:
            raise error
        return launch(trainer, number, *rest)

    monkeypatch.setattr(Trainer, "launch", too_large)
    assert command.train(**ONE_EPOCH) == 1
    assert "step 2 doesn't fit into the memory (" in command.error
    for remedy in ("schedule.accumulate", "model.deformable_attention=torch-checkpoint", "schedule.precision=bf16"):
        assert remedy in command.error
    monkeypatch.undo()
    monkeypatch.setenv("RICHSEM_DATA", str(command.world.data))
    accumulate = ("--set", "schedule.accumulate=2", "--set", "model.deformable_attention=torch-checkpoint")
    assert command.train("--resume", *accumulate, **ONE_EPOCH) == 0, command.stderr


@pytest.mark.parametrize("where", ["build.build_detector", "engine.Trainer.launch"])
def test_errors_that_only_sound_like_memory_are_not_taken_for_it(world, tmp_path, monkeypatch, where):
    def fails(*_, **__):
        raise RuntimeError("the allocation of labels is inconsistent")

    monkeypatch.setattr(f"richsem_train.run.{where}", fails)
    with pytest.raises(RuntimeError, match="the allocation of labels"):
        world.run(tmp_path / "out", **ONE_EPOCH)


# Rights


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_exported_weights_have_the_rights_that_the_umask_leaves(command, best, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        assert command("export", best, "--out", tmp_path / "e.safetensors") == 0, command.stderr
    finally:
        os.umask(before)
    assert (tmp_path / "e.safetensors").stat().st_mode & 0o777 == mode


# Full disks

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")


def assert_full(message, path):
    assert message.startswith(f"{path}: No space left on device (")
    assert "bytes are free" in message
    assert "free some" in message


@on_linux
def test_training_on_a_full_disk_says_so_and_a_larger_one_goes_on(command, trained, small_disk):
    # Enough for the config and nothing, for the first checkpoint, for its second copy, for all.
    whole = sum(path.stat().st_size for path in trained.rglob("*") if path.is_file()) // 1024
    disk = small_disk(8)
    command.out = disk / "out"
    resume, named = [], set()
    for kilobytes in (8, 16, whole // 4, whole // 3, whole // 2, 3 * whole // 4, whole, 4 * whole):
        small_disk(kilobytes)
        if command.train(*resume, **ONE_EPOCH) == 0:
            break
        file = command.error.partition(": ")[0]
        assert_full(command.error, file)
        named.add(os.path.relpath(file, command.out))
        assert not list(disk.rglob(".*.tmp"))
        resume = ["--resume"] if (command.out / "config.yaml").exists() else []
        assert not resume or "--resume" in command.error
    assert "checkpoints/last.pt" in named
    assert command.code == 0, command.stderr
    ours, theirs = (load_checkpoint(out / "checkpoints" / "last.pt") for out in (command.out, trained))
    assert all((ours.model[name] == tensor).all() for name, tensor in theirs.model.items())


@on_linux
@pytest.mark.parametrize("kilobytes", [4, 8, 12, 16])
def test_the_thread_that_writes_for_tensorboard_prints_no_traceback(command, small_disk, kilobytes):
    command.out = small_disk(kilobytes) / "out"
    assert command.train(log__tensorboard=True, **ONE_EPOCH) == 1
    assert_full(command.error, command.error.partition(": ")[0])
    assert "--resume" in command.error


@on_linux
@pytest.mark.parametrize("what", ["export", "predict", "eval", "compare"])
def test_other_commands_on_a_full_disk_name_the_file_and_leave_nothing(
    command, best, trained, pictures, small_disk, what
):
    disk = small_disk(12)
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
    arguments, file = {
        "export": ([best, "--out", disk / "e.safetensors"], "e.safetensors"),
        "predict": ([best, *sorted(pictures.iterdir()), "--out", disk, "--device", "cpu"], "coco_results.json"),
        "eval": ([best, "--out", disk, "--device", "cpu"], "detections-00000.arrow"),
        "compare": ([trained, "--out", disk], "comparison.json"),
    }[what]
    assert command(what, *arguments) == 1
    assert_full(command.error, disk / file)
    assert not list(disk.rglob(".*.tmp"))
    small_disk(10_000)
    assert command(what, *arguments) == 0, command.stderr


# Places


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "best.pt", "https://example.org/a.jpg", "--out", "seen"),
        ("predict", "s3://bucket/best.pt", "a.jpg", "--out", "seen"),
        ("predict", "best.pt", "a.jpg", "--out", "s3://bucket/seen"),
        ("eval", "https://example.org/dino.pth", "--config", "dino_r50_coco"),
        ("eval", "best.pt", "--out", "gs://bucket/x"),
        ("export", "best.pt", "--out", "s3://bucket/x.safetensors"),
        ("compare", "s3://bucket/run"),
        ("compare", "run", "--out", "s3://bucket/x"),
        ("--config", "demo", "--out", "s3://bucket/run"),
        ("--config", "demo", "--set", "detection.val.annotations=https://example.org/val.json"),
        ("--config", "demo", "--set", "start_from=https://example.org/dino.pth"),
    ],
)
def test_a_url_where_files_are_read_or_written_is_refused_with_what_to_do(command, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 1
    assert "://" in command.error
    assert "is a URL, and a local path is needed here; fetch or mount it first" in command.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config", ""), "the config '' is neither a file nor one of"),
        (("--config", "demo", "--out", ""), "a path is empty"),
        (("predict", "best.pt", "a.jpg", "--out", ""), "a path is empty"),
        (
            ("predict", "best.pt", "a.jpg", "--out", "seen", "--config", ""),
            "the config '' is neither a file nor one of",
        ),
        (("compare", ""), "a path is empty"),
        (("--config", "demo", "--set", "data=''"), "data: a path is empty"),
    ],
)
def test_empty_names_are_refused(command, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert command(*arguments) == 1
    assert said in command.error
    assert not list(tmp_path.iterdir())


# COCO


def test_detections_show_frequencies_whether_annotations_give_them_or_not(command, world, trained, pictures, tmp_path):
    def without_frequencies(content):
        for category in content["categories"]:
            del category["frequency"]

    data = altered_data(world, tmp_path / "data", train=without_frequencies, val=without_frequencies)
    assert command.train(data=data, detection__format="coco", **ONE_EPOCH) == 0
    last = command.out / "checkpoints" / "last.pt"
    picture = min(pictures.iterdir())
    sizes = {}
    for name, checkpoint in (("coco", last), ("lvis", trained / "checkpoints" / "last.pt")):
        out = tmp_path / f"seen-{name}"
        assert command("predict", checkpoint, picture, "--out", out, "--device", "cpu") == 0, command.stderr
        with Image.open(out / picture.name) as image, Image.open(picture) as original:
            sizes[name] = image.height * original.width / image.width - original.height
        frequencies = {
            found["frequency"]
            for each in json.loads((out / "predictions.json").read_text())["pictures"]
            for found in each["detections"]
        }
        assert frequencies <= {"r", "c", "f"}
    # The strip of the legend makes a picture higher.
    assert sizes["coco"] == sizes["lvis"] > 0


# Crowds


def test_pictures_with_more_boxes_than_queries_are_told_at_the_start(command, world, tmp_path):
    def crowded(content):
        first = content["annotations"][0]
        content["annotations"] += [first | {"id": 1000 + number} for number in range(20)]

    data = altered_data(world, tmp_path / "data", train=crowded)
    assert command.train(data=data, **ONE_EPOCH) == 0, command.stderr
    own = json.loads((world.data / "train.json").read_text())["annotations"]
    boxes = 20 + sum(each["image_id"] == own[0]["image_id"] for each in own)
    assert "1 detection pictures have more boxes than the detector has queries (8)" in command.stderr
    assert f"first {own[0]['image_id']:012d}.png with {boxes}; --set model.queries={boxes}" in command.stderr


def test_nothing_is_told_where_there_are_queries_for_all(world, tmp_path):
    reporter = Quiet()
    world.run(tmp_path / "out", reporter=reporter, **ONE_EPOCH)
    assert not any("queries" in line for line in reporter.said)


# Comparisons


def test_a_comparison_says_what_it_compares_and_where_steps_differ(command, trained, world, tmp_path):
    world.run(tmp_path / "long", name="long", schedule__epochs=2)
    world.run(tmp_path / "again", name="again", schedule__epochs=1)
    assert command("compare", trained, tmp_path / "again") == 0, command.stderr
    assert "last evaluation of each run" in command.stdout
    assert "steps" in command.stdout
    assert "may make the difference" not in command.stdout
    assert command("compare", trained, tmp_path / "long", "--out", tmp_path / "c") == 0, command.stderr
    told = " ".join(command.stdout.split())
    assert "the runs took 6 or 12 steps, which alone may make the difference" in told
    assert "(+6)" in told
    summary = json.loads((tmp_path / "c" / "comparison.json").read_text())["arms"]["long"]["summary"]
    assert summary["steps"]["mean"] == 12
