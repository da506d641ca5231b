import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from kdaemon.config import LogConfig
from kdaemon.observe.logs import WINDOW_NS, LogHandler, configure_logs, format_json


class FakeClock:
    def __init__(self) -> None:
        self.time_ns = 1_000

    def now_ns(self) -> int:
        return self.time_ns


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


log = logging.getLogger("kdaemon.test")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def _restore_levels() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("kdaemon")
    levels = root.level, ours.level
    yield
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def handler(out: io.StringIO, clock: FakeClock) -> Iterator[LogHandler]:
    handler = configure_logs(LogConfig(), out, clock)
    yield handler
    handler.close()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def throttled(**fields: object) -> None:
    """One call site, as a room has it."""
    log.warning("shard throttled", extra={"fields": fields})


def test_off_a_terminal_a_line_is_json(handler: LogHandler, out: io.StringIO) -> None:
    log.info("listening", extra={"fields": {"port": 8990, "bytes": b"secret"}})
    (line,) = lines(out)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "kdaemon.test",
        "text": "listening",
        "fields": {"port": 8990, "bytes": "<6 bytes>"},
    }


def test_on_a_terminal_a_line_is_text_without_control_characters(clock: FakeClock) -> None:
    out = Terminal()
    handler = configure_logs(LogConfig(), out, clock)
    log.info("listening", extra={"fields": {"stream": "a\x1b[2J\nb"}})
    handler.close()
    assert out.getvalue().count("\n") == 1
    assert "info    kdaemon.test: listening stream=a\\x1b[2J\\nb\n" in out.getvalue()


def test_format_is_as_set_whatever_the_stream(clock: FakeClock) -> None:
    out = Terminal()
    handler = configure_logs(LogConfig(format="json"), out, clock)
    log.info("x")
    handler.close()
    assert lines(out)[0]["text"] == "x"


def test_repeats_within_the_window_are_counted_and_told_at_the_next_line_after_it(
    handler: LogHandler, out: io.StringIO, clock: FakeClock
) -> None:
    for count in range(5):
        throttled(count=count)
    assert [line.get("repeated") for line in lines(out)] == [None]
    clock.time_ns += WINDOW_NS - 1
    log.info("something else")
    assert len(lines(out)) == 2
    clock.time_ns += 1
    log.info("and more")
    told = lines(out)[2]
    assert (told["text"], told["repeated"], told["fields"]) == ("shard throttled", 4, {"count": 4})
    assert lines(out)[3]["text"] == "and more"


def test_after_its_window_a_line_is_shown_again(
    handler: LogHandler, out: io.StringIO, clock: FakeClock
) -> None:
    throttled()
    clock.time_ns += WINDOW_NS
    throttled()
    assert [line.get("repeated") for line in lines(out)] == [None, None]


def test_each_stream_has_its_own_window(handler: LogHandler, out: io.StringIO) -> None:
    for stream in ("a", "b", "a"):
        throttled(stream=stream)
    assert [line["fields"] for line in lines(out)] == [{"stream": "a"}, {"stream": "b"}]


def test_a_line_that_is_always_shown_is_never_counted_away(
    handler: LogHandler, out: io.StringIO
) -> None:
    for port in (1, 2, 3):
        log.info("listening", extra={"is_always_shown": True, "fields": {"port": port}})
    assert len(lines(out)) == 3


def test_close_tells_what_was_counted_and_writes_no_more(
    handler: LogHandler, out: io.StringIO
) -> None:
    throttled()
    throttled()
    handler.close()
    assert lines(out)[-1]["repeated"] == 1
    throttled()
    assert len(lines(out)) == 2


async def test_the_loop_tells_of_repeats_though_no_line_follows(
    handler: LogHandler, out: io.StringIO, clock: FakeClock
) -> None:
    handler.attach(asyncio.get_running_loop())
    throttled()
    throttled()
    clock.time_ns += WINDOW_NS
    async with asyncio.timeout(5):
        while len(lines(out)) < 2:
            await asyncio.sleep(0)
    assert lines(out)[1]["repeated"] == 1


def test_other_libraries_are_heard_from_warning_up_even_at_debug(
    out: io.StringIO, clock: FakeClock
) -> None:
    handler = configure_logs(LogConfig(level="debug"), out, clock)
    logging.getLogger("botocore.auth").debug("a signature")
    logging.getLogger("botocore.auth").info("a signature")
    logging.getLogger("botocore.auth").warning("a warning")
    log.debug("ours")
    handler.close()
    assert [line["text"] for line in lines(out)] == ["a warning", "ours"]


def test_the_level_holds_back_what_is_below(out: io.StringIO, clock: FakeClock) -> None:
    handler = configure_logs(LogConfig(level="error"), out, clock)
    log.warning("no")
    log.error("yes")
    handler.close()
    assert [line["text"] for line in lines(out)] == ["yes"]


def test_an_exception_comes_with_its_stack_in_the_same_line(
    handler: LogHandler, out: io.StringIO
) -> None:
    try:
        int("one")
    except ValueError:
        log.exception("failed")
    (line,) = lines(out)
    assert line["stack"].endswith("invalid literal for int() with base 10: 'one'\n")


def test_a_log_whose_reader_is_gone_does_not_end_the_program(
    clock: FakeClock, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    handler = configure_logs(LogConfig(), out, clock)
    out.close()
    log.error("nobody reads")
    log.error("nobody reads", extra={"fields": {"stream": "b"}})
    handler.close()
    assert capsys.readouterr().err == ""


def test_configuring_again_replaces_the_first(
    handler: LogHandler, out: io.StringIO, clock: FakeClock
) -> None:
    second = io.StringIO()
    other = configure_logs(LogConfig(), second, clock)
    log.info("x")
    other.close()
    assert out.getvalue() == ""
    assert len(lines(second)) == 1


@pytest.mark.parametrize("value", ["\udcff", "x" * 100_000, object(), 2**128, float("nan"), None])
def test_any_field_gives_a_json_line_of_bounded_length(value: object) -> None:
    record = log.makeRecord(
        "kdaemon.x", 20, "f", 1, "text", (), None, extra={"fields": {"v": value}}
    )
    line = format_json(record, 0)
    assert "v" in json.loads(line)["fields"]
    assert len(line) < 2_000
