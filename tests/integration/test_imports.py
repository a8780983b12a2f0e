"""What each program imports before it is needed: seconds of torch and its like would be those of every command."""

import subprocess
import sys

import pytest

HEAVY = frozenset(
    {
        "IPython", "hotcoco", "litdata", "lvis", "matplotlib", "open_clip", "pandas", "pyarrow.dataset", "ray", "scipy",
        "sklearn", "tensorboard", "timm", "torch", "torchvision", "transformers", "triton", "wandb", "webdataset",
    }
)  # fmt: skip
"""Modules that take a tenth of a second or more to import."""

CALL = """
import sys
sys.argv = sys.argv[1:]
from {module} import main
try:
    main()
except SystemExit:
    pass
print("\\nimported:", *sys.modules, file=sys.stderr)
"""

DRIVER = """
import sys
from richsem_prep import cli, console
from richsem_prep.shard import run, estimate
from richsem_prep.executors import make_executor
import richsem_prep.executors.ray
print("\\nimported:", *sys.modules, file=sys.stderr)
"""


def imported_by(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("imported: ")[2].split())


def imported_by_command(program, *arguments):
    return imported_by(CALL.format(module=f"{program.replace('-', '_')}.__main__"), program, *arguments)


@pytest.mark.parametrize(
    "arguments", [("richsem-prep", "--help"), ("richsem-prep", "shard", "--help"), ("richsem-train", "--help")]
)
def test_help_needs_nothing_of_arrays_networks_or_urls(arguments):
    modules = imported_by_command(*arguments)
    assert "typer" in modules
    assert sorted(modules & (HEAVY | {"numpy", "pyarrow", "PIL", "fsspec", "aiohttp"})) == []


@pytest.mark.parametrize("option", ["--list-configs", "--show-config"])
def test_configs_are_read_without_anything_heavy(option):
    modules = imported_by_command("richsem-train", option)
    assert "yaml" in modules
    assert sorted(modules & (HEAVY | {"fsspec"})) == []


@pytest.mark.parametrize("command", ["verify", "inspect", "finish"])
def test_commands_that_read_a_cache_need_no_network_and_no_ray(command, tmp_path):
    modules = imported_by_command("richsem-prep", command, str(tmp_path / "none"))
    assert "pyarrow" in modules
    assert sorted(modules & HEAVY) == []


def test_the_driver_of_shard_leaves_everything_heavy_to_its_workers():
    modules = imported_by(DRIVER)
    assert "pyarrow" in modules
    assert sorted(modules & HEAVY) == []
