"""Logs: lines on standard error, JSON on a pipe and readable on a terminal; repeats are summed.

Everybody logs with `logging.getLogger("kdaemon.room")` and `extra={"fields": {...}}`: the text is
constant, what varies is a field. Fields name streams, counts and codes, never data, keys or
secrets; bytes are shown by their length only, whatever is passed. A line of one call site (and of
one stream, where `fields` has a `stream`) opens a window: further lines in it are counted, and when
it ends one line says how many there were. `extra={"is_always_shown": True}` exempts a line, and
`extra={"is_last": True}` ends all windows before it: what it says is said last.

Knows nothing of what the rooms do. Bound: one window for each call site and stream. Other libraries
are heard from WARNING up, whatever the level: botocore's debug lines hold signatures.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

from kdaemon.base.ports import Clock
from kdaemon.config import LogConfig

WINDOW_NS = 10_000_000_000  # 10 s: lines of one call site are summed over this; Vector's figure
VALUE_CHARACTERS_MAX = 1_000  # of one text or field: what a client sent cannot flood the log
STACK_CHARACTERS_MAX = 10_000  # of one traceback
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_Site = tuple[str, int, str]  # file, line, stream


@dataclass(slots=True)
class _Window:
    """Lines of one site since its first was shown. `last` is the newest that was not."""

    ends_ns: int
    repeat_count: int
    last: logging.LogRecord


class LogHandler(logging.Handler):
    """Writes lines and sums repeats. Any thread may log; `attach` and `close` are the owner's.

    Windows end when the next line comes, when the loop's timer rings (after `attach`), at `close`.
    """

    def __init__(self, stream: TextIO, clock: Clock, *, is_json: bool) -> None:
        super().__init__()
        self._stream = stream
        self._clock = clock
        self._format_line = format_json if is_json else format_text
        self._windows: dict[_Site, _Window] = {}  # by ends_ns, because all are equally long
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_timer_set = False
        self._guard = threading.RLock()  # the windows: lines come from any thread, timers from one

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, this loop's timer tells of repeats even if no other line comes."""
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or count it."""
        try:
            with self._guard:
                is_last = getattr(record, "is_last", False)
                self.end_windows(all_of_them=is_last)
                is_shown = is_last or getattr(record, "is_always_shown", False)
                if is_shown or self._is_first(record):
                    self._write(record, 0)
        except Exception:  # noqa: BLE001 - a log line must not end what it tells of
            self.handleError(record)

    def _is_first(self, record: logging.LogRecord) -> bool:
        """Whether it opens a window; if not, it is counted in the one that is open."""
        site = (record.pathname, record.lineno, str(_fields(record).get("stream", "")))
        window = self._windows.get(site)
        if window is None:
            self._windows[site] = _Window(self._clock.now_ns() + WINDOW_NS, 0, record)
            return True
        window.repeat_count += 1
        window.last = record
        self._set_timer()
        return False

    def end_windows(self, *, all_of_them: bool = False) -> None:
        """Say how often each line was repeated whose window is over."""
        now_ns = self._clock.now_ns()
        while self._windows:
            site = next(iter(self._windows))
            if not all_of_them and self._windows[site].ends_ns > now_ns:
                return
            window = self._windows.pop(site)
            if window.repeat_count:
                self._write(window.last, window.repeat_count)

    def close(self) -> None:
        """Say what is still to be said. The stream stays open: it is not ours."""
        with self._guard:
            self._loop = None
            try:
                self.end_windows(all_of_them=True)
            except (OSError, ValueError):
                self._windows.clear()
        logging.getLogger().removeHandler(self)
        super().close()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """A log that cannot be written (its reader is gone) is given up, and the daemon lives."""
        if isinstance(sys.exc_info()[1], OSError | ValueError):
            return
        super().handleError(record)

    def _write(self, record: logging.LogRecord, repeat_count: int) -> None:
        self._stream.write(self._format_line(record, repeat_count) + "\n")
        self._stream.flush()

    def _set_timer(self) -> None:
        if self._loop is not None and not self._is_timer_set and not self._loop.is_closed():
            self._is_timer_set = True
            self._loop.call_soon_threadsafe(self._start_timer)

    def _start_timer(self) -> None:
        """Runs in the loop. Rings when the oldest window with a repeat ends."""
        with self._guard:
            ends = [window.ends_ns for window in self._windows.values() if window.repeat_count]
            if self._loop is None or not ends:
                self._is_timer_set = False
                return
            wait_ns = max(0, min(ends) - self._clock.now_ns())
            self._loop.call_later(wait_ns / 1e9, self._ring)

    def _ring(self) -> None:
        with self._guard:
            try:
                self.end_windows()
            except (OSError, ValueError):
                self._windows.clear()
        self._start_timer()


def configure_logs(settings: LogConfig, stream: TextIO, clock: Clock) -> LogHandler:
    """Send all logging of the process to `stream`; returns the handler, to attach and to close."""
    is_terminal = stream.isatty()
    is_json = settings.format == "json" or (settings.format == "auto" and not is_terminal)
    handler = LogHandler(stream, clock, is_json=is_json)
    root = logging.getLogger()
    for other in list(root.handlers):
        if isinstance(other, LogHandler):
            other.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("kdaemon").setLevel(LEVELS[settings.level])
    return handler


def format_json(record: logging.LogRecord, repeat_count: int) -> str:
    """One JSON object: time, level, logger, text; where there are any: fields, repeated, stack."""
    line: dict[str, object] = {
        "time": _utc(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "text": _shorten(record.getMessage()),
    }
    fields = _fields(record)
    if fields:
        line["fields"] = {str(name): _plain(value) for name, value in fields.items()}
    if repeat_count:
        line["repeated"] = repeat_count
    if record.exc_info and record.exc_info[1]:
        line["stack"] = _stack(record.exc_info[1])
    return msgspec.json.encode(line).decode()


def format_text(record: logging.LogRecord, repeat_count: int) -> str:
    """For people: local time, level, logger, text, fields; control characters are escaped."""
    time = _utc(record).astimezone().strftime("%H:%M:%S")
    fields = [f"{name}={_plain(value)}" for name, value in _fields(record).items()]
    words = [_shorten(record.getMessage()), *fields]
    if repeat_count:
        words.append(f"(and {repeat_count} more like this in {WINDOW_NS // 10**9} s)")
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(words))
    line = f"{time} {record.levelname.lower():7} {record.name}: {shown}"
    if record.exc_info and record.exc_info[1]:
        line += "\n" + _stack(record.exc_info[1]).rstrip()
    return line


def _utc(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)


def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, Mapping) else {}


def _plain(value: object) -> object:
    """A field's value as a number, a truth or a short text."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) < 2**63:  # a hash key is longer: JSON gets a text
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return _shorten(str(value))


def _shorten(text: str) -> str:
    text = text.encode(errors="backslashreplace").decode()  # lone surrogates: no UTF-8 has them
    if len(text) <= VALUE_CHARACTERS_MAX:
        return text
    return f"{text[:VALUE_CHARACTERS_MAX]}... ({len(text)} characters)"


def _stack(error: BaseException) -> str:
    """The end of the traceback, where the cause stands."""
    return "".join(traceback.format_exception(error))[-STACK_CHARACTERS_MAX:]
