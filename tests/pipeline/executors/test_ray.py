"""The limit around Ray's start; what happens with Ray itself is in the integration tests."""

import threading
import time

import pytest

pytest.importorskip("ray")

from richsem_prep.executors import ray as ray_executor
from richsem_prep.executors.ray import RayExecutor, _Begun
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
    monkeypatch.setattr(ray, "init", lambda **_: never.wait())
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
