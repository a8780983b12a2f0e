"""`train(...)` from Python: what it takes, what it gives back, and what it refuses."""

import json
import subprocess
import sys
from threading import Thread

import pytest
import yaml

import richsem_train
from richsem_prep.demo.dataset import write_demo
from richsem_schemas.errors import RichSemError
from richsem_train.config import as_config, config_yaml, load_config
from richsem_train.console import SilentReporter
from tests.trainer.tiny import losses_of, one_thread

PICTURES = 16


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The values of a config of a few steps on the demo's detection pictures, without a cache."""
    data = tmp_path_factory.mktemp("data")
    write_demo(data / "demo", pictures_per_class=1, val_instances_per_class=2)
    for path in (data / "demo" / "detection" / "annotations").iterdir():
        content = json.loads(path.read_text())
        content["images"] = content["images"][:PICTURES]
        kept = {image["id"] for image in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
        path.write_text(json.dumps(content))
    return {
        "base": "demo",
        "name": "trial",
        "data": str(data),
        "workers": 0,
        "extra": None,
        "detection": {"repeat_threshold": None},
        "model": {"classifier": "linear", "encoder_classifier": "linear", "semantic_branch": False},
        "schedule": {"epochs": 1},
        "log": {"every_steps": 1, "tensorboard": False},
    }


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    with one_thread():
        return richsem_train.train(demo, tmp_path_factory.mktemp("runs") / "out", device="cpu")


def test_a_run_gives_back_its_folder_and_figures(trained):
    assert trained.stopped_by is None
    assert len(losses_of(trained.out)) == trained.last.step == PICTURES // 8
    assert trained.best.metrics == trained.last.metrics
    assert trained.last.metrics["AP"] >= 0
    assert trained.table.title.startswith("trial, step 2")
    assert json.loads((trained.out / "results.json").read_text())["metrics"]["AP"] == trained.last.metrics["AP"]
    assert (trained.out / "checkpoints" / "best.pt").is_file()
    assert load_config(trained.out / "config.yaml").name == "trial"


def test_runs_go_to_a_folder_of_their_name_and_show_progress_unless_told_otherwise(
    demo, trained, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with one_thread():
        shown = richsem_train.train(demo, device="cpu")
        assert "2 steps of 8 pictures" in " ".join(capsys.readouterr().err.split())
        silent = richsem_train.train(as_config(demo), "quiet", device="cpu", reporter=SilentReporter())
    assert str(shown.out) == "runs/trial"
    assert capsys.readouterr() == ("", "")
    assert losses_of(shown.out) == losses_of(silent.out) == losses_of(trained.out)


def test_a_run_goes_on_from_python_and_in_other_threads_than_the_main_one(demo, trained, tmp_path):
    config = as_config(demo)
    longer = as_config(demo | {"schedule": {"epochs": 2}})
    results = []

    def run():
        with one_thread():
            richsem_train.train(config, tmp_path / "out", device="cpu", reporter=SilentReporter())
            results.append(
                richsem_train.train(longer, tmp_path / "out", device="cpu", reporter=SilentReporter(), resume=True)
            )

    thread = Thread(target=run)
    thread.start()
    thread.join()
    assert results[0].last.step == 4
    assert losses_of(tmp_path / "out")[:2] == losses_of(trained.out)


def test_a_config_is_a_name_a_file_or_values_over_a_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("base: demo\nseed: 3\n")
    for same in (path, str(path), {"base": "demo", "seed": 3}, load_config("demo", ["seed=3"])):
        assert as_config(same) == load_config("demo", ["seed=3"])
    assert as_config("demo") == as_config(yaml.safe_load(config_yaml(load_config("demo"))))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("demos", "did you mean demo?"),
        ({"base": "demo", "sede": 3}, "config: unknown key sede; did you mean seed?"),
        ({"base": "mine"}, "config: its base 'mine' is none of"),
        ({3: 4}, "config: no config; expected keys such as `detection:` and `model:`"),
        ({}, "detection: Field required"),
    ],
)
def test_what_is_no_config_is_refused_in_words(tmp_path, config, said):
    with pytest.raises(RichSemError) as refused:
        richsem_train.train(config, tmp_path / "out")
    assert said in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_values_that_a_config_is_made_of_stay_as_they_are():
    values = {"base": "demo", "schedule": {"epochs": 3}}
    as_config(values)
    assert values == {"base": "demo", "schedule": {"epochs": 3}}


def test_the_package_is_imported_without_torch():
    code = "import sys, richsem_train; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_the_package_lacks_is_no_attribute():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = richsem_train.trian
