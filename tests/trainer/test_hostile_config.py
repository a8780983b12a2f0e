"""YAML is anybody's: whatever it holds is read or refused in one line, in a second and little memory."""

import resource
import time

import pytest
import yaml

from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config
from tests.trainer.bounds import BOUNDS
from tests.trainer.tiny import VALUES

LAUGHS = "x: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"x{number}: &a{number} [{','.join(['*a' + str(number - 1 if number else '')] * 10)}]\n" for number in range(9)
)
MERGED_LAUGHS = "a0: &a0 {q: 1}\n" + "".join(
    f"a{number}: &a{number} {{<<: [{','.join([f'*a{number - 1}'] * 10)}]}}\n" for number in range(1, 12)
)


def refusal(action):
    start = time.process_time()
    with pytest.raises(RichSemError) as error:
        action()
    assert time.process_time() - start < 3
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("!!int x", "invalid literal"),
        ("!!float x", "could not convert"),
        ("!!bool x", "a value isn't what its tag"),
        ("!!timestamp x", "a value isn't what its tag"),
        ("!!timestamp 2020-99-99", "month must be in 1..12"),
        ("!!binary é", "no YAML"),
        ("!!int {a: 1}", "expected a scalar"),
        ("!!omap [a]", "expected a mapping"),
        ("!!set [a]", "expected a mapping"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("!mine x", "could not determine a constructor"),
        ("{[1]: 2}", "unhashable"),
        ("{<<: [1]}", "expected a mapping for merging"),
        ("&a [*a]", "an alias stands for what it is part of"),
        ("&a {x: *a}", "an alias stands for what it is part of"),
        ("&a {x: &b [*a, *b]}", "an alias stands for what it is part of"),
        ("*a", "undefined alias"),
        ("1\n---\n2", "another document"),
        ("\0", "special characters"),
        ("\ud800", "special characters"),
        ("9" * 5000, "a number of 5,000 letters"),
        ("-0x" + "f" * 9000, "a number of 9,003 letters"),
        ("0." + "1" * 5000, "a number of 5,002 letters"),
        ("1" + ":1" * 50_000, "a number of 100,001 letters"),
        ("[" + "[" * 900, "recursion"),
        ("'" + "9" * 5000 + "'", "exceeded maximum size"),
        ("2020-01-01", "valid integer"),
        (".inf", "finite"),
        ("1.0e+400", "finite"),
        ("1e400", "valid integer"),
        ("9223372036854775808", "less than 9223372036854775808"),
        ("1" + "0" * 90, "less than 9223372036854775808"),
        ("-1", "greater than or equal to 0"),
    ],
)
def test_values_of_a_seed_that_are_none(value, said):
    assert said in refusal(lambda: load_config("demo", [f"seed={value}"]))


@pytest.mark.parametrize(
    "change",
    [
        "workers=1000000", "schedule.epochs=99999999999", "schedule.global_batch_size=3000000000",
        "model.queries=1000000000000", "model.ffn_dim=1.0e+12", "schedule.lr=1e400", "schedule.lr=-.inf",
        "cache_gb=1e300", "cache_gb=.nan", "detection.repeat_threshold=1e999", "evaluation.short_side=1e19",
        "evaluation.longest_side=8193", "detection.augmentation.longest_side=100000",
        "log.every_steps=4294967296", "extra.lanes=99999999999999999999",
    ],
)  # fmt: skip
def test_numbers_beyond_what_a_field_holds_are_refused_by_the_field(change):
    assert f"demo: {change.partition('=')[0]}: Input should be" in refusal(lambda: load_config("demo", [change]))


def test_the_largest_seed_is_one():
    assert load_config("demo", [f"seed={2**63 - 1}"]).seed == 2**63 - 1


@pytest.mark.parametrize("name", ["a/b", "../x", "", '"a\\0b"', '"a\\nb"'])
def test_names_that_could_name_other_folders_are_refused(name):
    assert "name: " in refusal(lambda: load_config("demo", [f"name={name}"]))


@pytest.mark.parametrize("key", ["data", "start_from", "detection.train.images", "extra.cache", "text.cache"])
def test_no_path_holds_a_nul(key):
    assert "NUL" in refusal(lambda: load_config("demo", [f'{key}="a\\0b"']))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS, "more than 20,000 values"),
        (MERGED_LAUGHS, "more than 20,000 values"),
        ("[" + "1," * 500_000 + "]", "more than 20,000 values"),
        ("".join(f"k{number}: 1\n" for number in range(100_000)), "more than 20,000 values"),
        ("seed: 1" + ":1" * 400_000, "a number of 800,001 letters"),
        ("{a: " * 3000, "recursion"),
        ("name: &a [*a]", "an alias stands for"),
        ("seed: !!timestamp x", "its tag"),
        ("a: " * 100 + "1", "mapping values are not allowed"),
        ("&a : *a", "no config"),
        ("name: " + "x" * 1_000_000, "detection: Field required"),
    ],
    ids=["laughs", "merged", "list", "keys", "sexagesimal", "deep", "cycle", "tag", "colons", "null", "long"],
)
def test_files_that_could_fill_the_memory_are_refused_at_once(tmp_path, content, said):
    path = tmp_path / "c.yaml"
    path.write_text(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    message = refusal(lambda: load_config(str(path)))
    assert said in message
    assert str(path) in message
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_aliases_and_merges_of_people_are_read(tmp_path):
    values = VALUES | {"extra": VALUES["extra"] | {"cache": "c"}}
    split = values["detection"]["train"]
    text = (
        yaml.safe_dump(values)
        .replace("  train:\n", "  train: &split\n")
        .replace("  val:\n    annotations: val.json\n    images: val\n", "  val: {<<: *split, images: val}\n")
    )
    assert "<<: *split" in text
    path = tmp_path / "c.yaml"
    path.write_text(text)
    val = load_config(str(path)).detection.val
    assert (str(val.annotations), str(val.images)) == (split["annotations"], "val")


@pytest.mark.parametrize(("key", "value", "most"), BOUNDS)
def test_the_most_that_a_number_may_be_is_read_and_one_more_is_refused(key, value, most):
    changes = [] if not key.startswith("schedule.") else ["schedule.pictures_a_draw=1"]
    changes += (
        ["schedule.global_batch_size=65536"] if key in ("schedule.accumulate", "schedule.pictures_a_draw") else []
    )
    changes += ["detection.repeat_threshold=null"] if key == "detection.class_aware_pictures" else []
    load_config("demo", [*changes, f"{key}={most}"])
    assert f"{key}: Input should be less than or equal to {most}" in refusal(
        lambda: load_config("demo", [f"{key}={most + 1}"])
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (
            "base: demo\nschedule:\n  epochs: 1\nseed: 1\nschedule:\n  lr: 1.0e-3\n",
            "'schedule' is given twice, again in line 5",
        ),
        ("base: demo\nschedule:\n  epochs: 1\n  'epochs': 2\n", "'epochs' is given twice, again in line 4"),
        ("base: demo\nschedule: {epochs: 1, epochs: 2}\n", "'epochs' is given twice, again in line 2"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_by_its_name(tmp_path, text, key):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(RichSemError) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("value", ["010", "-010", "0_7", "1:30", "1:30.5", "[010]"])
def test_numbers_that_yaml_reads_to_another_base_are_refused(value):
    with pytest.raises(RichSemError, match="base 8 or 60"):
        load_config("demo", [f"seed={value}"])


@pytest.mark.parametrize(
    "change",
    [
        "seed=true",
        "workers=on",
        "schedule.lr=yes",
        "schedule.lr_drops=[true]",
        "log.wandb=no",
        "schedule.clip_norm=off",
    ],
)
def test_truth_values_stand_for_nothing_else(change):
    with pytest.raises(
        RichSemError, match=f"{change.partition('=')[0]}: true, false, yes, no, on and off are no value"
    ):
        load_config("demo", [change])


def test_plain_numbers_texts_in_quotes_and_truth_values_are_read():
    changes = [
        "seed=1_0",
        "schedule.lr=1e-3",
        "name='010'",
        "model.backbone.frozen_norm=no",
        "cache_gb=0.5",
        "workers=0",
    ]
    config = load_config("demo", changes)
    assert (config.seed, config.schedule.lr, config.name, config.workers) == (10, 1e-3, "010", 0)
    assert (config.model.backbone.frozen_norm, config.cache_gb) == (False, 0.5)
