import io
import json
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kdaemon.config import LogConfig
from kdaemon.observe.stderr import LINE_CHARACTERS_MAX, process_logs
from kdaemon.system import SystemClock


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@contextmanager
def logged(out: io.StringIO) -> Iterator[None]:
    """The process's log, with `out` as its standard error. In the test: pytest has its own, anew
    in each phase.
    """
    before, sys.stderr = sys.stderr, out
    try:
        with process_logs(LogConfig(), SystemClock()):
            yield
    finally:
        sys.stderr = before


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_what_is_printed_to_stderr_becomes_lines_of_the_log(out: io.StringIO) -> None:
    with logged(out):
        print("a library's \x1b[31mwords", file=sys.stderr)
        sys.stderr.write("in ")
        sys.stderr.write("parts\nand\n")
    told = [line["text"] for line in lines(out)]
    assert told == ["a library's \\x1b[31mwords", "in parts", "and"]


def test_a_line_without_end_is_bounded(out: io.StringIO) -> None:
    with logged(out):
        for _ in range(3):
            sys.stderr.write("x" * LINE_CHARACTERS_MAX)
            sys.stderr.write("x")
    assert len(lines(out)) == 3


def test_warnings_go_to_the_log(out: io.StringIO) -> None:
    with logged(out), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines(out)
    assert line["logger"] == "py.warnings"
    assert "DeprecationWarning: old" in line["text"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_errors_that_nobody_caught_go_to_the_log_with_their_stacks(out: io.StringIO) -> None:
    def fails() -> None:
        raise ValueError("of a thread")

    class Finalized:
        def __del__(self) -> None:
            raise ValueError("of a finalizer")

    with logged(out):
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()
        held = Finalized()
        del held
        sys.excepthook(ValueError, ValueError("of the process"), None)
    stacks = [line["stack"] for line in lines(out)]
    for end, stack in zip(("a thread", "a finalizer", "the process"), stacks, strict=True):
        assert stack.endswith(f"ValueError: of {end}")


def test_afterwards_everything_is_as_it_was(out: io.StringIO) -> None:
    before = (sys.stderr, sys.excepthook, sys.unraisablehook, threading.excepthook)
    with logged(out):
        assert sys.stderr is not out
    assert (sys.stderr, sys.excepthook, sys.unraisablehook, threading.excepthook) == before
