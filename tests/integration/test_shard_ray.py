"""The shard job on Ray, with workers, nodes and drivers killed: the bytes are always those of an undisturbed run."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

from richsem_schemas.cache.reader import open_cache
from tests.integration.processes import Command, run
from tests.integration.shard_job import tar_hashes
from tests.pictures import write_pictures

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

SHARDS = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("data") / "pictures", 4 * SHARDS)


def arguments(source, out, resnet, *more):
    return (
        "shard", "--dataset", "folder", "--root", source, "--out", out, "--teacher", resnet, "--teacher-size", "160",
        "--samples-per-shard", "4", "--mosaics", "1", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(source, resnet, tmp_path_factory):
    out = tmp_path_factory.mktemp("caches") / "inline"
    code, output = run(*arguments(source, out, resnet, "--executor", "inline"))
    assert code == 0, output
    return out


def receipts(out):
    return len(list(out.glob("receipts/labels/*/*.json")))


def wait_for_receipts(command, out, count, timeout=240):
    deadline = time.monotonic() + timeout
    while receipts(out) < count and command.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def workers_of(command):
    family = psutil.Process(command.process.pid).children(recursive=True)
    return [child for child in family if "RayWorker" in " ".join(child.cmdline() or [child.name()])]


def same_cache(out, other):
    assert tar_hashes(out) == tar_hashes(other)
    assert (out / "manifest.json").read_bytes() == (other / "manifest.json").read_bytes()
    assert [m.fingerprint for m in open_cache(out).label_sets.values()] == [
        m.fingerprint for m in open_cache(other).label_sets.values()
    ]
    assert not list(out.rglob("*.tmp"))


def test_two_workers_one_of_them_killed_give_the_bytes_of_one_inline(source, resnet, undisturbed, tmp_path):
    command = Command(*arguments(source, tmp_path / "c", resnet, "--workers", "2"))
    wait_for_receipts(command, tmp_path / "c", 1)
    workers = workers_of(command)
    assert workers
    workers[0].kill()
    code, output = command.wait()
    assert code == 0, output
    assert "throughput" in output
    same_cache(tmp_path / "c", undisturbed)


@pytest.mark.slow
def test_one_worker_gives_the_bytes_of_two(source, resnet, undisturbed, tmp_path):
    code, output = run(*arguments(source, tmp_path / "c", resnet, "--workers", "1"))
    assert code == 0, output
    same_cache(tmp_path / "c", undisturbed)


def test_a_killed_driver_is_resumed_to_the_same_bytes(source, resnet, undisturbed, tmp_path):
    out = tmp_path / "c"
    command = Command(*arguments(source, out, resnet, "--workers", "2"))
    wait_for_receipts(command, out, 2)
    command.kill()
    done = receipts(out)
    assert 0 < done <= SHARDS
    code, output = run(*arguments(source, out, resnet, "--workers", "1"))
    assert code == 0, output
    same_cache(out, undisturbed)


@pytest.mark.parametrize(
    "seconds", [pytest.param(0.1, marks=pytest.mark.slow), 0.7, pytest.param(1.5, marks=pytest.mark.slow)]
)
def test_an_inline_run_killed_at_any_moment_is_resumed_to_the_same_bytes(
    source, resnet, undisturbed, tmp_path, seconds
):
    out = tmp_path / "c"
    command = Command(*arguments(source, out, resnet, "--executor", "inline"))
    while not (out / "plan").exists() and command.process.poll() is None:
        time.sleep(0.01)
    time.sleep(seconds)
    command.kill()
    code, output = run(*arguments(source, out, resnet, "--executor", "inline"))
    assert code == 0, output
    same_cache(out, undisturbed)


def test_two_jobs_on_one_cache_are_refused_and_ctrl_c_keeps_what_is_done(source, resnet, undisturbed, tmp_path):
    out = tmp_path / "c"
    first = Command(*arguments(source, out, resnet, "--executor", "inline"))
    while not (out / "plan" / "plan.json").exists() and first.process.poll() is None:
        time.sleep(0.01)
    # It would be through before the second has begun.
    first.process.send_signal(signal.SIGSTOP)
    code, output = run(*arguments(source, out, resnet, "--executor", "inline"))
    first.process.send_signal(signal.SIGCONT)
    assert code == 1
    assert f"is in use by process {first.process.pid}" in output
    wait_for_receipts(first, out, 1)
    os.killpg(first.process.pid, signal.SIGINT)
    code, output = first.wait()
    assert code == 130, output
    assert "finished shards are kept" in output
    assert "Traceback" not in output
    code, output = run(*arguments(source, out, resnet, "--executor", "inline"))
    assert code == 0, output
    same_cache(out, undisturbed)


@contextmanager
def two_nodes(env):
    """A cluster's process, and the next line that it prints, each time it is asked."""
    script = Path(__file__).with_name("ray_nodes.py")
    process = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | env
    )
    lines = (line.strip() for line in process.stdout if not line.startswith("["))
    try:
        yield process, partial(next, lines)
    finally:
        process.stdin.close()
        process.wait(120)


def test_a_cluster_that_loses_a_node_still_finishes(source, resnet, undisturbed, tmp_path):
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0"}
    with two_nodes(env) as (cluster, said):
        address = said()
        out = tmp_path / "c"
        command = Command(*arguments(source, out, resnet, "--ray-address", address, "--workers", "2"), env=env)
        wait_for_receipts(command, out, 2)
        print(file=cluster.stdin, flush=True)
        assert said() == "lost"
        code, output = command.wait()
        assert code == 0, output
        same_cache(out, undisturbed)


def test_a_cluster_without_the_token_is_not_joined(source, resnet, tmp_path):
    env = {"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    code, output = run(*arguments(source, tmp_path / "c", resnet, "--ray-address", "127.0.0.1:1"), env=env)
    assert code == 1
    assert "RAY_AUTH_TOKEN" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("helper", ["gcs_server", "raylet"])
def test_one_of_rays_own_processes_killed_while_it_starts_is_an_error_within_two_minutes(
    source, resnet, tmp_path, helper
):
    command = Command(*arguments(source, tmp_path / "c", resnet, "--workers", "1"))
    start = time.monotonic()
    while time.monotonic() - start < 120:
        family = psutil.Process(command.process.pid).children(recursive=True)
        if found := [child for child in family if child.name() == helper]:
            # Late enough for others to know it.
            time.sleep(0.7)
            found[0].kill()
            break
        time.sleep(0.01)
    code, output = command.wait(150)
    assert code == 1
    assert "error: Ray can't start here: " in output
    assert "--executor inline" in output
    assert "Traceback" not in output
