"""Configs for small sets: what sets them apart, what they weigh, and what they start from."""

import pytest
import torch
import yaml

from richsem_train.config import builtin_configs, config_differences, load_config
from richsem_train.models.dino.published import load_published
from richsem_train.run.build import described_detector
from richsem_train.run.checkpoint import ModelInfo, export_weights

CPU, META = torch.device("cpu"), torch.device("meta")
HEADS = ("class_embed", "transformer.enc_out_class_embed", "label_enc", "text_features", "logit_scale")
NARROW = (
    "model.backbone.weights=null", "model.hidden_dim=32", "model.heads=4", "model.points=2", "model.ffn_dim=48",
    "model.queries=8",
)  # fmt: skip
"""What makes it small enough for a test."""


def info_of(config, names):
    has_text = config.model.needs_text
    return ModelInfo(
        config=config,
        class_names=("none", *names),
        frequencies=(None,) * (len(names) + 1),
        text_dim=16 if has_text else 0,
        logit_scale=100.0 if has_text else 0.0,
        category_ids=tuple(range(len(names) + 1)),
    )


def detector_of(name, names, *changes, device=META):
    config = load_config(name, [*changes, "model.deformable_attention=torch"])
    info = info_of(config, names)
    with device:
        return described_detector(info, device=device, semantic_branch=config.model.semantic_branch), info


def test_the_arms_differ_in_what_they_are_about_and_nothing_else():
    found = config_differences(load_config("small"), load_config("small_richsem"))
    assert {key for key in found if not key.startswith("text")} == {
        "name", "detection.labels", "detection.cache", "model.semantic_branch"
    }  # fmt: skip
    found = config_differences(load_config("small"), load_config("small_from_coco"))
    assert {key.partition(".")[0] for key in found} == {"name", "start_from", "model", "schedule", "evaluation"}


def test_they_learn_from_detection_pictures_alone_with_classes_by_name():
    for name in ("small", "small_richsem", "small_from_coco"):
        config = load_config(name)
        assert config.extra is None
        assert (config.model.classifier, config.detection.format, config.loss.federated) == ("text", "coco", None)
        assert config.evaluation.longest_side == config.detection.augmentation.longest_side == 640


def test_the_small_one_has_little_over_a_third_of_the_parameters_of_r50s():
    names = [f"class {number}" for number in range(5)]
    small, large = (
        sum(each.numel() for each in detector_of(name, names)[0].parameters()) for name in ("small", "dino_r50_coco")
    )
    assert small < 17e6
    assert small < 0.4 * large


def test_dinos_published_weights_of_coco_fit_all_but_the_heads():
    published = load_config("dino_r50_coco").model
    ours = load_config("small_from_coco").model
    assert published.size_divisor == ours.size_divisor
    of_coco = detector_of("dino_r50_coco", [f"class {number}" for number in range(90)])[0].state_dict()
    wanted = detector_of("small_from_coco", ["bolt", "nut"])[0].state_dict()
    fresh = {key for key in wanted if key not in of_coco or wanted[key].shape != of_coco[key].shape}
    assert all(key.startswith(HEADS) for key in fresh)
    assert len(fresh) < 10 < len(wanted)


@pytest.mark.parametrize("how", ["exported", "state dict"])
def test_a_small_one_takes_all_of_one_that_was_trained_on_other_classes(tmp_path, how):
    """Its classifier compares with names, so that no weight has a row a class."""
    torch.manual_seed(0)
    before, info = detector_of("small", [f"thing {number}" for number in range(9)], *NARROW, device=CPU)
    after, _ = detector_of("small", ["bolt", "nut"], *NARROW, device=CPU)
    own = {key: value.clone() for key, value in after.state_dict().items() if key in ("text_features", "logit_scale")}
    if how == "exported":
        path = tmp_path / "before.safetensors"
        export_weights(path, info, before.inference_state_dict())
    else:
        path = tmp_path / "before.pth"
        torch.save(before.state_dict(), path)
    report = load_published(after, path, fresh_heads=True, class_names=("none", "bolt", "nut"))
    assert set(report.skipped) <= {"the vocabulary"}
    learnt = {key: value for key, value in before.state_dict().items() if key not in own}
    lost = {key for key, value in learnt.items() if not torch.equal(value, after.state_dict()[key])}
    # What only training uses isn't exported.
    assert all(key.startswith("class_embed.label_proj") for key in report.missing)
    assert lost <= set(report.missing)
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in own.items())


@pytest.mark.parametrize("name", [name for name in builtin_configs() if name.startswith("small")])
def test_a_config_of_ones_own_needs_little_more_than_its_files(tmp_path, name):
    mine = tmp_path / "mine.yaml"
    split = {"annotations": "a.json", "images": "pictures"}
    mine.write_text(yaml.safe_dump({"base": name, "name": "mine", "detection": {"train": split, "val": split}}))
    assert load_config(str(mine)).detection.train.images.name == "pictures"
