import os
import signal
import socket
import subprocess
import sys

import pytest

from richsem_schemas.cache.jobs import JOBS_FOLDER, hold_job, one_at_a_time
from richsem_schemas.errors import RichSemError

HOLDER = """
import sys
from pathlib import Path
from richsem_schemas.cache.jobs import hold_job
shards = range(int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 2 else None
with hold_job(Path(sys.argv[1]), shards):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def start():
    """Start another process that holds a job until it is told to end."""
    processes = []

    def start(out, *bounds):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(out), *map(str, bounds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        if process.stdout.readline() != "held\n":
            process.wait(10)
            raise AssertionError(process.stderr.read())
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


def claims(out):
    return sorted(path.name for path in (out / JOBS_FOLDER).glob("*.json"))


def test_a_second_process_is_refused_with_the_first_ones_pid_and_host(tmp_path, start):
    first = start(tmp_path)
    with pytest.raises(RichSemError) as caught, hold_job(tmp_path, None):
        pass
    message = str(caught.value)
    assert f"process {first.pid} on {socket.gethostname()}" in message
    assert str(tmp_path) in message
    assert "--shard-range" in message
    assert first.poll() is None


def test_another_process_is_refused_as_well_as_this_one(tmp_path, start):
    with hold_job(tmp_path, None), pytest.raises(AssertionError, match=f"in use by process {os.getpid()} "):
        start(tmp_path)


def test_a_refused_job_takes_nothing_from_the_first(tmp_path, start):
    start(tmp_path)
    before = claims(tmp_path)
    for _ in range(2):
        with pytest.raises(RichSemError), hold_job(tmp_path, None):
            pass
    assert claims(tmp_path) == before


def test_a_job_that_ends_frees_its_shards(tmp_path, start):
    first = start(tmp_path)
    first.stdin.close()
    assert first.wait(10) == 0
    assert claims(tmp_path) == []
    with hold_job(tmp_path, None):
        assert len(claims(tmp_path)) == 1
    assert claims(tmp_path) == []


def test_a_job_that_fails_frees_its_shards(tmp_path):
    with pytest.raises(OSError, match="disk"), hold_job(tmp_path, None):
        raise OSError("disk")
    with hold_job(tmp_path, None):
        pass


def test_a_killed_holder_does_not_block(tmp_path, start):
    first = start(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    assert claims(tmp_path)  # it had no chance to clean up
    with hold_job(tmp_path, None):
        assert claims(tmp_path) == [f"{socket.gethostname()}-{os.getpid()}.json"]


def test_a_stopped_holder_still_holds(tmp_path, start):
    first = start(tmp_path)
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(RichSemError, match=f"process {first.pid} "), hold_job(tmp_path, None):
        pass
    first.send_signal(signal.SIGCONT)


def test_disjoint_ranges_run_side_by_side(tmp_path, start):
    start(tmp_path, 0, 4)
    start(tmp_path, 8, 12)
    with hold_job(tmp_path, range(4, 8)):
        assert len(claims(tmp_path)) == 3


@pytest.mark.parametrize("shards", [range(4), range(3, 5), range(2), range(1, 2), range(3, 100), None])
def test_overlapping_ranges_are_refused(tmp_path, start, shards):
    first = start(tmp_path, 0, 4)
    with pytest.raises(RichSemError, match=f"process {first.pid} "), hold_job(tmp_path, shards):
        pass


def test_the_overlapping_one_of_several_jobs_is_named(tmp_path, start):
    start(tmp_path, 0, 4)
    second = start(tmp_path, 4, 8)
    with pytest.raises(RichSemError, match=f"process {second.pid} "), hold_job(tmp_path, range(7, 9)):
        pass


def test_a_job_on_everything_keeps_any_range_out(tmp_path, start):
    start(tmp_path)
    with pytest.raises(RichSemError, match="in use"), hold_job(tmp_path, range(5, 6)):
        pass


def test_another_out_is_free(tmp_path, start):
    start(tmp_path / "a")
    with hold_job(tmp_path / "b", None):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"pid": 3}'])
def test_claims_that_no_process_holds_are_swept_whatever_they_say(tmp_path, content):
    (tmp_path / JOBS_FOLDER).mkdir()
    (tmp_path / JOBS_FOLDER / "host-1.json").write_bytes(content)
    with hold_job(tmp_path, None):
        assert "host-1.json" not in claims(tmp_path)


def test_the_plan_is_written_by_one_at_a_time(tmp_path):
    (tmp_path / JOBS_FOLDER).mkdir()
    script = (
        "import sys; from pathlib import Path; from richsem_schemas.cache.jobs import one_at_a_time\n"
        "with one_at_a_time(Path(sys.argv[1])): print('in', flush=True); sys.stdin.read()"
    )
    with one_at_a_time(tmp_path):
        other = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)
    try:
        assert other.stdout.readline() == "in\n"
    finally:
        other.communicate("")
    assert other.returncode == 0
