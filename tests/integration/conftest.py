import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from richsem_prep.demo.geometry import GEOMETRY
from richsem_prep.sources import datasets
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


def use_small_views(patch, *names):
    """Views of these datasets at a fifth of their size, for tests of what doesn't depend on it."""
    for name in names:
        patch.setitem(datasets.DATASETS, name, replace(datasets.DATASETS[name], geometry=GEOMETRY))


@pytest.fixture(scope="module")
def small_views():
    with pytest.MonkeyPatch.context() as patch:
        use_small_views(patch, "folder")
        yield


def jpeg(seed, hw=(48, 64)):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((hw[1], hw[0]))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG")
    return buffer.getvalue()


def write_pictures(root: Path, count: int, *, classes=3):
    for number in range(count):
        folder = root / f"class_{number % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:05d}.jpg").write_bytes(jpeg(number, (40 + number % 17, 50 + number % 23)))
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """A folder of 90 small pictures in three classes, with one that is broken."""
    root = write_pictures(tmp_path_factory.mktemp("data") / "pictures", 90)
    (root / "class_0" / "broken.jpg").write_bytes(jpeg(1)[:200])
    return root


def tar_hashes(out: Path):
    """Content of all shards and indexes by name."""
    files = [*out.glob("pictures/*.tar"), *out.glob("labels/*/*.tar"), *out.glob("index/**/*.parquet")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(files)}


def heed_ctrl_c():
    """Undo what a shell does to the SIGINT of its background jobs, whose children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Command:
    """`richsem-prep` as a user starts it."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "richsem_prep", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {}), "COLUMNS": "120"},
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )

    def wait(self, timeout=300):
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(*arguments, env=None):
    return Command(*arguments, env=env).wait()


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
