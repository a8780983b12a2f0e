"""OUT holds one run: begun once, gone on with only when asked, and only with the same config."""

import pytest

from richsem_schemas.errors import RichSemError
from richsem_train.config import load_config, with_changes
from richsem_train.run_folder import RunFolder


@pytest.fixture(scope="module")
def config():
    return load_config("demo")


@pytest.fixture
def folder(tmp_path, config):
    folder = RunFolder(tmp_path / "runs" / "one")
    folder.check(config, resume=False)
    folder.claim(config)
    return folder


def test_a_new_folder_is_made_and_remembers_its_config(folder, config):
    assert load_config(str(folder.config)) == config


def test_an_empty_folder_may_be_taken(tmp_path, config):
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").check(config, resume=False)


def test_a_second_run_in_the_same_folder_is_refused(folder, config):
    with pytest.raises(RichSemError, match=r"holds a run already.*--resume, or name another --out"):
        RunFolder(folder.out).check(config, resume=False)


@pytest.mark.parametrize("make", ["file", "folder"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, config, make):
    out = tmp_path / "out"
    if make == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
    with pytest.raises(RichSemError, match="holds something that is no run"):
        RunFolder(out).check(config, resume=False)
    assert {path.read_text() for path in (out, *out.glob("*")) if path.is_file()} == {"mine"}


def test_a_resume_without_a_run_is_refused(tmp_path, config):
    with pytest.raises(RichSemError, match="holds no run to go on with"):
        RunFolder(tmp_path).check(config, resume=True)


def test_a_resume_with_another_config_names_each_field_and_both_values(folder, config):
    changed = with_changes(config, ["schedule.lr=0.5", "seed=3", "extra.views=crops"], source="here")
    with pytest.raises(RichSemError) as refused:
        folder.check(changed, resume=True)
    message = str(refused.value)
    assert "schedule.lr is 0.001 there, 0.5 here" in message
    assert "seed is 0 there, 3 here" in message
    assert "extra.views is 'mosaics' there, 'crops' here" in message
    assert load_config(str(folder.config)) == config


@pytest.mark.parametrize(
    "change",
    ["workers=7", "data=elsewhere", "schedule.epochs=99", "extra.cache=moved", "log.every_steps=1",
     "evaluation.batch_size=2", "extra.on_damage=skip", "detection.on_damage=skip", "schedule.accumulate=2",
     "model.deformable_attention=torch"],
)  # fmt: skip
def test_a_resume_may_change_what_the_weights_do_not_depend_on(folder, config, change):
    changed = with_changes(config, [change], source="here")
    folder.check(changed, resume=True)
    folder.claim(changed)
    assert load_config(str(folder.config)) == changed


def test_a_damaged_config_of_a_run_is_named(folder, config):
    folder.config.write_text("{")
    with pytest.raises(RichSemError, match="config"):
        folder.check(config, resume=True)


def test_checking_writes_nothing(tmp_path, config):
    RunFolder(tmp_path / "new").check(config, resume=False)
    assert not (tmp_path / "new").exists()
