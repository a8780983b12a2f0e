"""Checkpoints that describe a giant are refused before anything of it is made, whichever command reads them."""

import json
import resource
import shutil
import time
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from richsem_schemas.errors import RichSemError
from richsem_train.config import parse_config
from richsem_train.run.build import described_detector
from richsem_train.run.checkpoint import Checkpoint, ModelInfo, load_checkpoint
from richsem_train.run.rebuilding import rebuilt_detector
from tests.trainer.bounds import BOUNDS
from tests.trainer.tiny import TWO_STAGE, VALUES

SUFFIXES = (".pt", ".safetensors")


@pytest.fixture(scope="module")
def checkpoints(trained, tmp_path_factory):
    """A checkpoint and exported weights of one run, by suffix."""
    from richsem_train.detector_tasks import export_checkpoint

    folder = tmp_path_factory.mktemp("run")
    best = trained / "checkpoints" / "best.pt"
    export_checkpoint(best, folder / "best.safetensors")
    return {".pt": best, ".safetensors": folder / "best.safetensors"}


def forged(source, target, change_info=lambda info: None, change_weights=lambda weights: None):
    """A copy with another description, or other weights."""
    if source.suffix == ".pt":
        content = torch.load(source, weights_only=True)
        info = json.loads(content["info"])
        change_info(info)
        change_weights(content["model"])
        torch.save(content | {"info": json.dumps(info)}, target)
        return target
    with safe_open(source, framework="pt") as file:
        info = json.loads(file.metadata()["richsem"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    change_info(info)
    change_weights(weights)
    save_file(weights, target, metadata={"richsem": json.dumps(info)})
    return target


def setting(key, value):
    def change(info):
        *parents, last = key.split(".")
        section = info
        for parent in parents:
            section = section[parent]
        section[last] = value

    return change


def refuses(command, *arguments, seconds=5):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert command(*arguments) == 1
    assert time.process_time() - start < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert len(command.error) < 1000
    return command.error


GIANTS = [
    *(
        (f"config.{key}", value, f"{key}: Input should be less than or equal to {most} (got {value})")
        for key, value, most in BOUNDS
    ),
    ("config.model.ffn_dim", 2**31 - 1, "model.ffn_dim is 2,147,483,647, the weights have 48"),
    ("config.model.ffn_dim", 10**12, "model.ffn_dim: Input should be less than"),
    ("config.model.encoder_layers", 10_000_000, "model.encoder_layers: Input should be less than or equal to 100"),
    ("config.model.encoder_layers", 100, "model.encoder_layers is 100, the weights have 1"),
    ("config.model.decoder_layers", 10_000_000, "model.decoder_layers: Input should be less than or equal to 100"),
    ("config.model.decoder_layers", 100, "model.decoder_layers is 100, the weights have 2"),
    ("config.evaluation.short_side", 2**30, "evaluation.short_side: Input should be less than or equal to 8192"),
    ("config.model.queries", 10**9, "model.queries is 1,000,000,000, the weights have 8"),
    ("config.model.hidden_dim", 2**30, "model.hidden_dim is 1,073,741,824, the weights have 32"),
    ("config.model.feature_levels", 100, "model.feature_levels is 100, the weights have 2"),
    ("config.model.points", 10**8, "sampling_offsets.weight should be (1600000000, 32), it is (32, 32)"),
    ("config.model.backbone.clip_layers", [1, 100, 1, 1], "clip_layers[1] is 100, the weights have 1"),
    ("config.model.backbone.clip_width", 2**20, "backbone.0.body.conv1.weight should be (524288, 3, 3, 3)"),
    ("config.model.backbone.name", "timm:vit_giant_patch14_reg4_dinov2", "can't give maps of strides (8, 16)"),
    ("config.model.backbone.name", "timm:convnext_xxlarge", "there is no backbone.0."),
    ("config.model.backbone.name", "timm:../../x", "timm has no such network"),
    ("config.model.backbone.name", "wide_resnet101_2", "there is no backbone.0.body."),
    ("text_dim", 2**30, "should be (1073741824, 32)"),
    ("text_dim", 10**30, "is no whole number below"),
    ("text_dim", 1e400, "is no whole number below"),
    ("config.model.dropout", 1e400, "model.dropout"),
    ("category_ids", [2**70], "is no whole number below"),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("key", "value", "said"), GIANTS)
def test_a_description_of_a_giant_is_refused_with_the_file_and_the_field(
    command, checkpoints, tmp_path, suffix, key, value, said
):
    path = forged(checkpoints[suffix], tmp_path / f"giant{suffix}", setting(key, value))
    message = refuses(command, "export", path, "--out", tmp_path / "out.safetensors")
    assert message.startswith(str(path))
    assert said in message
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("arguments", [("eval",), ("predict",)])
def test_eval_and_predict_refuse_it_as_export_does(command, checkpoints, tmp_path, arguments):
    path = forged(checkpoints[".pt"], tmp_path / "giant.pt", setting("config.model.decoder_layers", 100))
    picture = next((command.world.data / "val").iterdir())
    more = [picture, "--out", tmp_path / "seen"] if arguments == ("predict",) else []
    message = refuses(command, *arguments, path, *more, "--device", "cpu")
    assert "its weights don't fit its own config: model.decoder_layers is 100, the weights have 2" in message
    assert "take another copy of it" in message


def test_a_giant_asked_for_by_set_is_refused_with_that_as_the_reason(command, checkpoints, tmp_path):
    message = refuses(command, "eval", checkpoints[".pt"], "--set", "model.queries=2000000000", "--device", "cpu")
    assert "model.queries is 2,000,000,000, the weights have 8" in message
    assert "Was the model changed by --set?" in message


def test_a_giant_that_a_small_file_repeats_is_refused(command, checkpoints, tmp_path):
    def repeat(weights):
        for name in ("linear1.weight", "linear2.weight", "linear1.bias"):
            key = f"transformer.encoder.layers.0.{name}"
            shape = [2**31 - 1 if side == 48 else side for side in weights[key].shape]
            weights[key] = torch.zeros(1).expand(shape)

    path = forged(
        checkpoints[".pt"], tmp_path / "x.pt", setting("config.model.ffn_dim", 2**31 - 1), change_weights=repeat
    )
    assert path.stat().st_size < 10 * checkpoints[".pt"].stat().st_size
    assert "isn't held in full" in refuses(command, "export", path, "--out", tmp_path / "out.safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_weight_and_one_of_another_shape_are_named(command, checkpoints, tmp_path, suffix):
    def spoil(weights):
        del weights["transformer.enc_output.bias"]
        weights["transformer.enc_output.weight"] = torch.zeros(3, 3)

    path = forged(checkpoints[suffix], tmp_path / f"x{suffix}", change_weights=spoil)
    message = refuses(command, "export", path, "--out", tmp_path / "out.safetensors")
    assert "there is no transformer.enc_output.bias" in message
    assert "transformer.enc_output.weight should be (32, 32), it is (3, 3)" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_weight_of_counts_in_the_place_of_numbers_is_named(command, checkpoints, tmp_path, suffix):
    def count(weights):
        weights["transformer.enc_output.bias"] = torch.ones(32, dtype=torch.int64)

    path = forged(checkpoints[suffix], tmp_path / f"x{suffix}", change_weights=count)
    message = refuses(command, "export", path, "--out", tmp_path / "out.safetensors")
    assert message.startswith(str(path))
    assert "transformer.enc_output.bias should be of torch.float32, it is of torch.int64" in message


@pytest.mark.parametrize("step", [-1, 2**63, "7", 1.5, True, None])
def test_a_step_that_is_none_is_refused(command, checkpoints, tmp_path, step):
    content = torch.load(checkpoints[".pt"], weights_only=True)
    torch.save(content | {"step": step}, tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in refuses(command, "export", tmp_path / "x.pt")


def test_what_samples_is_no_matter_of_the_weights(command, checkpoints, tmp_path):
    path = forged(checkpoints[".pt"], tmp_path / "x.pt", setting("config.model.deformable_attention", "triton"))
    message = refuses(command, "export", path)
    assert "'triton' " in message
    assert "its weights" not in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_honest_file_is_rebuilt_as_it_was(checkpoints, suffix, tmp_path):
    saved = load_checkpoint(shutil.copy(checkpoints[suffix], tmp_path / f"x{suffix}"))
    detector = rebuilt_detector(saved, "x", torch.device("cpu"))
    for name, tensor in detector.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, saved.inference_weights[name])


def two_stage_info(*, text_dim=12, **model):
    values = VALUES | {"text": {"cache": "somewhere"}, "extra": None, "model": TWO_STAGE["model"] | model}
    config = parse_config(values, source="two-stage")
    names = ("", "cat", "dog")
    return ModelInfo(config, names, ("",) * 3, text_dim, 50.0 if text_dim else 0.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"roi_dim": 2**30}, "model.roi_dim is 1,073,741,824, the weights have 24"),
        ({"hidden_dim": 2**30}, "model.hidden_dim is 1,073,741,824, the weights have 16"),
        ({"text_dim": 2**30}, "text_features should be (3, 1073741824), it is (3, 12)"),
        ({"text_dim": 0}, "it can't be built (a text classifier needs text features"),
    ],
)
def test_another_two_stage_detector_than_the_weights_are_of_is_refused_unbuilt(changes, said):
    cpu, info = torch.device("cpu"), two_stage_info()
    weights = described_detector(info, device=cpu).state_dict()
    saved = Checkpoint(info, weights, None, {}, 0, 0.0, {})
    assert rebuilt_detector(saved, "file", cpu).state_dict().keys() == weights.keys()
    with pytest.raises(RichSemError, match="its weights don't fit its own config") as refused:
        rebuilt_detector(replace(saved, info=two_stage_info(**changes)), "file", cpu)
    assert said in str(refused.value)
