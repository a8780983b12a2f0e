"""Every command and snippet of the documentation works: Python and the demo's commands run, the others are parsed."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from PIL import Image

from docs.reference import commands_of
from richsem_prep.cli import app as prep
from richsem_train.cli import app as train
from richsem_train.config import DEFAULT_CONFIG, builtin_configs, load_config
from tests.docs.blocks import BLOCKS, PAGES, ROOT, blocks_in, blocks_of, name_of, program_calls

APPS = {"richsem-prep": prep, "richsem-train": train}

TOUR = "docs/index.md"
RUN = ("docs/analyses.md", "docs/experiments.md", "docs/teachers.md", "docs/trust.md")
"""Pages whose commands on the demo are run by default."""

NOT_RUN = {
    "CONTRIBUTING.md": "runs the tests",
    "README.md": "needs LVIS and ImageNet, or takes what the tour takes",
    "benchmarks/gpu/README.md": "needs a GPU; its own test runs it in small",
    "docker/README.md": "needs Docker",
    "docs/clusters.md": "needs a Ray cluster",
    "docs/commands/richsem-prep.md": "examples of the help, on data that is not here",
    "docs/commands/richsem-train.md": "examples of the help, on data that is not here",
    "docs/configs.md": "needs LVIS",
    "docs/format.md": "run by test_format.py, and compared with what is shown",
    "docs/own-pictures.md": "needs pictures of one's own; test_train_new.py runs the same on five folders",
    "docs/places.md": "needs a bucket; tests of places use a server of their own",
    "docs/protocols.md": "needs LVIS",
    "docs/report.md": "needs runs of one's own; test_report.py does the same with small ones",
    "docs/sharing.md": "needs an account on the hub; tests of the hub use a server of their own",
    "docs/slurm.md": "needs Slurm",
    "docs/small.md": "needs pictures of one's own, and CLIP's weights",
    "docs/table4.md": "needs LVIS and ImageNet, or published weights",
    "docs/training.md": "needs LVIS, COCO or published weights",
    "docs/datasets": "needs the data",
}

NO_CONFIG = {"docker/README.md": "a part of compose.yaml"}
"""Pages whose YAML is something else."""

OF_OTHER_PROGRAMS = {
    *("--build-arg", "--entrypoint", "--env", "--gpus", "--network", "--shm-size", "--time"),  # docker
    *("--address", "--num-cpus"),  # Ray
    *("--array", "--exclusive", "--requeue", "--signal"),  # Slurm
    *("--nnodes", "--nproc-per-node", "--rdzv-"),  # torchrun
    *("--before", "--cache", "--costs", "--repeats", "--rounds", "--shards", "--side"),  # benchmarks
}

FIVE_NAMES = ["dotted_blue_circle", "plain_red_star", "striped_cyan_heart", "striped_green_ring", "plain_yellow_moon"]


def options_of(app):
    """Every option of a program and of its commands."""
    group = typer.main.get_command(app)
    commands = (group, *(command for _, command in commands_of(group)))
    parameters = [parameter for command in commands for parameter in command.params]
    return {"--help"} | {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


KNOWN = options_of(prep) | options_of(train)


def test_every_block_says_what_it_is():
    assert {block.language for block in BLOCKS} == {"bibtex", "console", "json", "python", "sh", "text", "yaml"}


def test_commands_of_every_page_are_run_or_it_is_said_why_not():
    pages = {name_of(block.page) for block in blocks_in("sh", "console")}
    told = {*NOT_RUN, *RUN, TOUR}
    assert {page for page in pages if page not in told and str(Path(page).parent) not in told} == set()


@pytest.mark.parametrize("block", blocks_in("sh", "console"), ids=str)
def test_scripts_are_shell(block):
    subprocess.run(["bash", "-n"], input=block.script, text=True, check=True)


@pytest.mark.parametrize(
    "block", [each for each in blocks_in("sh", "console") if [*program_calls(each.script)]], ids=str
)
def test_our_programs_take_the_command_lines_that_are_shown(block, tmp_path, monkeypatch):
    write_configs(block.page, tmp_path)
    for program, arguments in program_calls(block.script):
        for values in taken(program, arguments, monkeypatch):
            if "changes" in values:
                check_changes(values.get("config"), values["changes"] or [], tmp_path)


def taken(program, arguments, monkeypatch):
    """The values that a program and its command are given: all is parsed and converted, nothing is done."""
    group = typer.main.get_command(APPS[program])
    given = []
    for command in (group, *(command for _, command in commands_of(group))):
        monkeypatch.setattr(command, "callback", lambda **values: given.append(values))
    with contextlib.suppress(typer.Exit):
        group.main(arguments, standalone_mode=False)
    return given


def write_configs(page, folder):
    """The YAML of a page, under the names that it has there."""
    for block in blocks_of(page):
        if block.language == "yaml" and (named := re.match(r"# (\w+\.yaml)", block.text)):
            (folder / named[1]).write_text(block.text)


def check_changes(config, changes, folder):
    """What `--set` changes are keys and values of configs; of one that the page doesn't show, those of the default."""
    if config not in builtin_configs():
        config = str(folder / config) if config and (folder / config).is_file() else DEFAULT_CONFIG
    load_config(config, changes)


@pytest.mark.parametrize("block", [each for each in blocks_in("yaml") if name_of(each.page) not in NO_CONFIG], ids=str)
def test_yaml_is_a_config(block, tmp_path):
    path = tmp_path / "config.yaml"
    # What shows one section says nothing of the others.
    path.write_text(block.text if "base" in yaml.safe_load(block.text) else f"base: {DEFAULT_CONFIG}\n{block.text}")
    load_config(str(path))


@pytest.mark.parametrize("block", blocks_in("json"), ids=str)
def test_json_is_json(block):
    json.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_that_the_prose_names_exist(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = {
        option for code in re.findall(r"`([^`]+)`", prose) for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", code)
    }
    assert named - KNOWN - OF_OTHER_PROGRAMS == set()


def test_targets_that_are_shown_are_made():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = {
        target
        for page in PAGES
        for target in re.findall(r"(?:^|`)make ([a-z0-9-]+)", page.read_text(encoding="utf-8"), re.M)
    }
    assert {target for target in shown if not re.search(rf"^{target}\b.*:", makefile, re.MULTILINE)} == set()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A folder with a small cache of the demo in `caches/demo`; for reading only."""
    folder = tmp_path_factory.mktemp("demo")
    script = "richsem-prep shard --dataset demo --root data/demo --limit 64 --samples-per-shard 32 --executor inline"
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run_all(script)
    return folder


@pytest.fixture
def place(demo, tmp_path, monkeypatch, world):
    """A folder where the snippets find what they name."""
    (tmp_path / "data").symlink_to(demo / "data")
    shutil.copytree(demo / "caches", tmp_path / "caches")
    # The demo's labels under the names of another page's cache.
    (tmp_path / "caches/inet-lvis/labels").mkdir(parents=True)
    (tmp_path / "caches/inet-lvis/labels/RN50-openai").symlink_to(demo / "caches/demo/labels/demo")
    (tmp_path / "mine.txt").write_text("\n".join(FIVE_NAMES))
    world.write_config(tmp_path / "mine.yaml", name="mine", schedule__epochs=1)
    for picture in ("photo.jpg", "photos/1.jpg", "more/2.jpg"):
        (tmp_path / picture).parent.mkdir(exist_ok=True)
        Image.new("RGB", (90, 60), "teal").save(tmp_path / picture)
    monkeypatch.chdir(tmp_path)
    # What text the teacher has read is remembered there.
    monkeypatch.setenv("XDG_CACHE_HOME", str(demo / "cache"))
    return tmp_path


def run_all(script):
    """Run the command lines of a script in this process, where mistakes are errors."""
    for program, arguments in program_calls(script):
        assert not typer.main.get_command(APPS[program]).main(arguments, standalone_mode=False)


@pytest.mark.parametrize("page", RUN)
def test_commands_on_the_demo_run_in_the_order_of_their_page(page, place, capsys):
    scripts = [block.script for block in blocks_of(ROOT / page) if block.language == "sh" and "demo" in block.script]
    for script in scripts:
        run_all(script)
    assert capsys.readouterr().out


@pytest.mark.parametrize("page", sorted({block.page for block in blocks_in("python")}), ids=name_of)
def test_python_runs(page, place):
    script = "\n".join(block.text for block in blocks_of(page) if block.language == "python")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "hub")}
    subprocess.run([sys.executable, "-c", script], cwd=place, env=environment, check=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tour_runs(tmp_path):
    """Ten minutes and more on two cores."""
    scripts = [
        block.script for block in blocks_of(ROOT / TOUR) if block.language == "sh" and "make" not in block.script
    ]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("RICHSEM_DATA", None)
    for script in scripts:
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "runs/demo/checkpoints/best.safetensors").is_file()
