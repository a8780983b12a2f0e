"""Configs: what comes with the package, what `--set` changes, and what is refused, in words."""

import pytest
import yaml

from richsem_schemas.errors import RichSemError
from richsem_train.config import (
    DEFAULT_CONFIG,
    builtin_configs,
    config_differences,
    config_yaml,
    known_keys,
    load_config,
    parse_config,
    with_changes,
)
from tests.trainer.tiny import VALUES


@pytest.fixture
def base():
    return load_config("demo")


def refusal(*changes, name="demo"):
    with pytest.raises(RichSemError) as refused:
        load_config(name, changes)
    return str(refused.value)


@pytest.mark.parametrize("name", builtin_configs())
def test_every_config_of_the_package_is_valid_and_bears_its_name(name):
    assert load_config(name).name == name


def test_the_default_config_is_the_papers():
    config = load_config(DEFAULT_CONFIG)
    model, schedule = config.model, config.schedule
    assert (model.backbone.name, model.queries, model.feature_levels, model.hidden_dim) == ("resnet50", 900, 4, 256)
    assert (schedule.epochs, schedule.global_batch_size, schedule.lr, schedule.backbone_lr) == (24, 16, 1e-4, 1e-5)
    assert (schedule.lr_drops, schedule.clip_norm) == ((20,), 0.1)
    assert (config.loss.soft_weight, config.loss.federated, config.evaluation.detections) == (0.5, 50, 300)
    assert (config.extra.labels, config.extra.views, config.detection.labels) == ("embedding", "mosaics", "cache")


@pytest.mark.parametrize("name", [name for name in builtin_configs() if not name.startswith(("demo", "c2_"))])
def test_published_configs_pad_and_place_queries_as_their_programs_do(name):
    config = load_config(name)
    assert config.model.size_divisor == (1 if name in ("dino_r50_coco", "small_from_coco") else 32)
    assert config.model.query_positions == "padded"
    assert config.schedule.pictures_a_draw == 2


def test_set_changes_values_at_any_depth(base):
    config = load_config(
        "demo",
        ["schedule.epochs=7", "model.backbone.out_strides=[16]", "extra=null", "text.cache=a/b", "schedule.lr=1e-3"],
    )
    assert config.schedule.epochs == 7
    assert config.model.backbone.out_strides == (16,)
    assert config.extra is None
    assert str(config.text.cache) == "a/b"
    assert config.schedule.lr == 1e-3
    assert config.schedule.warmup_steps == base.schedule.warmup_steps


def test_the_last_of_two_changes_counts():
    assert load_config("demo", ["seed=1", "seed=2"]).seed == 2


def test_changes_leave_what_they_are_applied_to_as_it_was(base):
    changed = with_changes(base, ["seed=5"], source="here")
    assert (changed.seed, base.seed) == (5, 0)
    assert config_differences(base, changed) == {"seed": (0, 5)}


def test_differences_name_fields_with_dots_and_whole_sections(base):
    other = with_changes(base, ["model.denoising.queries=3", "extra=null", "text.cache=c"], source="here")
    found = config_differences(base, other)
    assert found["model.denoising.queries"] == (base.model.denoising.queries, 3)
    assert found["extra.views"] == ("mosaics", None)
    assert "schedule.lr" not in found


@pytest.mark.parametrize(
    ("change", "nearest"),
    [
        ("schedule.epoch=3", "schedule.epochs"),
        ("scedule=3", "schedule"),
        ("epochs=3", "schedule.epochs"),
        ("model.backbone.nam=x", "model.backbone.name"),
        ("detection.augmentation.flips=true", "detection.augmentation.flip"),
        ("extra.label=topk", "extra.labels"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(change, nearest):
    message = refusal(change)
    assert f"unknown key {change.partition('=')[0]}" in message
    assert f"did you mean {nearest}?" in message
    assert nearest in known_keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("schedule.epochs=0", "schedule.epochs: Input should be greater than 0 (got 0)"),
        ("schedule.epochs=many", "schedule.epochs"),
        ("schedule.epochs=", "schedule.epochs"),
        ("schedule.lr=.nan", "schedule.lr"),
        ("schedule.lr=.inf", "schedule.lr"),
        ("schedule.ema=1", "schedule.ema"),
        ("extra.labels=all", "'topk', 'embedding' or 'hard'"),
        ("loss.tail=drop", "'bucket', 'uniform' or 'renormalise'"),
        ("model.hidden_dim=100", "model.hidden_dim 100 is no multiple of model.heads"),
        ("model.hidden_dim=40", "no multiple of 32"),
        ("model.feature_levels=1", "fewer than the maps"),
        (
            "schedule.accumulate=3",
            "schedule.global_batch_size 8 can't be cut into schedule.accumulate 3 parts of whole draws of "
            "schedule.pictures_a_draw 2; use a multiple of 6",
        ),
        ("schedule.extra_batch_size=3", "schedule.extra_batch_size 3 can't be cut into schedule.accumulate 1 parts of"),
        ("schedule.extra_batch_size=0", "schedule.extra_batch_size"),
        ("schedule.lr_schedule=linear", "'steps' or 'cosine'"),
        (
            "schedule.clip_value=1",
            "schedule.clip_norm=0.1 and schedule.clip_value=1.0 are two ways to clip; set one of the two to null",
        ),
        ("schedule.pictures_a_draw=3", "whole draws of schedule.pictures_a_draw 3; use a multiple of 3"),
        (
            "detection.class_aware_pictures=9",
            "detection.class_aware_pictures=9 draws by class, and detection.repeat_threshold=0.05 repeats pictures; "
            "set one of the two to null",
        ),
        ("detection.class_aware_pictures=0", "detection.class_aware_pictures"),
        ("extra=null", "name text.cache or text.folder, or a cache"),
        ("model.semantic_branch=false", "set it to true, or loss.soft_weight to 0"),
        ("model.classifier=linear", "needs model.classifier=text"),
        ("model=3", "model"),
        ("extra.labels", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("a..b=3", "is not KEY=VALUE"),
        ("seed=[", "no YAML"),
        ("seed=-1", "seed"),
        ("seed=!!python/name:os.system", "no YAML"),
        ("seed=" + "[" * 999, "no YAML"),
        ("seed=" + "x" * 999, "seed: Input should be"),
    ],
)
def test_bad_values_are_refused_in_one_line(change, said):
    message = refusal(change)
    assert said in message
    assert "\n" not in message
    assert len(message) < 400


def test_all_problems_are_told_at_once():
    message = refusal("schedule.epochs=0", "wrong=1", "seed=-1")
    assert all(part in message for part in ("schedule.epochs", "unknown key wrong", "seed"))


def test_messages_stay_short_whatever_is_missing(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in VALUES.items() if key != "detection"}))
    message = refusal(name=str(path))
    assert "detection" in message
    assert len(message) < 300


def test_an_unknown_config_is_refused_with_the_nearest():
    assert "did you mean richsem_r50_inet_lvis?" in refusal(name="richsem_r50_inetlvis")


@pytest.mark.parametrize(
    "content",
    [b"a: [", b"- 1\n", b"", b"3: 4\n", b"\xff\xfe\x00", b"x" * (2**20 + 1), b"base: nothing\n", b"base: [1]\n",
     b"[" * 999],
)  # fmt: skip
def test_files_that_are_no_config_are_refused(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    message = refusal(name=str(path))
    assert str(path) in message
    assert "\n" not in message


def test_a_file_may_build_on_a_config_of_the_package(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: demo\nname: mine\nschedule: {epochs: 9}\n")
    config = load_config(str(path))
    demo = load_config("demo")
    assert (config.name, config.schedule.epochs) == ("mine", 9)
    assert set(config_differences(config, demo)) == {"name", "schedule.epochs"}


@pytest.mark.parametrize("name", builtin_configs())
def test_a_config_written_and_read_is_the_same(name, tmp_path):
    config = load_config(name)
    path = tmp_path / "config.yaml"
    path.write_text(config_yaml(config))
    assert load_config(str(path)) == config


@pytest.mark.parametrize("key", known_keys())
def test_every_key_says_what_it_is(key):
    assert known_keys()[key].description.endswith(".")


def test_an_old_key_is_refused_with_the_new_one():
    assert "unknown key text.labels; it is text.label_set now" in refusal("text={cache: c, labels: x}")
    assert load_config("demo", ["text={cache: c, label_set: x}"]).text.label_set == "x"


def test_the_tiny_config_of_the_tests_is_valid():
    values = {**VALUES, "extra": {**VALUES["extra"], "cache": "somewhere"}}
    assert parse_config(values, source="tests").name == "tiny"


def several(base, *others):
    values = base.model_dump(mode="json")
    return values | {"extra": [values["extra"], *others]}


def test_extra_data_may_be_several_caches(base):
    config = parse_config(several(base, {"cache": "more", "weight": 2}), source="x")
    assert {name: (str(each.cache), each.weight) for name, each in config.extras.items()} == {
        "extra.0": ("caches/demo", 1.0),
        "extra.1": ("more", 2.0),
    }
    changed = with_changes(config, ["extra.1.labels=topk"], source="x")
    assert [each.labels for each in changed.extras.values()] == ["embedding", "topk"]
    assert config_differences(config, changed) == {"extra.1.labels": ("embedding", "topk")}
    assert list(base.extras) == ["extra"]
    assert base.model_copy(update={"extra": None}).extras == {}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("extra.labels=topk", "there is a list of 2 here; say which one by its number, counted from 0"),
        ("extra.2.labels=topk", "there is a list of 2 here"),
        ("extra.1.lables=topk", "unknown key extra.1.lables; did you mean extra.labels?"),
        ("extra.1.weight=0", "extra.1.weight: Input should be greater than 0 (got 0)"),
    ],
)
def test_changes_of_several_caches_name_one(base, change, said):
    config = parse_config(several(base, {"cache": "more"}), source="x")
    with pytest.raises(RichSemError) as error:
        with_changes(config, [change], source="x")
    assert said in str(error.value)


def test_labels_of_whole_images_are_of_single_pictures_and_no_teachers(base):
    said = refusal("extra.supervision=image")
    assert "extra: supervision=image gives the largest box" in said
    assert "views=mosaics shows four pictures as one, with a label each; use views=crops" in said
    assert "views=free-mosaics" in refusal("extra.supervision=image", "extra.views=free-mosaics", "extra.labels=hard")
    said = refusal("extra.supervision=image", "extra.views=crops")
    assert "labels=embedding are the teacher's of their boxes, of which it shows none; use labels=hard" in said
    changes = ["extra.supervision=image", "extra.views=crops", "extra.labels=hard"]
    assert load_config("demo", [*changes, "model.semantic_branch=false"]).extra.supervision == "image"
    assert load_config("demo", [*changes, "extra.views=windows"]).extra.views == "windows"


@pytest.mark.parametrize("text", [{}, {"cache": "a", "folder": "b"}, {"folder": "b", "label_set": "c"}])
def test_text_comes_from_one_place(base, text):
    with pytest.raises(RichSemError, match=r"text: (name either text\.cache or text\.folder|text\.label_set names)"):
        parse_config(base.model_dump(mode="json") | {"text": text}, source="x")


def test_soft_labels_on_detection_pictures_need_a_cache(base):
    with pytest.raises(RichSemError, match=r"name it as detection\.cache, or train without them"):
        with_changes(base, ["detection.labels=cache"], source="x")
    assert with_changes(base, ["detection.labels=cache", "detection.cache=c", "extra=null"], source="x").text is None


@pytest.mark.parametrize("labels", ["none", "hard"])
def test_stored_views_need_the_labels_of_a_cache(base, labels):
    changes = ["detection.views=stored", f"detection.labels={labels}", "detection.cache=c"]
    with pytest.raises(RichSemError, match=rf"detection\.labels={labels} takes none; detection\.views=fresh augments"):
        with_changes(base, changes, source="x")
    changed = with_changes(base, [changes[0], "detection.labels=cache", "detection.cache=c"], source="x")
    assert changed.detection.views == "stored"


# --- augmentation ---------------------------------------------------------------------------------------------------


JITTER = "detection.augmentation={kind: scale-jitter, side: 96, factors: [0.5, 1.5]}"


def test_augmentation_by_scale_jitter_has_its_own_keys_alone(base):
    augmentation = load_config("demo", [JITTER]).detection.augmentation
    assert augmentation.model_dump() == {"kind": "scale-jitter", "side": 96, "factors": (0.5, 1.5), "flip": True}
    assert base.detection.augmentation.kind == "detr"


def test_a_written_config_keeps_its_kind_of_augmentation():
    for changes in ([], [JITTER]):
        config = load_config("demo", changes)
        assert parse_config(yaml.safe_load(config_yaml(config)), source="written") == config


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "detection.augmentation.kind=scale-jitter",
            "unknown key detection.augmentation.short_sides; it is of another detection.augmentation.kind than "
            "scale-jitter",
        ),
        ("detection.augmentation.side=64", "detection.augmentation.side; it is of another detection.augmentation.kind"),
        ("detection.augmentation.kind=lsj", "detection.augmentation.kind: 'lsj' is none of detr, scale-jitter"),
        (
            "detection.augmentation={kind: scale-jitter, factors: [2, 0.1]}",
            "the least of the factors, 2, is above the greatest, 0.1",
        ),
        ("detection.augmentation={kind: scale-jitter, factors: [0, 1]}", "detection.augmentation.factors.0: "),
        ("detection.augmentation={kind: scale-jitter, sides: 64}", "did you mean detection.augmentation.side?"),
    ],
)
def test_keys_that_the_other_kind_of_augmentation_has_are_refused(change, said):
    assert said in refusal(change)


def test_augmentation_of_another_kind_takes_the_place_of_the_bases(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: demo\nname: mine\ndetection: {augmentation: {kind: scale-jitter, side: 96}}\n")
    assert load_config(mine).detection.augmentation.side == 96
    mine.write_text("base: demo\nname: mine\ndetection: {augmentation: {kind: detr, flip: false}}\n")
    augmentation = load_config(mine).detection.augmentation
    assert (augmentation.short_sides, augmentation.flip) == ((128,), False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["loss.matcher.class_cost=3"],
            'loss.matcher is {"class_cost": 3.0, "bbox_cost": 5.0, "giou_cost": 2.0}, which ',
        ),
        (
            ["loss.image_negatives=true"],
            "loss.image_negatives is true, which model.detector=centernet-cascade has no use",
        ),
        (["model.queries=9"], "unknown key model.queries; it is of another model.detector than centernet-cascade"),
    ],
)
def test_what_the_chosen_detector_does_not_use_is_refused(changes, said):
    assert said in refusal(*changes, name="c2_demo")
    load_config("demo", changes)


def test_keys_of_another_detector_are_told_in_one_line():
    said = refusal("model.detector=dino", "schedule.epoch=1", name="c2_demo")
    assert said == (
        "c2_demo: unknown key model.roi_dim; it is of another model.detector than dino, like model.rois; "
        "leave such keys out; unknown key schedule.epoch; did you mean schedule.epochs?"
    )
