"""What the machine gives a process: clock, dice, allocator, collector, signals, standard
descriptors, the limit of open files.

The only importer of `time` and `random`. Knows no room and decides nothing for one.
Invariant: from `end_by_signal` on, no signal that an operator sends ends the process unnoticed.
"""

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc
MMAP_THRESHOLD_BYTES = 1024 * 1024  # more than a body of 500 records of 1 KiB; ours, 2026-11-21
ARENAS_MAX = 1  # one thread runs, the others wait for a disk or a resolver; ours, 2026-11-28
PLAIN_LISTS = "FROZENLIST_NO_EXTENSIONS"  # the variable of frozenlist 1.8.0, 2026-11-28
# Bytes at the top of the heap that stay, so that the heap is not cut and grown again.
TRIM_THRESHOLD_BYTES = 4 * 1024 * 1024

YOUNG_OBJECTS_MAX = 4_000
"""How many new objects there may be before the collector looks for cycles among them. Python's 700
are a few dozen requests that wait for the service: it looked at each of them several times, for 4 %
of a single request's instructions. Ours, 2026-11-28."""

YOUNG_LOOKS_MAX = 0
"""After more looks at new objects than this, the next look also takes the objects that are new
since the last such wider look. With 0, every second look is a wider one: 1 to 4 ms. Python's 10 are
100,000 objects in one look, at 10,000 objects a look: 26 ms, in which no client is served. Ours,
2026-11-28."""

MIDDLE_LOOKS_MAX = 400
"""How many wider looks come before a look at all objects. Python's 10 brought a full look with
every million objects: 100,000 frames that wait, and 0.2 s. Ours, 2026-11-28: more objects than
`memory_bytes_max` has room for."""

SLACK_BYTES = 8 * 1024 * 1024
"""Freed memory that the process keeps before it gives it back to the system: giving it back takes 1
ms, and so does getting it again if the load needs it. Ours, 2026-11-28."""

QUIET_SLACK_BYTES = 2 * 1024 * 1024  # the same when a load is over and nothing needs it again; ours
# Bytes of clients' records; with less there is no load; ours, 2026-11-28.
QUIET_BYTES = 4 * 1024 * 1024

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU)
"""Signals that all ask for the same end. LXC stops a container by SIGPWR. SIGXCPU says that the CPU
time which a limit grants (`ulimit -t`) is used up."""

IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGIO)
"""Signals that tools send to daemons, for things that not all of our processes do: to read the
configuration again (SIGHUP, which a daemon with a configuration obeys), to open log files again, to
print statistics. By default they end a process."""

MEMORY_UNLIMITED_BYTES = 1 << 60  # cgroups of version 1 say 2^63 less a page for "no limit"

TCP_LISTEN = "0A"  # in /proc/self/net/tcp: include/net/tcp_states.h of Linux 6, 2026-11-28

log = logging.getLogger("kdaemon")
OPEN_FILES_UNLIMITED = 1_000_000  # the number that stands for "infinity"


class SystemClock:
    """Monotonic nanoseconds for the program, wall clock seconds for what people read."""

    now_ns = staticmethod(time.monotonic_ns)
    wall_seconds = staticmethod(time.time)


class SystemDice:
    """Random numbers, seeded by the operating system if no seed is given."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - jitter, not secrets

    def random(self) -> float:
        """A number from 0.0 up to, and without, 1.0."""
        return self._random.random()


def bound_malloc() -> None:
    """Sets glibc's malloc so that buffers of a MiB and more go back to the system when they are
    freed, and so that all threads share one arena. Call it before the first thread starts.

    With arenas of their own, each thread reserved 64 MiB of addresses, so that seven threads met a
    limit of 512 MiB (`ulimit -v`) with 142 MiB in use. And memory that requests had freed could not
    be used by the spool's thread: 500 MB of records of 10 KB drained at 190 MiB, with one arena at
    146 (2026-11-28).

    By default glibc learns to take large buffers from the heap, where records that live longer lie
    between them: 64 MiB of records of 100 KiB then grew the process by 82-126 MiB, with this
    setting by 68.4 (Python 3.11, 2026-11-21). Another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS_MAX)
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def import_plain_lists() -> None:
    """Makes aiohttp use the Python form of its lists of hooks. Call it before anything imports
    aiohttp. The other form is the only C++ code in this process, and its library takes 1 MiB; no
    call to the service runs through these lists here.
    """
    if PLAIN_LISTS in os.environ:
        return
    os.environ[PLAIN_LISTS] = "1"
    with contextlib.suppress(ImportError):  # this aiohttp does not use it
        import frozenlist  # noqa: F401, PLC0415 - reads the variable, once
    del os.environ[PLAIN_LISTS]  # programs that we start do not get the variable


class FreedMemory:
    """Gives freed memory back to the system.

    glibc gives back only the top of its heap, and records that live longer than others lie above
    what was freed: after 250 MB of records of 10 KB the process had 120 MiB, and 70 after a trim
    (Python 3.11, glibc 2.36, 2026-11-28).
    Each second this class looks at the memory of the process without clients' records. If that has
    grown by SLACK_BYTES since its lowest value, the heap is trimmed, in a thread. If nearly nothing
    is taken by clients' records at two looks in a row, QUIET_SLACK_BYTES is enough. Memory that is
    left after a trim is in use, and the next trim comes only after it has grown by as much again.
    At the first quiet moment the heap is trimmed however little it grew: the search for credentials
    and the first calls have freed 1 MiB. Another C library is left as it is.
    """

    __slots__ = (
        *("_taken_bytes", "_is_quiet", "_is_started", "_is_trimming", "_least_bytes", "_trim"),
    )

    def __init__(self, taken_bytes: Callable[[], int]) -> None:
        """`taken_bytes`: how many bytes clients' records take now."""
        self._taken_bytes = taken_bytes
        self._trim = _malloc_trim()
        self._is_quiet = False
        self._is_started = False  # the start is over, and a trim for it has begun
        self._is_trimming = False
        self._least_bytes = self._beside_bytes()

    def look(self) -> None:
        """Trims the heap if it is time. Called in the loop, every second or so."""
        beside_bytes = self._beside_bytes()
        self._least_bytes = min(self._least_bytes, beside_bytes)
        was_quiet, self._is_quiet = self._is_quiet, self._taken_bytes() < QUIET_BYTES
        if self._trim is None or self._is_trimming:
            return
        is_over = was_quiet and self._is_quiet
        slack_bytes = QUIET_SLACK_BYTES if is_over else SLACK_BYTES
        is_first = is_over and not self._is_started
        if is_first or beside_bytes - self._least_bytes > slack_bytes:
            self._is_started |= is_over
            self._is_trimming = True
            trim = asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
            trim.add_done_callback(self._was_trimmed)

    def _was_trimmed(self, _trim: "asyncio.Future[int]") -> None:
        self._is_trimming = False
        self._least_bytes = self._beside_bytes()

    def _beside_bytes(self) -> int:
        return _rss_bytes() - self._taken_bytes()


def _malloc_trim() -> Callable[[int], int] | None:
    """The function that gives free heap memory back to the system; None: another C library."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


def _rss_bytes() -> int:
    """Resident memory of this process; 0 if the system does not tell it."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()
    except OSError:
        return 0


def calm_collector() -> None:
    """Makes the collector of cycles ignore all objects that exist now, and look less often at new
    ones: what holds a client's data is in no cycle. Gives memory back that only the start needed
    (source texts of its modules, above all: 3 MiB). Call it once, when the start is over.

    Objects of the start (modules, above all) live as long as the process. A full collection looked
    at all of them, 60 to 140 ms in which no client was served, and a client that makes us open and
    close streams can cause many (Python 3.11, 2026-11-28).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX, YOUNG_LOOKS_MAX, MIDDLE_LOOKS_MAX)
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def keep_loaded() -> None:
    """Makes the collector ignore all objects that exist now, such as modules that were loaded after
    `calm_collector`. It looks at no object for that, so the loop does not wait.
    """
    gc.freeze()


def fill_descriptors() -> None:
    """Opens /dev/null where standard input, output or error is closed (`2>&-`).

    Without this, the next file or socket gets the number, and text for standard error goes into it:
    a log line into the spool's database, say. Opens for writing only, so that reading from a closed
    standard input stays an error. Call it before anything else is opened.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # without /dev/null it stays closed
                os.open(os.devnull, os.O_WRONLY)
    if sys.stderr is None:
        sys.stderr = _text_of(2)
    if sys.stdout is None:
        sys.stdout = _text_of(1)


def _text_of(descriptor: int) -> TextIO:
    return open(descriptor, "w", encoding="utf-8", closefd=False)


def end_by_signal() -> None:
    """For a command that becomes a daemon. Until `on_signals`, a signal of ENDING ends the process
    at once with 0 (nothing was taken yet), and those of IGNORED are ignored. A signal that already
    has a handler (`nohup`, a profiler) keeps it.
    """
    for number in ENDING:
        if number != signal.SIGINT:  # Python's own handler ends the process, too
            signal.signal(number, _end)
    for number in IGNORED:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.SIG_IGN)


def leave_signals() -> None:
    """For a process whose parent hears signals for it: no signal of ENDING or IGNORED ends it.
    Programs that this process starts are ended by these signals as usual.
    """
    for number in (*ENDING, *IGNORED):
        signal.signal(number, lambda *_given: None)


def on_signals(
    loop: asyncio.AbstractEventLoop,
    on_end: Callable[[int], object],
    on_reload: Callable[[], object] | None = None,
) -> None:
    """From now on each signal of ENDING calls `on_end` in the loop, and SIGHUP calls `on_reload`.
    Each ignored signal is logged.
    """
    for number in ENDING:
        loop.add_signal_handler(number, on_end, number)
    for number in IGNORED:
        if signal.getsignal(number) in {signal.SIG_DFL, signal.SIG_IGN}:
            loop.add_signal_handler(number, _tell_ignored, number)
    if on_reload is not None:
        loop.add_signal_handler(signal.SIGHUP, on_reload)


def start_of(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine started; None: there is no such
    process, or it is hidden. The start and the id together identify a process, because ids are used
    again, and mean other processes in another container.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(stat.rpartition(b")")[2].split()[19])  # field 22: proc(5), starttime


def user_of(pid: int) -> int | None:
    """The effective user of a process; None: there is no such process, or it is hidden."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    found = next((line for line in status.splitlines() if line.startswith("Uid:")), None)
    return None if found is None else int(found.split()[2])


def listener_users(port: int, root: Path = Path("/")) -> set[int]:
    """The users whose TCP sockets listen on this port, at any address. Empty: nobody listens, or
    only in another network namespace.
    """
    users = set()
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (root / "proc/self/net" / name).read_text().splitlines()[1:]:
                row = line.split()  # proc(5): local address, state and uid are 2nd, 4th and 8th
                is_row = len(row) > 7 and row[3] == TCP_LISTEN
                if is_row and int(row[1].rpartition(":")[2], 16) == port:
                    users.add(int(row[7]))
    return users


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _tell_ignored(number: int) -> None:
    fields = {"signal": signal.Signals(number).name}
    text = "a signal is ignored: it means nothing to kdaemon"
    log.warning(text, extra={"fields": fields, "is_always_shown": True})


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """The memory limit of the container: the lowest of this process's cgroup and the cgroups above
    it (version 2, or the memory controller of version 1); None: there is no limit.
    """
    limits = []
    for place in _control_groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):  # of version 2, of version 1
            with contextlib.suppress(OSError, ValueError):  # "max", or not there
                limits.append(int((place / name).read_text()))
    found = min(limits, default=MEMORY_UNLIMITED_BYTES)
    return found if found < MEMORY_UNLIMITED_BYTES else None


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: limited by its affinity, and, rounded down, by the CPU quota
    of its cgroup and of the cgroups above it (version 2, or version 1); 1 at least.
    """
    quotas = map(_quota_cores, _control_groups("cpu", root))
    return max(1, int(min((len(os.sched_getaffinity(0)), *quotas))))


def _control_groups(controller: str, root: Path) -> Iterator[Path]:
    """The directories of this process's cgroup and of the cgroups above it: of version 2, and of
    this controller of version 1.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        own = top / path.lstrip("/")
        for place in (own, *own.parents):  # in a container the path may be that of its host
            yield place
            if place == top:
                break


def _quota_cores(place: Path) -> float:
    """The quota of one cgroup in cores: CPU time a period, over the period; infinite if there is
    none.
    """
    with contextlib.suppress(OSError, ValueError):  # "max", or not there
        quota, period = (place / "cpu.max").read_text().split()
        return int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us = int((place / "cpu.cfs_quota_us").read_text())
        period_us = int((place / "cpu.cfs_period_us").read_text())
        if quota_us > 0:  # -1: none
            return quota_us / period_us
    return float("inf")


def raise_open_files_limit() -> int:
    """Raises the soft limit of open files to the hard one, if the system allows it. Returns the
    limit that is in force then. systemd and shells start programs with 1,024 of 524,288 for the
    sake of select(), which kdaemon does not call.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # a sandbox may forbid it
            return soft
    return hard if hard != resource.RLIM_INFINITY else OPEN_FILES_UNLIMITED
