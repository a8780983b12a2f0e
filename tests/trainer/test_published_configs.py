"""Configs of published rows: what sets them apart, that they are shown, and the detectors that they describe."""

from dataclasses import replace

import pytest
import torch
import yaml

from richsem_train.config import builtin_configs, config_differences, load_config
from richsem_train.run.build import described_detector
from richsem_train.run.checkpoint import ModelInfo
from richsem_train.run.detectors import kind_of

PUBLISHED = [name for name in builtin_configs() if "demo" not in name]
CLASSES, TEXT_DIM = 12, 1024
META = torch.device("meta")

WITHOUT_RICHSEM = {
    "name", "extra.cache", "extra.supervision", "detection.cache", "detection.labels", "model.classifier",
    "model.semantic_branch",
}  # fmt: skip
"""What a baseline lacks: the extra data, soft labels, and classes by name; `extra` is gone with all its keys."""


def differing(one, other):
    return config_differences(load_config(one), load_config(other))


@pytest.mark.parametrize("data", ["openimages", "openimages_v6", "visual_genome"])
def test_baselines_of_table_3_lack_richsem_and_nothing_else(data):
    found = differing(f"richsem_r50_{data}", f"baseline_r50_{data}")
    extra = {key: value for key, value in found.items() if key.startswith("extra.")}
    assert all(without is None for _, without in extra.values())
    assert set(found) - set(extra) == {key for key in WITHOUT_RICHSEM if not key.startswith("extra.")}
    assert found["detection.labels"] == ("cache", "none")
    assert found["model.classifier"] == ("text", "linear")
    assert found["model.semantic_branch"] == (True, False)


def test_table_3s_baselines_have_the_heads_of_lviss():
    for data in ("openimages", "visual_genome"):
        assert load_config(f"baseline_r50_{data}").model == load_config("baseline_r50_lvis").model


@pytest.mark.parametrize("data", ["openimages", "visual_genome"])
def test_table_3_has_its_schedule_and_nothing_that_needs_lviss_file(data):
    config = load_config(f"richsem_r50_{data}")
    assert (config.schedule.epochs, config.schedule.lr_drops) == (24, (20,))
    assert (config.detection.repeat_threshold, config.loss.federated) == (None, None)
    assert config.extra.supervision == "unlabelled"


def test_24_epochs_by_class_are_the_steps_of_a_2x_schedule():
    config = load_config("richsem_r50_openimages")
    pictures = config.schedule.epochs * config.detection.class_aware_pictures
    assert pictures // config.schedule.global_batch_size == 180_000


@pytest.mark.parametrize("arm", ["richsem", "baseline"])
def test_v6_differs_from_the_challenge_in_its_files_alone(arm):
    found = differing(f"{arm}_r50_openimages", f"{arm}_r50_openimages_v6")
    caches = {"detection.cache"} if arm == "richsem" else set()
    assert set(found) == {"name", "detection.train.annotations", "detection.val.annotations", "text.folder"} | caches
    assert all("challenge-2019" in str(found[f"detection.{split}.annotations"][0]) for split in ("train", "val"))


C2, C2_DETIC, C2_RICHSEM = "c2_r50_21k_lvis", "c2_detic_r50_21k_inet_lvis", "c2_richsem_r50_21k_inet_lvis"


def test_detics_recipe_is_that_of_its_configs():
    config = load_config(C2)
    schedule, loss = config.schedule, config.loss
    assert (schedule.lr, schedule.backbone_lr, schedule.weight_decay) == (2e-4, 2e-4, 1e-4)
    assert (schedule.lr_schedule, schedule.warmup_steps) == ("cosine", 10_000)
    assert (schedule.clip_norm, schedule.clip_value) == (None, 1.0)
    assert (schedule.global_batch_size, schedule.pictures_a_draw) == (64, 8)
    assert (loss.class_weight, loss.bbox_weight, loss.giou_weight, loss.image_weight) == (1, 1, 1, 0.1)
    assert (loss.federated, loss.image_candidates, config.model.cosine_scale) == (50, 128, 50)
    assert config.detection.augmentation.model_dump() == {
        "kind": "scale-jitter", "side": 640, "factors": (0.1, 2.0), "flip": True
    }  # fmt: skip
    assert (config.model.backbone.frozen_stages, config.model.backbone.frozen_norm) == (0, True)
    assert config.model.backbone == load_config("richsem_r50_21k_inet_lvis").model.backbone


@pytest.mark.parametrize(("name", "batches"), [(C2, 1), (C2_DETIC, 2), (C2_RICHSEM, 2)])
def test_detics_schedules_are_about_90_000_steps(name, batches):
    """By the least and the most that pictures are repeated, whichever of them share rare categories."""
    schedule = load_config(name).schedule
    steps = [batches * schedule.epochs * (pictures // schedule.global_batch_size) for pictures in (100_170, 114_868)]
    assert 79_000 < steps[0] < 90_000 < steps[1] < 94_000
    assert steps[0] > 4 * schedule.warmup_steps
    assert schedule.epochs % load_config(name).evaluation.every_epochs == 0


def test_detic_is_its_baseline_with_extra_pictures_and_richsem_the_same_with_soft_labels():
    found = {key for key in differing(C2, C2_DETIC) if key.partition(".")[0] != "extra"}
    assert found == {
        "name", "start_from", "schedule.epochs", "schedule.warmup_steps", "schedule.extra_batch_size",
        "evaluation.every_epochs",
    }  # fmt: skip
    assert set(differing(C2_DETIC, C2_RICHSEM)) == {
        "name", "detection.labels", "detection.cache", "extra.labels", "extra.supervision", "model.semantic_branch"
    }  # fmt: skip


def test_detics_baseline_has_about_as_many_parameters_as_counted_elsewhere():
    """76 million without masks; a branch of 1,024 x 1,024 in each of three stages more."""
    plain, with_branch = (
        sum(each.numel() for each in detector_of(name, text_dim=512, semantic_dim=1024).parameters())
        for name in (C2, C2_RICHSEM)
    )
    assert plain == pytest.approx(76e6, rel=0.01)
    assert with_branch - plain == 3 * 1024 * 1024


def test_table_1_is_the_large_run_with_another_start():
    assert set(differing("richsem_focal_h_inet_lvis", "richsem_focal_h_o365_inet_lvis")) == {"name", "start_from"}
    assert set(differing("richsem_r50_inet_lvis", "richsem_r50_o365_inet_lvis")) == {"name", "start_from"}


def test_rows_of_table_4_in_dino_differ_in_the_method_and_nothing_else():
    """One schedule, one classifier, one augmentation."""
    config = load_config("table4_dino_baseline")
    assert (config.schedule.epochs, config.schedule.lr_drops, config.model.classifier) == (12, (11,), "text")
    assert config.extra is None
    detic, richsem = (differing("table4_dino_baseline", f"table4_dino_{arm}") for arm in ("detic", "richsem"))
    for found in (detic, richsem):
        extra = {key for key in found if key.startswith("extra")}
        assert all(found.pop(key)[0] is None for key in extra)
    assert set(detic) == {"name"}
    assert set(richsem) == {"name", "detection.labels", "detection.cache", "model.semantic_branch"}
    between = differing("table4_dino_detic", "table4_dino_richsem")
    assert {key: values for key, values in between.items() if key.startswith("extra")} == {
        "extra.supervision": ("image", "labelled"),
        "extra.views": ("crops", "mosaics"),
        "extra.labels": ("hard", "embedding"),
    }


def test_the_baseline_of_table_4_is_the_papers_with_classes_by_name():
    assert set(differing("baseline_r50_lvis", "table4_dino_baseline")) == {"name", "model.classifier"}


@pytest.mark.parametrize("name", builtin_configs())
def test_every_config_of_the_package_is_shown(command, name):
    assert command("--config", name, "--show-config") == 0, command.stderr
    assert yaml.safe_load(command.stdout)["name"] == name


def description(name, classes=CLASSES, text_dim=TEXT_DIM):
    config = load_config(name)
    config = config.model_copy(update={"model": kind_of(config.model).built_without_memory(config.model)})
    has_text = config.model.needs_text
    return ModelInfo(
        config=config,
        class_names=("none", *(f"class {number}" for number in range(1, classes))),
        frequencies=(None,) * classes,
        text_dim=text_dim if has_text else 0,
        logit_scale=100.0 if has_text else 0.0,
        category_ids=tuple(range(classes)),
    )


def detector_of(name, *, semantic_dim=None, **options):
    """Its detector on the meta device, where weights take no memory."""
    info = description(name, **options)
    branch = {"semantic_branch": info.config.model.semantic_branch, "semantic_dim": semantic_dim}
    with META:
        return described_detector(info, device=META, **branch)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_detector_can_be_built(name):
    detector = detector_of(name)
    backbone = load_config(name).model.backbone
    assert detector.backbone[0].strides == backbone.out_strides
    frozen = [p for p in detector.backbone.parameters() if not p.requires_grad]
    assert bool(frozen) == (backbone.frozen_stages > 0)


def test_focal_h_has_about_the_papers_parameters():
    """747 million in table 1; ours has 713 million, the teacher's 38 million not among them."""
    counted = sum(parameter.numel() for parameter in detector_of("richsem_focal_h_o365_inet_lvis").parameters())
    assert counted == pytest.approx(713e6, rel=1e-3)


@pytest.mark.parametrize(
    ("pretraining", "run"),
    [
        ("dino_focal_h_objects365", "richsem_focal_h_o365_inet_lvis"),
        ("dino_r50_objects365", "richsem_r50_o365_inet_lvis"),
    ],
)
def test_pretraining_on_objects365_fits_all_but_the_heads(pretraining, run):
    """The classes are others, and so is what classifies; all else is taken over, at the same padding."""
    before, after = load_config(pretraining), load_config(run)
    assert str(after.start_from) == f"weights/{pretraining}.safetensors"
    assert before.model.size_divisor == after.model.size_divisor
    assert before.model.backbone == after.model.backbone
    pretrained = detector_of(pretraining, classes=366).state_dict()
    wanted = detector_of(run).state_dict()
    heads = ("class_embed", "transformer.enc_out_class_embed", "label_enc", "text_features", "logit_scale")
    fresh = {key for key in wanted if key not in pretrained or wanted[key].shape != pretrained[key].shape}
    assert all(key.startswith(heads) for key in fresh)
    assert len(fresh) < 10 < len(wanted)


@pytest.mark.parametrize(("name", "rate"), [("richsem_focal_h_inet_lvis", 0.2), ("richsem_focal_l_inet_lvis", 0.3)])
def test_drop_path_is_the_configs(name, rate):
    rates = [module.drop_prob for module in detector_of(name).modules() if type(module).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(rate)


def test_without_a_rate_drop_path_is_the_networks_own():
    info = description("richsem_focal_l_inet_lvis")
    backbone = info.config.model.backbone.model_copy(update={"drop_path": None})
    model = info.config.model.model_copy(update={"backbone": backbone})
    info = replace(info, config=info.config.model_copy(update={"model": model}))
    with META:
        detector = described_detector(info, device=META)
    rates = [module.drop_prob for module in detector.modules() if type(module).__name__ == "DropPath"]
    # timm's default for FocalNets.
    assert max(rates) == pytest.approx(0.1)
