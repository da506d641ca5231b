"""Runs a daemon until it is told to stop, or another one takes over.

About: signals, and what each of them ends. SIGTERM (or another of `system.ENDING`) begins the
drain. A second signal ends the daemon at once; so does the first one, if no door is open yet.
Closing may take CLOSE_TIMEOUT_S: it takes milliseconds, unless a disk hangs. Must not know rooms.
Invariant: whatever ends the daemon is logged in one line, and the exit code agrees with that line.
Where it sits: the command `run` -> here -> daemon.py.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from kdaemon.base.errors import ConfigError, ConfigProblem, SpoolError, TlsError, WorkerError
from kdaemon.config import Config
from kdaemon.config.load import Loaded
from kdaemon.config.twins import find_twins
from kdaemon.daemon.daemon import Daemon
from kdaemon.http.listener import ListenerError
from kdaemon.observe.logs import LogHandler
from kdaemon.send.late import LoadError, cannot_load
from kdaemon.system import on_signals

if TYPE_CHECKING:
    from kdaemon.daemon.supervisor import Supervisor
    from kdaemon.http.passed import Inherited
    from kdaemon.http.takeover import Taken

log = logging.getLogger("kdaemon")

CLOSE_TIMEOUT_S = 10.0
"""For closing after the drain. Whatever takes longer waits for a disk that does not answer, and no
promise depends on it. Ours, 2026-11-28."""

OTHERS_TIMEOUT_S = 3.0
"""For finding what else is wrong, which reads files: half a second of imports and 10 ms. Ours,
2026-11-28."""

_NOT_STARTED = (
    *(ConfigError, ListenerError, LoadError, OSError, SpoolError, TlsError, WorkerError),
)


def _supervisor() -> "type[Supervisor]":
    """The class. Raises LoadError: the admin pages of workers need at once the libraries that a
    lone daemon loads later.
    """
    try:
        from kdaemon.daemon.supervisor import Supervisor  # noqa: PLC0415 - a lone daemon saves the memory
    except Exception as error:
        raise LoadError(cannot_load(f"{type(error).__name__}: {error}")) from error
    return Supervisor


class Runs(Protocol):
    """Something to run: a daemon, or the supervisor of several workers."""

    ended: asyncio.Future[str | None]
    takes_records: bool

    @property
    def held_spool(self) -> str:
        """The directory of the spool that this process has open, which others must leave alone; "":
        none.
        """
        ...

    async def start(self, *, with_sandbox: bool) -> None: ...

    async def drain(self) -> int: ...

    async def close(self) -> None: ...


async def serve(
    loaded: Loaded,
    logs: LogHandler,
    *,
    with_sandbox: bool,
    read: Callable[[Config], Loaded] | None = None,
    others: Callable[[str], Sequence[ConfigProblem]] = lambda _: (),
    inherited: "Inherited | None" = None,
    taken: "Taken | None" = None,
    is_supervisor: bool = False,
) -> int:
    """Runs the daemon until a signal ends it, or another daemon takes over; returns the exit code.
    `read`: as `Daemon`'s. `others`: finds everything wrong with the configuration, after a start
    that failed; it runs in a thread, and is given the directory of a spool that it must leave alone
    ("": none). `is_supervisor`: workers do the work.
    """
    for name, text in find_twins(loaded.config):
        fields = {"upstream": name}
        log.warning("an upstream is hidden by another: %s", text, extra={"fields": fields})
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    try:
        make = Daemon if not is_supervisor else _supervisor()
    except LoadError as error:
        log.error("cannot start: %s", error)  # noqa: TRY400 - for people
        return 1
    daemon = make(loaded, logs, read, inherited, taken)
    on_signals(loop, signals.put_nowait, None if read is None else daemon.reload)
    return await run_daemon(daemon, signals, others, with_sandbox=with_sandbox)


async def run_daemon(
    daemon: Runs,
    signals: asyncio.Queue[int],
    others: Callable[[str], Sequence[ConfigProblem]] = lambda _: (),
    *,
    with_sandbox: bool,
) -> int:
    """Runs the daemon from its start to its end; returns the exit code. `signals`: each one asks
    for the end; the second asks for it at once.
    """
    loop = asyncio.get_running_loop()
    first = loop.create_task(signals.get())
    has_failed = False
    try:
        try:
            if not await _started(daemon, first, with_sandbox=with_sandbox):
                log.info("stopped before it was ready: nothing was taken", extra={"is_last": True})
                return 0
        except _NOT_STARTED as error:
            has_failed = True
            await _tell_failure(str(error), partial(others, daemon.held_spool))
            if not daemon.takes_records:
                return 1
        except Exception:
            if not daemon.takes_records:
                raise
            has_failed = True
            log.exception("the start broke: a defect of kdaemon")
        else:
            either: set[asyncio.Future[Any]] = {first, daemon.ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            failure = daemon.ended.result() if daemon.ended.done() else None
            if failure is not None:
                has_failed = True
                log.error("%s", failure)
        exit_code = await _drained(daemon, first, signals)  # some door was open
        return 1 if has_failed else exit_code
    finally:
        first.cancel()
        await _close(daemon, signals)


async def _tell_failure(failure: str, find: Callable[[], Sequence[ConfigProblem]]) -> None:
    """Logs why the start failed, and what else would stop the next start, if it is found in time.
    The time is short, since doors may be open, and the configuration may be a pipe, which can be
    read only once.
    """
    log.error("cannot start: %s", failure)
    try:
        async with asyncio.timeout(OTHERS_TIMEOUT_S):
            problems = await asyncio.to_thread(find)
    except TimeoutError:
        return
    except Exception:
        log.exception("the rest of the configuration could not be checked: a defect of kdaemon")
        return
    for problem in problems:
        if problem.problem not in failure:
            log.error("to be mended, too: %s", problem, extra={"is_always_shown": True})


async def _drained(daemon: Runs, first: asyncio.Task[int], signals: asyncio.Queue[int]) -> int:
    """Drains until a second signal comes; returns the exit code. If the drain began without a
    signal (another process took over, or the start failed), the first signal asks for what already
    runs.
    """
    loop = asyncio.get_running_loop()
    draining = loop.create_task(daemon.drain())
    await asyncio.wait({draining, first}, return_when=asyncio.FIRST_COMPLETED)
    second = loop.create_task(signals.get())
    await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
    second.cancel()
    if draining.done():
        return draining.result()
    draining.cancel()
    text = "stopped at once, by a second signal: what was buffered is not delivered"
    log.warning(text, extra={"is_last": True})
    return 1


async def _close(daemon: Runs, signals: asyncio.Queue[int]) -> None:
    """Closes the daemon. After CLOSE_TIMEOUT_S, or at another signal, whatever hangs is left to end
    with the process. A signal that came before was about the drain.
    """
    while not signals.empty():
        signals.get_nowait()
    loop = asyncio.get_running_loop()
    closing, told = loop.create_task(daemon.close()), loop.create_task(signals.get())
    await asyncio.wait(
        {closing, told}, timeout=CLOSE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
    )
    told.cancel()
    if closing.done():
        closing.result()
        return
    closing.cancel()
    text = "not all could be closed: something waits for a disk, or for a thread"
    log.warning(text, extra={"is_last": True})


async def _started(daemon: Runs, told: asyncio.Task[int], *, with_sandbox: bool) -> bool:
    """Starts the daemon, unless a signal ends the start. False: no record was taken."""
    starting = asyncio.get_running_loop().create_task(daemon.start(with_sandbox=with_sandbox))
    await asyncio.wait({starting, told}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait({starting})
    if starting.cancelled():
        return daemon.takes_records
    await starting
    return True
