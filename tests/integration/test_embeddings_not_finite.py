"""A teacher whose numbers are none: its shards fail by name, nothing of them is written, the others are kept."""

import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from richsem_prep.executors.worker import Worker
from richsem_prep.rescore.rescore import rescore
from richsem_prep.teacher.device_forward import DeviceForward, UnderWay
from richsem_schemas.cache.reader import open_cache
from richsem_schemas.errors import EmbeddingError, TeacherError
from tests.integration.processes import run
from tests.integration.shard_job import shard
from tests.pictures import write_pictures

pytestmark = pytest.mark.usefixtures("small_views")


def files_of(out, shard_name):
    """All that an OUT has of a shard, temporaries included."""
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if shard_name in path.name)


def altered_teacher(teacher, folder, **factors):
    """A copy of a teacher with some weights multiplied."""
    shutil.copytree(teacher.removeprefix("local-dir:"), folder)
    weights = load_file(folder / "open_clip_model.safetensors")
    for name, factor in factors.items():
        weights[name.replace("__", ".")] *= factor
    save_file(weights, folder / "open_clip_model.safetensors")
    return f"local-dir:{folder}"


@pytest.fixture
def pictures_with_a_white_one(tmp_path):
    root = write_pictures(tmp_path / "pictures", 11)
    Image.new("RGB", (60, 40), (255, 255, 255)).save(root / "class_1" / "white.jpg")
    return root


@pytest.fixture
def white_is_no_number(monkeypatch):
    """The network has no numbers for white pictures; counts how often it is shown one."""
    shown = []
    launch = DeviceForward.launch

    def without_white(self, network, pixels_BHW3, *more):
        under_way = launch(self, network, pixels_BHW3, *more)
        if pixels_BHW3.min() > 250:
            shown.append(len(under_way.wait()))
            under_way.wait()[0, 3] = np.nan
        return under_way

    monkeypatch.setattr(DeviceForward, "launch", without_white)
    return shown


def test_a_shard_with_such_embeddings_fails_once_and_the_others_are_made(
    pictures_with_a_white_one, white_is_no_number, resnet, tmp_path
):
    out = tmp_path / "out"
    summary, _ = shard(pictures_with_a_white_one, out, resnet, samples_per_shard=4, mosaics=0)
    assert len(summary.results) == 2
    assert not summary.complete
    ((number, message),) = summary.failed.items()
    name = f"folder-{number:06d}"
    assert message.startswith(f"{name}: fp32 embeddings of {number:06d}-")
    assert ".crop-0.npy (class_1/white.jpg) are not finite" in message
    assert "name another --teacher" in message
    # It would go wrong again.
    assert white_is_no_number == [1]
    assert files_of(out, name) == []
    assert not (out / "manifest.json").exists()
    for other in summary.results:
        assert len(files_of(out, f"folder-{other:06d}")) == 6


def test_when_the_cause_is_mended_the_shard_is_made(pictures_with_a_white_one, resnet, tmp_path):
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "run", lambda *_: (_ for _ in ()).throw(EmbeddingError("not finite")))
        summary, _ = shard(pictures_with_a_white_one, out, resnet, samples_per_shard=4)
        assert list(summary.failed.values()) == ["not finite"] * 3
    summary, _ = shard(pictures_with_a_white_one, out, resnet, samples_per_shard=4)
    assert summary.complete


@pytest.mark.ray
def test_through_the_command_line_a_precision_too_small_is_said_with_the_remedy(resnet, tmp_path):
    root, out = write_pictures(tmp_path / "pictures", 6), tmp_path / "out"
    teacher = altered_teacher(resnet, tmp_path / "loud", visual__attnpool__c_proj__weight=1e7)
    options = {"teacher_size": 64, "samples_per_shard": 3, "mosaics": 0, "seed": 0, "label_set": "loud"}
    typed = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]
    code, said = run(
        "shard", "--dataset", "folder", "--root", root, "--out", out, "--teacher", teacher, *typed, "--device", "cpu",
        "--workers", 1, "--precision", "fp16",
    )  # fmt: skip
    said = " ".join(said.split())
    assert code == 1, said
    assert "Traceback" not in said
    for number in range(2):
        assert f"shard {number} failed: folder-{number:06d}: fp16 embeddings of {number:06d}-00000.crop-0.npy" in said
    assert "are not finite" in said
    assert "with --overwrite --precision bf16 or fp32" in said
    assert "error: 2 shards failed" in said
    assert files_of(out, "folder-00000") == []

    summary, _ = shard(root, out, teacher, **options, precision="bf16", overwrite=True)
    assert summary.complete
    assert open_cache(out).manifest.samples == 6


def test_text_that_is_no_number_ends_the_run_before_a_shard_is_made(resnet, tmp_path):
    root, out = write_pictures(tmp_path / "pictures", 3), tmp_path / "out"
    teacher = altered_teacher(resnet, tmp_path / "broken", text_projection=float("nan"))
    with pytest.raises(TeacherError, match="embeddings of text are not finite"):
        shard(root, out, teacher)
    assert not list(out.rglob("*.tar"))


def test_rescoring_refuses_a_set_that_holds_such_embeddings(resnet, tmp_path):
    root, out = write_pictures(tmp_path / "pictures", 3), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        # As if the check had not been there.
        patch.setattr("richsem_prep.shard.task.LabelTask.require_finite", lambda *_: None)
        wait = UnderWay.wait
        patch.setattr(UnderWay, "wait", lambda under_way: wait(under_way) * np.float32(np.nan))
        shard(root, out, resnet, label_set="clip", mosaics=0)
    with pytest.raises(EmbeddingError, match=r"shard 0: the embeddings of 000000-00000\.crop-0\.npy are not finite"):
        rescore(out, label_set="sharper", temperature=0.5)
    assert not list((out / "labels" / "sharper").glob("*.tar"))
