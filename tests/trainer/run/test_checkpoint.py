"""Checkpoints: whole or not at all, read without running anything, refused in one line."""

import json
import os
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config
from richsem_train.models.backbone_weights import read_state_and_info
from richsem_train.run import checkpoint as module
from richsem_train.run.checkpoint import Checkpoint, ModelInfo, export_weights, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def info():
    return ModelInfo(load_config("demo"), ("none", "a <b>", "ü 猫"), ("", "r", "f"), 8, 20.0)


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.arange(5)}


def full(info, **changes):
    values = {
        "info": info, "model": weights(), "averaged": weights(1), "step": 7, "best_ap": 0.25,
        "optimiser": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "fingerprints": {"extra": "f" * 64},
    }  # fmt: skip
    return Checkpoint(**(values | changes))


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_checkpoint_is_read_as_written(info, tmp_path):
    path = tmp_path / "deep" / "last.pt"
    saved = full(info)
    save_checkpoint(path, saved)
    found = load_checkpoint(path)
    assert (found.info.to_json(), found.step, found.best_ap) == (info.to_json(), 7, 0.25)
    assert found.fingerprints == saved.fingerprints
    assert found.optimiser["param_groups"] == saved.optimiser["param_groups"]
    assert_equal_weights(found.model, saved.model)
    assert_equal_weights(found.averaged, saved.averaged)


@pytest.mark.parametrize("averaged", [True, False])
def test_detections_are_made_with_the_averaged_weights_where_there_are_any(info, averaged):
    saved = full(info, averaged=weights(1) if averaged else None)
    assert_equal_weights(saved.inference_weights, weights(1) if averaged else weights(0))


def test_exported_weights_are_read_as_written(info, tmp_path):
    path = tmp_path / "x.safetensors"
    export_weights(path, info, {"a.weight": weights()["a.weight"].T})
    found = load_checkpoint(path)
    assert found.info.to_json() == info.to_json()
    assert torch.equal(found.model["a.weight"], weights()["a.weight"].T)
    assert (found.averaged, found.optimiser, found.step) == (None, {}, 0)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(info, tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_checkpoint(path, full(info))
    before = path.read_bytes()

    def half(_, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, full(info, step=8))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def edited(path, saved, **fields):
    """A checkpoint some of whose fields are others."""
    save_checkpoint(path, saved)
    torch.save(torch.load(path, weights_only=True) | fields, path)
    return path


def refused(path):
    with pytest.raises(RichSemError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message) < 800
    return message


def test_a_missing_checkpoint_is_named(tmp_path):
    assert "there is no such checkpoint" in refused(tmp_path / "last.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_cut_short_anywhere_are_refused(info, tmp_path, suffix):
    path = tmp_path / f"last{suffix}"
    if suffix == ".pt":
        save_checkpoint(path, full(info))
    else:
        export_weights(path, info, weights())
    whole = path.read_bytes()
    for length in (0, 1, 8, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)


NO_CHECKPOINTS = [
    b"", b"hello", b"red star\nblue moon\n", b"hello world\n", b"PK\x03\x04", b"\x80\x02K\x01.", bytes(1000), b"{}",
    bytes(range(256)),
]  # fmt: skip


@pytest.mark.parametrize("content", NO_CHECKPOINTS)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_other_files_are_refused(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    message = refused(path)
    if suffix != ".safetensors" and content != b"\x80\x02K\x01.":
        assert "not a readable checkpoint" in message
        assert "weights_only" not in message
        with pytest.raises(RichSemError, match="not a file of weights that can be read") as caught:
            read_state_and_info(path)
        assert "weights_only=False" not in str(caught.value)


class Malicious:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_nothing_in_a_checkpoint_is_run(tmp_path, save):
    victim = tmp_path / "victim"
    save({"info": "{}", "model": Malicious(victim), "step": 0}, tmp_path / "x.pt")
    refused(tmp_path / "x.pt")
    assert not victim.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("info", "no JSON"), ("info", "[]"), ("info", "3"), ("info", "{}"), ("info", 3), ("info", "[" * 99_999),
        ("model", [1]), ("model", {"a": 1}), ("model", {3: torch.zeros(1)}), ("averaged", 3), ("optimiser", 3),
        ("step", "x"), ("step", None), ("step", -1), ("best_ap", "x"),
    ],
)  # fmt: skip
def test_a_checkpoint_with_a_field_of_another_kind_is_refused(info, tmp_path, field, value):
    refused(edited(tmp_path / "last.pt", full(info), **{field: value}))


def test_published_checkpoints_say_how_they_are_read(tmp_path):
    torch.save({"model": weights(), "epoch": 3}, tmp_path / "dino.pth")
    assert "--config" in refused(tmp_path / "dino.pth")
    assert "start_from" in refused(tmp_path / "dino.pth")


@pytest.mark.parametrize("metadata", [None, {"richsem": "no JSON"}, {"richsem": "[]"}, {"richsem": "{}"}])
def test_safetensors_of_another_program_are_refused(tmp_path, metadata):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata=metadata)
    refused(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("version", 99, "its version is 99, this program reads 1"),
        ("version", None, "its version is None"),
        ("config", {"name": "x"}, "detection"),
        ("config", 3, ""),
        ("class_names", 3, ""),
        ("text_dim", "x", ""),
        ("logit_scale", [], ""),
        ("version", True, "its version is True, this program reads 1"),
        ("version", 1.0, "its version is 1.0, this program reads 1"),
        ("class_names", ["none", "a"], "frequencies has 3 rows, and class_names has 2"),
        ("class_names", "abc", "class_names is no list of texts"),
        ("class_names", ["none", "a", 3], "class_names is no list of texts"),
        ("category_ids", [1, 2], "category_ids has 2 rows, and class_names has 3"),
        ("category_ids", [0, 1, True], "True is no whole number"),
        ("frequencies", ["", "r", "x"], "frequencies has 'x', which is none of"),
        ("text_dim", -1, "text_dim is -1"),
        ("logit_scale", 0, "logit_scale is 0.0, and must be a number above 0"),
        ("logit_scale", -20.0, "logit_scale is -20.0"),
        ("logit_scale", float("nan"), "logit_scale is nan"),
        ("logit_scale", float("inf"), "logit_scale is inf"),
    ],
)
def test_a_description_of_another_version_or_shape_or_that_contradicts_itself_says_so(
    info, tmp_path, field, value, said
):
    content = json.dumps(info.to_json() | {field: value})
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", metadata={"richsem": content})
    assert said in refused(tmp_path / "x.safetensors")
    assert said in refused(edited(tmp_path / "last.pt", full(info), info=content))


def test_a_model_without_a_text_bank_has_no_scale(info, tmp_path):
    path = tmp_path / "x.safetensors"
    export_weights(path, replace(info, text_dim=0, logit_scale=0.0, category_ids=(-1, 5, 9)), {"a": torch.zeros(1)})
    assert load_checkpoint(path).info.category_ids == (-1, 5, 9)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.int32])
@pytest.mark.parametrize("field", ["model", "averaged", "weights"])
def test_weights_that_are_no_real_numbers_are_named(info, tmp_path, dtype, field):
    other = {"a.weight": torch.ones(3).to(dtype)}
    path = tmp_path / ("x.safetensors" if field == "weights" else "last.pt")
    if field == "weights":
        export_weights(path, info, other)
    else:
        save_checkpoint(path, full(info, **{field: other}))
    message = refused(path)
    assert f"{field}: a.weight is of {dtype}" in message
    assert "convert its weights to float32" in message


def test_a_checkpoint_does_not_take_the_place_of_a_pipe(tmp_path, info):
    path = tmp_path / "last.pt"
    os.mkfifo(path)
    with pytest.raises(RichSemError, match=r"last\.pt is a pipe"):
        save_checkpoint(path, full(info))
    assert stat.S_ISFIFO(path.lstat().st_mode)
