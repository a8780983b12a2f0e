"""The limit around Ray's start; what happens with Ray itself is in the integration tests."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

pytest.importorskip("ray")

from richsem_prep.executors import ray as ray_executor
from richsem_prep.executors.ray import RayExecutor, _Begun
from richsem_prep.executors.worker import has_room_for_two
from richsem_prep.teacher.worker_settings import WorkerSettings
from richsem_schemas.errors import RichSemError

SETTINGS = WorkerSettings("demo", None, None, "cpu", None, 1)


def test_a_call_that_returns_or_raises_is_waited_for_no_longer():
    fine = _Begun(lambda: None)
    assert fine.error_within(60) is None
    error = ValueError("no")
    wrong = _Begun(lambda: (_ for _ in ()).throw(error))
    assert wrong.error_within(60) is error
    for begun in (fine, wrong):
        begun.release()


def test_the_thread_of_a_call_lives_until_it_is_released():
    """Linux kills Ray's processes when the thread that started them ends."""
    threads = []
    begun = _Begun(lambda: threads.append(threading.current_thread()))
    begun.error_within(60)
    assert threads[0].is_alive()
    begun.release()
    threads[0].join(10)
    assert not threads[0].is_alive()


@pytest.fixture
def never(monkeypatch):
    import ray

    never = threading.Event()

    def init(**_):
        never.wait()
        raise RuntimeError("the test is over")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray_executor, "_INIT_SECONDS", 0.2)
    yield
    never.set()


def test_a_start_that_never_ends_is_one_error_with_a_way_out(never):
    start = time.monotonic()
    executor = RayExecutor(SETTINGS, workers=1, address=None)
    with pytest.raises(RichSemError, match=r"Ray can't start here: nothing for 0 s; .*--executor inline") as caught:
        executor.start(1)
    executor.close()
    assert time.monotonic() - start < 30
    assert len(str(caught.value).splitlines()) == 1


def test_ray_starts_while_the_driver_does_other_things_and_is_closed_before_it_is_needed(never):
    start = time.monotonic()
    executor = RayExecutor(SETTINGS, workers=1, address=None)
    assert executor.workers == 1
    executor.close()
    assert time.monotonic() - start < 30


@pytest.fixture
def two_gpus(monkeypatch):
    """A Ray of two GPUs and 16 cores that starts nothing; the options of each worker that was hired."""
    import ray

    hired = []

    def remote(**options):
        hired.append(options)
        return MagicMock()

    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "kill", lambda _: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 2.0})
    monkeypatch.setattr(ray, "remote", remote)
    return hired


@pytest.mark.parametrize(
    ("has_room", "asked", "shares", "threads"),
    [(True, None, [0.5] * 4, 4), (False, None, [0.5, 1.0], 8), (False, 4, [0.5] * 4, 4)],
)
def test_a_gpu_has_two_workers_where_its_memory_allows_or_as_many_as_are_asked_for(
    two_gpus, monkeypatch, has_room, asked, shares, threads
):
    monkeypatch.setattr(RayExecutor, "describe", lambda _: SimpleNamespace(has_room_beside=has_room))
    executor = RayExecutor(replace(SETTINGS, device=None), workers=asked, address=None)
    executor.start(100)
    executor.close()
    assert [options["num_gpus"] for options in two_gpus] == shares
    assert executor.workers == len(shares)
    assert executor._settings.decode_threads == threads


def test_two_workers_need_twice_their_weights_and_memory_for_batches():
    gibibyte = 2**30
    assert has_room_for_two(gibibyte, None)
    assert has_room_for_two(gibibyte, 10 * gibibyte)
    assert not has_room_for_two(gibibyte, 10 * gibibyte - 1)
