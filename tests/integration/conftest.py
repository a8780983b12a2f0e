import os
import subprocess

import pytest

from richsem_prep import cli as prep_cli
from tests.integration.programs import call
from tests.integration.shard_job import use_small_views
from tests.pictures import jpeg, write_pictures
from tests.pipeline.teachers import RESNET, VIT, save_random_clip


@pytest.fixture(scope="session")
def resnet(tmp_path_factory):
    """`--teacher` of a small random CLIP ResNet."""
    return save_random_clip(tmp_path_factory.mktemp("teachers") / "resnet", RESNET)


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    """`--teacher` of a small random CLIP with a vision transformer."""
    return save_random_clip(tmp_path_factory.mktemp("teachers") / "vit", VIT)


@pytest.fixture(scope="session", autouse=True)
def _own_cache_home(tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def small_views():
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "folder")
        yield


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 90 small pictures in three classes, with one that is broken."""
    root = write_pictures(tmp_path_factory.mktemp("data") / "pictures", 90)
    (root / "class_0" / "broken.jpg").write_bytes(jpeg(1)[:200])
    return root


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many kB, or makes it larger; skipped where that isn't allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def resize(kilobytes):
        how = f"remount,size={kilobytes}k" if os.path.ismount(disk) else f"size={kilobytes}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", how, "none", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("mounting a small disk is not permitted here")
        return disk

    yield resize
    if os.path.ismount(disk):
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def prep(capsys, monkeypatch):
    """`richsem-prep` in this process; returns the exit code and all that it printed."""
    monkeypatch.setenv("COLUMNS", "80")

    def answer(*arguments):
        code = call(prep_cli, "richsem-prep", *arguments)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return answer
