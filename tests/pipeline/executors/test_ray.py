"""The limit around Ray's start; what happens with Ray itself is in the integration tests."""

import threading
import time

import pytest

pytest.importorskip("ray")

from richsem_prep.executors import ray as ray_executor
from richsem_prep.executors.ray import RayExecutor, _within
from richsem_prep.teacher.worker_settings import WorkerSettings
from richsem_schemas.errors import RichSemError


def test_a_call_that_returns_or_raises_is_waited_for_no_longer():
    until = threading.Event()
    assert _within(60, lambda: None, until) is None
    error = ValueError("no")
    assert _within(60, lambda: (_ for _ in ()).throw(error), until) is error
    until.set()


def test_the_thread_of_a_call_lives_until_it_is_released():
    """Linux kills Ray's processes when the thread that started them ends."""
    until, threads = threading.Event(), []
    _within(60, lambda: threads.append(threading.current_thread()), until)
    assert threads[0].is_alive()
    until.set()
    threads[0].join(10)
    assert not threads[0].is_alive()


def test_a_start_that_never_ends_is_one_error_with_a_way_out(monkeypatch):
    import ray

    never = threading.Event()
    monkeypatch.setattr(ray, "init", lambda **_: never.wait())
    monkeypatch.setattr(ray_executor, "_INIT_SECONDS", 0.2)
    settings = WorkerSettings("demo", None, None, "cpu", None, 1)
    start = time.monotonic()
    with pytest.raises(RichSemError, match=r"Ray can't start here: nothing for 0 s; .*--executor inline") as caught:
        RayExecutor(settings, workers=1, address=None, max_workers=1)
    assert time.monotonic() - start < 30
    assert len(str(caught.value).splitlines()) == 1
    never.set()
