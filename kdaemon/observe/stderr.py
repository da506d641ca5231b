"""What a process says besides its log goes the log's way, so that this, too, can hold up nothing.

About: warnings, errors that nobody caught (of threads, of finalizers), and what libraries print to
`sys.stderr`. Knows the log; must not know rooms. Python's own last words at a crash
(`faulthandler`, a fatal error of the interpreter) are written past everything, as they must be.
Invariant: within `process_logs` nothing of Python's writes to standard error but the log's thread.
"""

import io
import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from kdaemon.base.ports import Clock
from kdaemon.config import LogConfig
from kdaemon.observe.logs import LogHandler, configure_logs

LINE_CHARACTERS_MAX = 10_000  # of a line that is printed in parts; more begins another; ours

log = logging.getLogger("kdaemon.stderr")


@contextmanager
def process_logs(settings: LogConfig, clock: Clock) -> Iterator[LogHandler]:
    """The log of this process, on standard error, until the end; then everything is as before."""
    stream = sys.stderr
    logs = configure_logs(settings, stream, clock)
    before = (sys.stderr, sys.excepthook, sys.unraisablehook, threading.excepthook)
    sys.stderr = _LoggedText(stream)
    sys.excepthook = _tell_of_process
    sys.unraisablehook = _tell_of_finalizer
    threading.excepthook = _tell_of_thread
    logging.captureWarnings(capture=True)
    try:
        yield logs
    finally:
        logging.captureWarnings(capture=False)
        sys.stderr, sys.excepthook, sys.unraisablehook, threading.excepthook = before
        logs.close()


# A call site for each, because the log sums the lines of one.


def _tell_of_process(_kind: type, error: BaseException, _stack: TracebackType | None) -> None:
    log.critical("an error ended the process", exc_info=error)


def _tell_of_finalizer(given: "sys.UnraisableHookArgs") -> None:
    log.error("an error that nobody could be told", exc_info=given.exc_value)


def _tell_of_thread(given: threading.ExceptHookArgs) -> None:
    log.error("an error ended a thread", exc_info=given.exc_value)


class _LoggedText(io.TextIOBase):
    """Takes the place of `sys.stderr`: each line that is printed becomes a line of the log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._guard = threading.Lock()
        self._begun = ""

    def write(self, text: str, /) -> int:
        with self._guard:
            *whole, begun = (self._begun + text).split("\n")
            if len(begun) > LINE_CHARACTERS_MAX:
                whole, begun = [*whole, begun], ""
            self._begun = begun
        for line in filter(None, whole):
            log.warning("%s", line, extra={"is_always_shown": True})
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
