"""Sends everything that a process writes to standard error through the log, so that it never waits.

About: warnings, errors that nobody caught (of threads, of finalizers), and what libraries print to
`sys.stderr`. Knows the log; must not know rooms. Python's own last words at a crash
(`faulthandler`, a fatal error of the interpreter) bypass the log, as they must.
Invariant: within `process_logs` only the log's thread writes to standard error, of all Python code.
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

LINE_CHARACTERS_MAX = 10_000  # of a line that is printed in parts; a longer one is split; ours

log = logging.getLogger("kdaemon.stderr")


@contextmanager
def process_logs(settings: LogConfig, clock: Clock) -> Iterator[LogHandler]:
    """The log of this process, on standard error. At the end everything is as it was before."""
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


# A call site for each kind, because the log sums the lines of one call site.


def _tell_of_process(_kind: type, error: BaseException, _stack: TracebackType | None) -> None:
    log.critical("an error ended the process", exc_info=error)


def _tell_of_finalizer(given: "sys.UnraisableHookArgs") -> None:
    log.error("an error in a finalizer", exc_info=given.exc_value)


def _tell_of_thread(given: threading.ExceptHookArgs) -> None:
    log.error("an error ended a thread", exc_info=given.exc_value)


class _LoggedText(io.TextIOBase):
    """Stands in for `sys.stderr`: each line that is printed becomes a line of the log."""

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
