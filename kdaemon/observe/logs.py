"""Logs: lines on standard error, JSON on a pipe and readable on a terminal; repeats are summed.

All rooms log with `logging.getLogger("kdaemon.room")` and `extra={"fields": {...}}`: the text is
constant, a clause in lower case, and values are fields; a whole sentence of others may stand behind
a colon. A field has one name everywhere: `error` has the words of an error, `pid` a process
(`tests/unit/observe/test_log_style.py`). Fields name streams, counts and codes, never data, keys or
secrets; bytes are shown only by their length, whatever is passed. Texts of others (a stream's name,
a service's words) are cleaned of secrets and made printable here, in every format.

A line of one call site opens a window. In the window, the site is shown once for each of
STREAMS_SHOWN_MAX streams (`fields` has a `stream`; no stream counts as one, too); more lines are
counted. When the window ends, one line for each stream says how often its line was repeated, and
one line does so for all other streams. `extra={"is_always_shown": True}` exempts a line.
`extra={"is_last": True}` ends all windows before its line, so that this line comes last. After it,
only errors and other last lines are shown (the end itself may fail); other lines of rooms that are
being closed are not.

Knows nothing of what the rooms do, and never waits: log_queue.py writes. Bound: one window for each
call site; no window holds an exception, or an object of the caller. Other libraries are shown from
WARNING up, whatever the level: botocore's debug lines hold signatures.
"""

import asyncio
import logging
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from kdaemon.base.ports import Clock
from kdaemon.base.redact import SECRETS
from kdaemon.base.text import printable, printable_lines
from kdaemon.config import LogConfig
from kdaemon.observe.log_queue import LogQueue, write_to
from kdaemon.observe.recent import Recent

WINDOW_NS = 10_000_000_000  # 10 s: lines of one call site are summed over this; Vector's figure
STREAMS_SHOWN_MAX = 20  # of one call site and window, each with a line of its own; ours, 2026-11-28
STREAMS_COUNTED_MAX = 1_000  # other streams that are told apart to be counted; ours, 2026-11-28
VALUE_CHARACTERS_MAX = 1_000  # of one text or field: clients' texts cannot flood the log
STACK_CHARACTERS_MAX = 10_000  # of one traceback
CLOSE_TIMEOUT_S = 1.0  # at the end, for the reader of the log; ours, 2026-11-28
LEVELS: Mapping[str, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_Site = tuple[str, int]  # file, line
Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the log: values only, nothing that keeps an object of the caller alive.

    `repeat_count`: lines like this one that were not shown. `stream_count`: of how many streams
    those were (None: of this line's own).
    """

    created: float  # Unix seconds
    level: str
    logger: str
    text: str
    fields: Mapping[str, Value]
    stack: str = ""
    repeat_count: int = 0
    stream_count: int | None = None


@dataclass(slots=True)
class _Repeats:
    """Lines of a window that were not shown. `last` is the newest."""

    count: int = 0
    last: Line | None = None

    def add(self, line: Line) -> None:
        self.count += 1
        self.last = line

    def summed(self, stream_count: int | None = None) -> Line | None:
        """One line for all of them; None: there are none."""
        if self.last is None:
            return None
        return replace(self.last, repeat_count=self.count, stream_count=stream_count)


@dataclass(slots=True)
class _Window:
    """The window of a call site, from its first line on."""

    ends_ns: int
    by_stream: dict[str, _Repeats] = field(default_factory=dict)
    others: _Repeats = field(default_factory=_Repeats)
    other_streams: set[str] = field(default_factory=set)

    @property
    def has_repeats(self) -> bool:
        return self.others.count > 0 or any(each.count for each in self.by_stream.values())

    def take(self, stream: str, line: Line) -> bool:
        """Whether the line is shown; if not, it is counted."""
        repeats = self.by_stream.get(stream)
        if repeats is not None:
            repeats.add(line)
            return False
        if len(self.by_stream) < STREAMS_SHOWN_MAX:
            self.by_stream[stream] = _Repeats()
            return True
        self.others.add(line)
        if len(self.other_streams) < STREAMS_COUNTED_MAX:
            self.other_streams.add(stream)
        return False

    def summed(self) -> list[Line]:
        """The lines that are shown at its end."""
        lines = [repeats.summed() for repeats in self.by_stream.values()]
        lines.append(self.others.summed(len(self.other_streams)))
        return [line for line in lines if line is not None]


class LogHandler(logging.Handler):
    """Makes lines and sums repeats. Any thread may log; only the owner calls `attach` and `close`.

    Windows end when the next line comes, when the loop's timer fires (after `attach`), at `close`.
    """

    def __init__(self, stream: TextIO, clock: Clock, *, is_json: bool) -> None:
        super().__init__()
        self._clock = clock
        self._format_line = format_json if is_json else format_text
        self._windows: dict[_Site, _Window] = {}  # by ends_ns, because all are equally long
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_timer_set = False
        self._is_over = False  # a last line was shown
        # Of the windows: lines come from any thread, timers from one.
        self._guard = threading.RLock()
        self.recent = Recent()
        self.fields: Mapping[str, Value] = {}  # in each line: which process of several logs it
        self.queue = LogQueue(write_to(stream), self._dropped_line)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on, this loop's timer ends windows even if no other line comes."""
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Shows the line, or counts it."""
        try:
            with self._guard:
                is_last = getattr(record, "is_last", False)
                if self._is_over and not is_last and record.levelno < logging.ERROR:
                    return
                self._is_over |= is_last
                self.end_windows(all_of_them=is_last)
                site, line = (record.pathname, record.lineno), read_record(record, with_stack=False)
                if record.levelno >= logging.WARNING:
                    self.recent.note(site, line, self._clock.now_ns())
                is_always_shown = is_last or getattr(record, "is_always_shown", False)
                if is_always_shown or self._is_shown(site, line):
                    self._put(read_record(record, with_stack=True))
        except Exception:  # noqa: BLE001 - a log line must not end the work that it is about
            self.handleError(record)

    def _is_shown(self, site: _Site, line: Line) -> bool:
        """Whether the window of the site shows the line; otherwise the line is counted there."""
        window = self._windows.get(site)
        if window is None:
            window = self._windows[site] = _Window(self._clock.now_ns() + WINDOW_NS)
        if window.take(str(line.fields.get("stream", "")), line):
            return True
        self._set_timer()
        return False

    def end_windows(self, *, all_of_them: bool = False) -> None:
        """Shows how often each line was repeated in the windows that are over."""
        now_ns = self._clock.now_ns()
        while self._windows:
            site = next(iter(self._windows))
            if not all_of_them and self._windows[site].ends_ns > now_ns:
                return
            for line in self._windows.pop(site).summed():
                self._put(line)

    def flush(self) -> None:
        """Waits until everything is written, CLOSE_TIMEOUT_S at most. Not for the event loop."""
        self.queue.flush(CLOSE_TIMEOUT_S)

    def close(self) -> None:
        """Ends all windows, waits until everything is written, CLOSE_TIMEOUT_S at most, and writes
        no more. The stream stays open: it is not ours.
        """
        logging.getLogger().removeHandler(self)
        with self._guard:
            self._loop = None
            self.end_windows(all_of_them=True)
        self.queue.close(CLOSE_TIMEOUT_S)
        super().close()

    def _put(self, line: Line) -> None:
        if self.fields:
            line = replace(line, fields={**self.fields, **line.fields})
        self.queue.put(self._format_line(line).encode(errors="backslashreplace") + b"\n")

    def _dropped_line(self, count: int) -> bytes:
        text = "lines of the log were dropped: nobody read it, or it could not be written"
        line = Line(
            datetime.now(UTC).timestamp(), "warning", "kdaemon.observe", text, {"lines": count}
        )
        return self._format_line(line).encode() + b"\n"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Shows that a line could not be made (a field's text raised an error, for example)."""
        line = Line(
            record.created, "error", record.name, "a line of the log could not be made",
            {"file": record.pathname, "line": record.lineno},
        )  # fmt: skip
        self._put(line)

    def _set_timer(self) -> None:
        if self._loop is not None and not self._is_timer_set and not self._loop.is_closed():
            self._is_timer_set = True
            self._loop.call_soon_threadsafe(self._start_timer)

    def _start_timer(self) -> None:
        """Runs in the loop. Sets the timer to the end of the oldest window with a repeat."""
        with self._guard:
            ends = [window.ends_ns for window in self._windows.values() if window.has_repeats]
            if self._loop is None or not ends:
                self._is_timer_set = False
                return
            wait_ns = max(0, min(ends) - self._clock.now_ns())
            self._loop.call_later(wait_ns / 1e9, self._ring)

    def _ring(self) -> None:
        with self._guard:
            self.end_windows()
        self._start_timer()


def configure_logs(settings: LogConfig, stream: TextIO, clock: Clock) -> LogHandler:
    """Sends all logging of the process to `stream`; returns the handler, to attach and to close."""
    is_terminal = stream.isatty()
    is_json = settings.format == "json" or (settings.format == "auto" and not is_terminal)
    handler = LogHandler(stream, clock, is_json=is_json)
    root = logging.getLogger()
    for other in list(root.handlers):
        if isinstance(other, LogHandler):
            other.close()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    set_level(settings.level)
    return handler


def set_level(level: str) -> None:
    """From now on lines of this level and above are shown. `level`: one of LEVELS."""
    logging.getLogger("kdaemon").setLevel(LEVELS[level])


def read_record(record: logging.LogRecord, *, with_stack: bool) -> Line:
    """The values of a record. Without its stack, an exception is shown by its last line."""
    error = record.exc_info[1] if record.exc_info else None
    stack = "" if error is None else _stack(error, is_whole=with_stack)
    given = getattr(record, "fields", None)
    fields = given if isinstance(given, Mapping) else {}
    return Line(
        record.created,
        record.levelname.lower(),
        record.name,
        _bounded(record.getMessage()),
        {str(name): _plain(value) for name, value in fields.items()},
        stack,
    )


def words_of(line: Line) -> str:
    """A line's text, fields and the end of its stack, on one line."""
    words = [_shown(line.text)]
    words += [f"{name}={value}" for name, value in _shown_fields(line).items()]
    if line.stack:
        words.append(_shown(line.stack))
    return " ".join(words)


def format_json(line: Line) -> str:
    """One JSON object: time, level, logger, text; where there are any: fields, repeated,
    other_streams, stack.
    """
    told: dict[str, object] = {
        "time": _utc(line).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": line.level,
        "logger": line.logger,
        "text": _shown(line.text),
    }
    if line.fields:
        told["fields"] = _shown_fields(line)
    if line.repeat_count:
        told["repeated"] = line.repeat_count
    if line.stream_count is not None:
        told["other_streams"] = line.stream_count
    if line.stack:
        told["stack"] = _shown_stack(line)
    return msgspec.json.encode(told).decode()


def format_text(line: Line) -> str:
    """For people: local time, level, logger, text, fields. A stack is indented below, so that no
    text in it can look like a line of the log.
    """
    time = _utc(line).astimezone().strftime("%H:%M:%S")
    words = [words_of(replace(line, stack=""))]
    if line.repeat_count:
        streams = "" if line.stream_count is None else f" for {line.stream_count} other streams"
        words.append(f"(and {line.repeat_count} more{streams} in {WINDOW_NS // 10**9} s)")
    told = f"{time} {line.level:7} {line.logger}: {' '.join(words)}"
    if line.stack:
        told += "\n    " + _shown_stack(line).replace("\n", "\n    ")
    return told


def _utc(line: Line) -> datetime:
    return datetime.fromtimestamp(line.created, UTC)


def _plain(value: object) -> Value:
    """A field's value as a number, a truth or a bounded text."""
    if value is None or isinstance(value, bool | float):
        return value
    # A hash key is longer: JSON gets it as a text.
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return _bounded(str(value))


def _bounded(text: str) -> str:
    """A text short enough to keep. It is longer than what is shown, so that no secret is cut in two
    before it is cleaned.
    """
    return text if len(text) <= 4 * VALUE_CHARACTERS_MAX else text[: 4 * VALUE_CHARACTERS_MAX]


def _shown(text: str) -> str:
    return printable(SECRETS.clean(text), VALUE_CHARACTERS_MAX)


def _shown_fields(line: Line) -> dict[str, Value]:
    return {
        _shown(name): _shown(value) if isinstance(value, str) else value
        for name, value in line.fields.items()
    }


def _shown_stack(line: Line) -> str:
    return printable_lines(SECRETS.clean(line.stack), STACK_CHARACTERS_MAX)


def _stack(error: BaseException, *, is_whole: bool) -> str:
    """The end of the traceback, which has the cause; or the cause alone."""
    told = traceback.format_exception(error) if is_whole else traceback.format_exception_only(error)
    return "".join(told).rstrip("\n")[-STACK_CHARACTERS_MAX:]
