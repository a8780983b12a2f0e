import argparse
import json
import pickle
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from open_clip.modified_resnet import ModifiedResNet
from safetensors.torch import load_file, save_file

from richsem_schemas.errors import RichSemError
from richsem_train.models.backbone import make_backbone
from richsem_train.models.frozen_norm import FrozenBatchNorm2d

TEACHER = Path(__file__).parents[3] / "pipeline" / "richsem_prep" / "demo" / "teacher"

SMALL_TIMM = ("timm:swin_tiny_patch4_window7_224", "timm:convnext_atto", "timm:focalnet_tiny_srf")


def images(height=64, width=96, batch=1, dtype=torch.float32):
    return torch.randn(batch, 3, height, width, dtype=dtype, generator=torch.Generator().manual_seed(0))


def with_random_statistics(network):
    """Norms that have seen something, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if "running" in name or ("bn" in name and tensor.is_floating_point()):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return network.eval()


def torchvision_maps(network, pictures, layers=("layer2", "layer3", "layer4")):
    extractor = torchvision.models.feature_extraction.create_feature_extractor(network, list(layers))
    return list(extractor(pictures).values())


# torchvision.


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_a_resnet_equals_torchvisions(tmp_path, name):
    theirs = with_random_statistics(torchvision.models.get_model(name, weights=None))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    ours = make_backbone(name, weights=str(tmp_path / "weights.pth")).double()
    pictures = images(70, 97, dtype=torch.float64)
    for our, their in zip(ours(pictures), torchvision_maps(theirs.double(), pictures), strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("out_strides", [(8, 16, 32), (8, 16), (4,)])
def test_maps_have_the_channels_and_strides_they_claim(name, out_strides):
    backbone = make_backbone(name, weights=None, out_strides=out_strides)
    maps = backbone(images(70, 97))
    assert backbone.strides == out_strides
    assert [map_.shape[1] for map_ in maps] == list(backbone.channels)
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(-(-70 // stride), -(-97 // stride)) for stride in out_strides]


def test_no_stage_is_built_that_no_map_needs():
    body = make_backbone("resnet18", weights=None, out_strides=(8, 16)).body
    assert not any(key.startswith(("layer4", "fc")) for key in body.state_dict())


def test_keys_are_those_of_published_detectors():
    keys = set(torch.nn.Sequential(make_backbone("resnet50", weights=None)).state_dict(prefix="backbone."))
    with_head = torchvision.models.resnet50(weights=None).state_dict()
    expected = {key for key in with_head if not key.startswith("fc.") and not key.endswith("num_batches_tracked")}
    assert keys == {f"backbone.0.body.{key}" for key in expected}


# Weights from files.


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.0.body.", "module.backbone.0.body.", "visual."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_load_under_any_prefix(tmp_path, prefix, suffix):
    source = with_random_statistics(torchvision.models.resnet18(weights=None))
    state = {prefix + key: value for key, value in source.state_dict().items()} | {"neck.conv1.weight": torch.ones(1)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": state, "args": argparse.Namespace(lr=1e-4)}, path)
    else:
        save_file(state, path)
    body = make_backbone("resnet18", weights=str(path)).body
    for key, value in body.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def test_missing_weights_are_named(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer3.0.conv1.weight"]
    save_file(state, tmp_path / "short.safetensors")
    with pytest.raises(RichSemError, match=r"1 of the backbone's .* are missing: layer3\.0\.conv1\.weight"):
        make_backbone("resnet18", weights=str(tmp_path / "short.safetensors"))


def test_weights_of_another_shape_are_named(tmp_path):
    torch.save(torchvision.models.wide_resnet50_2(weights=None).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(
        RichSemError, match=r"layer1\.0\.conv1\.weight is \(128, 64, 1, 1\) instead of \(64, 64, 1, 1\)"
    ):
        make_backbone("resnet50", weights=str(tmp_path / "wide.pth"))


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(RichSemError, match=r"nowhere\.pth: there is no such file"):
        make_backbone("resnet18", weights="nowhere.pth")


class Payload:
    def __reduce__(self):
        return (Path("ran-on-loading").touch, ())


def save_pickled(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_pickled])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save({"conv1.weight": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(RichSemError, match="can be read without running its code"):
        make_backbone("resnet18", weights=str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran-on-loading").exists()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_damaged_file_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(RichSemError, match="is not a file of weights"):
        make_backbone("resnet18", weights=str(tmp_path / name))


def test_published_weights_out_of_reach_say_how_to_go_on(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    with pytest.raises(RichSemError, match=r"'resnet18' can't be fetched.*no route to host.*give the file"):
        make_backbone("resnet18", weights="imagenet1k")
    monkeypatch.setattr("timm.create_model", lambda *args, pretrained=False, **kwargs: refuse() if pretrained else None)
    monkeypatch.setattr("richsem_train.models.backbone._timm_strides", lambda *_: [4, 8, 16, 32])
    with pytest.raises(RichSemError, match=r"'timm:convnext_atto' can't be fetched.*no route to host"):
        make_backbone("timm:convnext_atto", weights="imagenet1k")


# Freezing.


def learning(backbone):
    return {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}


def test_two_frozen_stages_are_the_stem_and_the_first_stage():
    backbone = make_backbone("resnet50", weights=None, frozen_stages=2)
    names = learning(backbone)
    assert names
    assert all(name.startswith(("body.layer2", "body.layer3", "body.layer4")) for name in names)
    sum(map_.sum() for map_ in backbone(images())).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_frozen_norms_change_neither_by_seeing_nor_by_learning():
    backbone = make_backbone("resnet18", weights=None).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "bn" in key}
    backbone(images())
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in before.items())
    assert not any("bn" in name for name in learning(backbone))


def test_norms_learn_where_they_are_asked_to_but_never_in_frozen_stages():
    backbone = make_backbone("resnet18", weights=None, frozen_norm=False, frozen_stages=1).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running_mean" in key}
    backbone(images())
    changed = {key for key, value in before.items() if not torch.equal(value, backbone.state_dict()[key])}
    assert changed == set(before) - {"body.bn1.running_mean"}


def test_more_frozen_stages_than_there_are_are_refused():
    with pytest.raises(RichSemError, match="9 parts can't be frozen, it has 5"):
        make_backbone("resnet18", weights=None, frozen_stages=9)


def test_a_frozen_norm_equals_an_unfrozen_one_in_evaluation_and_keeps_bfloat16():
    norm = with_random_statistics(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))[0]
    frozen = FrozenBatchNorm2d(4)
    frozen.load_state_dict(norm.state_dict())
    features = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(frozen(features), norm(features))
    assert frozen(features.bfloat16()).dtype == torch.bfloat16


def test_the_gradient_through_a_frozen_norm_is_that_through_an_unfrozen_one_in_evaluation():
    norm = with_random_statistics(torch.nn.Sequential(torch.nn.BatchNorm2d(4)))[0].double()
    frozen = FrozenBatchNorm2d(4).double()
    frozen.load_state_dict(norm.state_dict())
    features = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    wanted, found = (torch.autograd.grad(each(features).square().sum(), features)[0] for each in (norm, frozen))
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(frozen, features)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
def test_frozen_norms_keep_no_map_for_the_backward_pass_and_no_float32_one_under_autocast(name):
    backbone = make_backbone(name, weights=None, out_strides=(8, 16))
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    pictures = images(64, 64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        backbone(pictures)
    maps = {tensor.data_ptr(): tensor for tensor in kept if tensor.dim() == 4 and tensor.shape[0] == len(pictures)}
    convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in backbone.modules())
    # What a convolution reads, and where the largest of a window was; the norms between would be as many again.
    assert len(maps) <= convolutions + 2
    assert all(each.dtype in (torch.bfloat16, torch.int64) for each in maps.values())


# timm.


@pytest.mark.parametrize("name", SMALL_TIMM)
def test_timm_networks_take_pictures_of_any_size(name):
    backbone = make_backbone(name, weights=None, frozen_stages=2)
    for height, width in ((50, 97), (96, 64)):
        maps = backbone(images(height, width))
        assert [map_.shape[1] for map_ in maps] == list(backbone.channels)
        padded = (-(-height // 32) * 32, -(-width // 32) * 32)
        assert [tuple(map_.shape[2:]) for map_ in maps] == [(padded[0] // s, padded[1] // s) for s in (8, 16, 32)]
    sum(map_.square().sum() for map_ in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


def test_a_timm_network_equals_timms(tmp_path):
    whole = timm.create_model("convnext_atto", pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "convnext.safetensors")
    ours = make_backbone("timm:convnext_atto", weights=str(tmp_path / "convnext.safetensors")).eval()
    expected = whole.forward_intermediates(images(), intermediates_only=True)[1:]
    for our, their, norm in zip(ours(images()), expected, ours.norms, strict=True):
        torch.testing.assert_close(our, norm(their.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "clip-resnet", "timm:vgg11"])
def test_networks_without_drop_path_refuse_a_rate(name):
    with pytest.raises(RichSemError, match=rf"'{name}' has no drop path; set model\.backbone\.drop_path to null"):
        make_backbone(name, weights=None, drop_path=0.2)


def test_dropped_paths_leave_out_blocks_in_training_alone():
    torch.manual_seed(0)
    backbone = make_backbone("timm:focalnet_tiny_srf", weights=None, drop_path=0.9)
    pictures = images()
    first, second = backbone.train()(pictures)[-1], backbone(pictures)[-1]
    assert not torch.equal(first, second)
    first, second = backbone.eval()(pictures)[-1], backbone(pictures)[-1]
    assert torch.equal(first, second)


def test_timm_networks_with_batch_norms_freeze_them():
    backbone = make_backbone("timm:resnet18", weights=None, frozen_stages=1, out_strides=(8, 16)).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    assert len(backbone(images(33, 40))) == 2
    assert before
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in before.items())
    assert not backbone.norms


# CLIP.


def open_clip_maps(network, pictures):
    features = network.stem(pictures)
    maps = []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        features = stage(features)
        maps.append(features)
    return maps[1:]


def test_a_clip_resnet_equals_open_clips(tmp_path):
    torch.manual_seed(0)
    theirs = with_random_statistics(ModifiedResNet([2, 1, 3, 1], output_dim=32, heads=4, image_size=64, width=8))
    state = {f"visual.{key}": value.contiguous() for key, value in theirs.state_dict().items()}
    save_file(state | {"logit_scale": torch.ones(())}, tmp_path / "clip.safetensors")
    ours = make_backbone(
        "clip-resnet", weights=str(tmp_path / "clip.safetensors"), clip_layers=(2, 1, 3, 1), clip_width=8
    )
    pictures = images(64, 96, dtype=torch.float64)
    expected = open_clip_maps(theirs.double(), pictures)
    assert [map_.shape[1] for map_ in expected] == list(ours.channels)
    for our, their in zip(ours.double()(pictures), expected, strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-10)


def test_the_demo_teachers_trunk_loads():
    vision = json.loads((TEACHER / "open_clip_config.json").read_text())["model_cfg"]["vision_cfg"]
    weights = TEACHER / "open_clip_model.safetensors"
    ours = make_backbone(
        "clip-resnet", weights=str(weights), clip_layers=vision["layers"], clip_width=vision["width"]
    ).double()
    theirs = ModifiedResNet(vision["layers"], output_dim=64, heads=8, image_size=64, width=vision["width"]).eval()
    state = {key.removeprefix("visual."): value for key, value in load_file(weights).items() if "visual." in key}
    theirs.load_state_dict(state)
    pictures = images(64, 96, dtype=torch.float64)
    for our, their in zip(ours(pictures), open_clip_maps(theirs.double(), pictures), strict=True):
        torch.testing.assert_close(our, their, rtol=0, atol=1e-9)


def test_a_clip_resnet_sees_the_last_row_of_a_picture_of_any_size():
    backbone = make_backbone("clip-resnet", weights=None, clip_layers=(1, 1, 1, 1), clip_width=8, out_strides=(8, 16))
    pictures = images(65, 65)
    maps = backbone(pictures)
    assert [tuple(map_.shape[2:]) for map_ in maps] == [(10, 10), (5, 5)]
    pictures[:, :, 64] += 1
    assert not torch.equal(backbone(pictures)[0], maps[0])


# The user's mistakes.


def test_an_unknown_name_meets_the_nearest_known_one():
    with pytest.raises(RichSemError, match="did you mean 'resnet50'"):
        make_backbone("resnet5", weights=None)
    with pytest.raises(RichSemError, match="timm has no such network; did you mean 'convnext_atto"):
        make_backbone("timm:convnext_ato", weights=None)


@pytest.mark.parametrize("name", ["resnet18", "timm:convnext_atto", "timm:vit_tiny_patch16_224"])
def test_strides_that_a_network_does_not_have_are_refused(name):
    with pytest.raises(RichSemError, match=r"maps of strides \(16, 64\); choose some of"):
        make_backbone(name, weights=None, out_strides=(16, 64))


def test_a_clip_resnet_that_can_not_be_built_is_refused():
    with pytest.raises(RichSemError, match="four stages"):
        make_backbone("clip-resnet", weights=None, clip_layers=(1, 1, 1))
    with pytest.raises(RichSemError, match="no ImageNet-1k weights"):
        make_backbone("clip-resnet", weights="imagenet1k")
