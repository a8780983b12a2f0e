"""What both programs say of themselves: their versions, and what a shell completes."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

import richsem_prep.cli
import richsem_train.cli
from tests.integration.programs import call

PROGRAMS = {"richsem-prep": richsem_prep.cli, "richsem-train": richsem_train.cli}
SLOW = ("torch", "numpy", "pyarrow", "PIL", "ray", "open_clip", "yaml", "matplotlib", "rich.progress")


@pytest.fixture(params=PROGRAMS)
def name(request):
    return request.param


def test_versions_are_named_of_what_is_installed(capsys, name):
    assert call(PROGRAMS[name], name, "--version") == 0
    told = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert told["Python"] == platform.python_version()
    for package in ("richsem", "torch", "open_clip_torch", "ray"):
        assert told[package] == importlib.metadata.version(package)


def test_what_is_not_installed_has_no_version(capsys, name, monkeypatch):
    known = importlib.metadata.version

    def version(package):
        if package == "ray":
            raise importlib.metadata.PackageNotFoundError(package)
        return known(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert call(PROGRAMS[name], name, "--version") == 0
    assert "ray" not in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_is_shown_for_each_shell(capsys, name, shell, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = run_program(name, "--show-completion", shell)
    assert done.returncode == 0, done.stderr
    assert f"_{name.replace('-', '_').upper()}_COMPLETE" in done.stdout


def test_a_completion_is_installed_into_the_home_folder(name, tmp_path):
    done = run_program(name, "--install-completion", "bash", HOME=tmp_path)
    assert done.returncode == 0, done.stderr
    assert name in (tmp_path / ".bash_completions" / f"{name}.sh").read_text()
    assert ".bash_completions" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("richsem-prep re", ["rescore"]),
        ("richsem-prep shard --label", ["--label-set"]),
        ("richsem-prep shard --dataset inet", ["inet-lvis", "inet-21k", "inet-unlabeled"]),
        ("richsem-prep estimate --executor i", ["inline"]),
        ("richsem-train ev", ["eval"]),
        ("richsem-train eval x.pt --scorer ", ["hotcoco", "lvis"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(typed, offered):
    name, *words = typed.split(" ")
    variables = {"COMP_WORDS": typed, "COMP_CWORD": len(words)}
    done = run_program(name, **{f"_{name.replace('-', '_').upper()}_COMPLETE": "complete_bash", **variables})
    assert done.stdout.split() == offered, done.stderr


def test_help_loads_nothing_that_takes_long(name):
    script = (
        f"import sys; from {name.replace('-', '_')} import cli; sys.argv = ['x', '--help']\n"
        "try: cli.run()\n"
        f"finally: print([name for name in {SLOW!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "demo", "--set", "extra.cache=nowhere"], "nowhere holds no cache"),
        (["--config", "demo_baseline", "--set", "data=nowhere"], "can't be read"),
        (["eval", "nowhere.pt"], "there is no such checkpoint"),
        (["predict", "nowhere.pt", "a.jpg", "--out", "seen"], "there is no such checkpoint"),
        (["export", "nowhere.pt"], "there is no such checkpoint"),
    ],
)
def test_what_is_not_there_is_refused_before_pytorch_is_loaded(arguments, told, tmp_path):
    script = (
        "import sys; from richsem_train import cli; sys.argv[0] = 'richsem-train'\n"
        "try: cli.run()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    error, loaded = done.stderr.splitlines()
    assert (done.returncode, loaded) == (1, "False")
    assert told in error


def run_program(name, *arguments, **variables):
    """In a process of its own, under its own name, which completion is about."""
    script = f"import sys; from {name.replace('-', '_')} import cli; sys.argv[0] = {name!r}; cli.run()"
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment | {key: str(value) for key, value in variables.items()},
        capture_output=True,
        text=True,
        check=False,
    )
