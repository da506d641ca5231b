"""A bounded queue between those who log and the log's destination, and a thread that writes.

About: lines, as bytes. Whoever logs puts a line in the queue and goes on. The thread writes one
line after the other, and may wait for as long as it must: for a pipe that nobody reads, a stopped
terminal, a disk. Knows nothing of what a line says.
Invariant: `put` never waits for anything outside the process, and the event loop calls nothing else
here. Bound: LINES_MAX lines and BYTES_MAX bytes. When the queue is full the oldest line is dropped,
so that the newest lines and the last words are kept. Every drop is counted, and is told before the
next line that can be written.
Flow: logs.py -> here -> standard error.
"""

import contextlib
import fcntl
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TextIO

LINES_MAX = 5_000  # ours, 2026-11-28: with 200 bytes a line they make about BYTES_MAX
BYTES_MAX = 1024 * 1024  # ours, 2026-11-28: sixteen pipes of Linux (64 KiB)

Write = Callable[[bytes], object]


class LogQueue:
    """The queue and its thread. Lines are written from its creation to `close`."""

    def __init__(self, write: Write, tell_dropped: Callable[[int], bytes]) -> None:
        """`write` writes a whole line and may wait; OSError or ValueError: it could not write.
        `tell_dropped` makes the line that says how many lines were dropped.
        """
        self._write = write
        self._tell_dropped = tell_dropped
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_writing = False
        self._is_closed = False
        self._untold = 0
        self.lines_dropped = 0  # since the start
        # Descriptor of a file that several processes lock to write by turns; below 0: none.
        self.shared_by = -1
        self._changed = threading.Condition()  # its lock is never held during a write
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Takes a line, with its line break. From any thread."""
        with self._changed:
            if self._is_closed:
                return
            self._lines.append(line)
            self._waiting_bytes += len(line)
            while len(self._lines) > LINES_MAX or self._waiting_bytes > BYTES_MAX:
                self._waiting_bytes -= len(self._lines.popleft())
                self._count_dropped(1)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Lines that are not written yet."""
        return len(self._lines) + self._is_writing

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything is written, `timeout_s` at most; whether it is. Not for
        the loop.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self.waiting, timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Takes no more lines, and waits `timeout_s` at most for the lines in the queue. Returns
        whether they are written. A thread that is stuck ends with the process.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        is_written = self.flush(timeout_s)
        if is_written and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        return is_written

    def _count_dropped(self, count: int) -> None:
        self.lines_dropped += count
        self._untold += count

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """The turn of this process to write. Several processes share a log: a line that is longer
        than a pipe takes at once would be mixed with theirs. A process that dies lets go of its
        turn.
        """
        if self.shared_by < 0:
            yield
            return
        fcntl.lockf(self.shared_by, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.shared_by, fcntl.LOCK_UN)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._lines or self._is_closed)
                if not self._lines:
                    return
                line = self._lines.popleft()
                self._waiting_bytes -= len(line)
                untold = self._untold
                self._is_writing = True
            try:
                with self._turn():
                    if untold:
                        self._write(self._tell_dropped(untold))
                        with self._changed:
                            self._untold -= untold
                    self._write(line)
            # The reader is gone, the disk is full, or the stream was closed.
            except (OSError, ValueError):
                with self._changed:
                    self._count_dropped(1)


def write_to(stream: TextIO) -> Write:
    """How to write whole lines to `stream`. If it has a descriptor, its buffer is bypassed, so that
    no lock of Python's is held during a write.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):  # a stream in memory

        def write_text(line: bytes) -> None:
            stream.write(line.decode())
            stream.flush()

        return write_text
    return _Descriptor(descriptor).write


class _Descriptor:
    """Writes lines to a descriptor: a pipe, a socket, a file or a terminal. Another process may
    have set `O_NONBLOCK`, which holds for all who share the descriptor; this class leaves it so.
    """

    __slots__ = ("_descriptor", "_is_mid_line", "_room")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_mid_line = False
        self._room = select.poll()
        with contextlib.suppress(OSError):
            self._room.register(descriptor, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Writes a line in one write, if there is room for it. OSError: the line was not written,
        or only a part of it; then the next line begins on a line of its own.
        """
        rest = memoryview(b"\n" + line if self._is_mid_line else line)
        while rest:
            try:
                written = os.write(self._descriptor, rest)
            except BlockingIOError:
                self._room.poll()
                continue
            rest = rest[written:]
            self._is_mid_line = len(rest) > 0
