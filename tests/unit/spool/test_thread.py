"""The spool's thread: one call at a time, and commits before reads."""

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from kdaemon.spool.thread import StoreThread
from tests.kit.patience import PATIENCE_S


@pytest.fixture
def thread() -> Iterator[StoreThread]:
    thread = StoreThread()
    yield thread
    thread.shutdown()


def test_who_is_first_goes_before_what_waits_and_behind_what_runs(thread: StoreThread) -> None:
    ran: list[str] = []
    is_running, may_end = threading.Event(), threading.Event()

    def block() -> None:
        is_running.set()
        assert may_end.wait(PATIENCE_S)
        ran.append("running")

    thread.submit(block)
    assert is_running.wait(PATIENCE_S)
    reads = [thread.submit(ran.append, f"read {number}") for number in range(3)]
    commits = [thread.first.submit(ran.append, f"commit {number}") for number in range(2)]
    may_end.set()
    for future in (*reads, *commits):
        future.result(PATIENCE_S)
    assert ran == ["running", "commit 0", "commit 1", "read 0", "read 1", "read 2"]


@pytest.mark.parametrize("is_first", [True, False])
def test_what_a_call_returns_or_raises_is_its_futures(
    thread: StoreThread, *, is_first: bool
) -> None:
    executor = thread.first if is_first else thread
    assert executor.submit(int, "21", base=8).result(PATIENCE_S) == 17
    with pytest.raises(ValueError, match="invalid literal"):
        executor.submit(int, "x").result(PATIENCE_S)
    assert executor.submit(int, "1").result(PATIENCE_S) == 1, "the thread lives on"


def test_a_call_that_was_cancelled_while_it_waited_does_not_run(thread: StoreThread) -> None:
    may_end = threading.Event()
    ran: list[int] = []
    thread.submit(may_end.wait, PATIENCE_S)
    future = thread.submit(ran.append, 1)
    assert future.cancel()
    may_end.set()
    thread.submit(ran.append, 2).result(PATIENCE_S)
    assert ran == [2]


def test_a_call_that_failed_leaves_no_cycle(thread: StoreThread) -> None:
    class Data:
        pass

    def fail(data: Data) -> None:
        raise ValueError(str(data))

    data = Data()
    known = weakref.ref(data)
    gc.disable()
    try:
        future = thread.submit(fail, data)
        del data
        error = future.exception(PATIENCE_S)
        assert error is not None
        thread.submit(int).result(PATIENCE_S)  # the thread has let go of the call
        del future, error
        assert known() is None
    finally:
        gc.enable()


def test_nothing_is_taken_after_its_end() -> None:
    thread = StoreThread()
    thread.shutdown()
    for executor in (thread, thread.first):
        with pytest.raises(RuntimeError):
            executor.submit(int)
