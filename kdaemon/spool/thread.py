"""The store's one thread, in which a commit does not wait for reads.

Clients wait for a commit, and no client waits for a read. At a restart a hundred streams are read
at once, and a commit would otherwise wait for all of these reads. Knows nothing of the calls that
it runs.
Invariants: one call runs at a time; calls of one kind run in the order in which they came; a commit
that waits runs next.
Bound: a read and a drop a stream, a commit, and the calls of `Spool` itself.
Where it sits: `Spool` submits commits to `first`; all other calls go to the thread itself.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
Job = tuple["Future[Any]", Callable[[], Any]]


class StoreThread(Executor):
    """`first`: its calls run before those that wait here."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._jobs: deque[Job] = deque()
        self.first = _First(self._pool, self._run)
        self._first_jobs = self.first.jobs

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Raises RuntimeError after `shutdown`."""
        return _submit(self._pool, self._run, self._jobs, lambda: call(*args, **kwargs))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Calls that wait still run, or are cancelled."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self) -> None:
        """In the thread, once for each call that was submitted."""
        future, call = (self._first_jobs or self._jobs).popleft()
        try:
            if future.set_running_or_notify_cancel():
                future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the future's owner gets it
            future.set_exception(error)
        finally:
            del future, call  # else a cycle: the error's frames refer to this one


class _First(Executor):
    """The same thread, for calls that do not wait for the others."""

    def __init__(self, pool: ThreadPoolExecutor, run: Callable[[], object]) -> None:
        self._pool = pool
        self._run = run
        self.jobs: deque[Job] = deque()

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        return _submit(self._pool, self._run, self.jobs, lambda: call(*args, **kwargs))


def _submit(
    pool: ThreadPoolExecutor, run: Callable[[], object], jobs: deque[Job], call: Callable[[], T]
) -> "Future[T]":
    future: Future[T] = Future()
    jobs.append((future, call))
    pool.submit(run)
    return future
