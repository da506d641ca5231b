import asyncio
import gc
import io
import json
import logging
import weakref
from collections.abc import Iterator
from typing import Any, cast

import pytest

from kdaemon.base.redact import SECRETS
from kdaemon.config import LogConfig
from kdaemon.observe.logs import (
    STREAMS_COUNTED_MAX,
    STREAMS_SHOWN_MAX,
    WINDOW_NS,
    LogHandler,
    configure_logs,
    format_json,
    read_record,
)
from tests.kit.clock import HandClock
from tests.kit.patience import until


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


log = logging.getLogger("kdaemon.test")


@pytest.fixture
def clock() -> HandClock:
    return HandClock(1_000)


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
def handler(out: io.StringIO, clock: HandClock) -> Iterator[LogHandler]:
    handler = configure_logs(LogConfig(), out, clock)
    yield handler
    handler.close()


def written(out: io.StringIO) -> str:
    """What stands there when the log's thread has nothing more to write."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    return out.getvalue()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(out).splitlines()]


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


def test_on_a_terminal_a_line_is_text_without_control_characters(clock: HandClock) -> None:
    out = Terminal()
    handler = configure_logs(LogConfig(), out, clock)
    log.info("listening", extra={"fields": {"stream": "a\x1b[2J\nb"}})
    handler.close()
    assert out.getvalue().count("\n") == 1
    assert "info    kdaemon.test: listening stream=a\\x1b[2J\\nb\n" in out.getvalue()


def test_format_is_as_set_whatever_the_stream(clock: HandClock) -> None:
    out = Terminal()
    handler = configure_logs(LogConfig(format="json"), out, clock)
    log.info("x")
    handler.close()
    assert lines(out)[0]["text"] == "x"


def test_repeats_within_the_window_are_counted_and_told_at_the_next_line_after_it(
    handler: LogHandler, out: io.StringIO, clock: HandClock
) -> None:
    for count in range(5):
        throttled(count=count)
    assert [line.get("repeated") for line in lines(out)] == [None]
    clock.ns += WINDOW_NS - 1
    log.info("something else")
    assert len(lines(out)) == 2
    clock.ns += 1
    log.info("and more")
    told = lines(out)[2]
    assert (told["text"], told["repeated"], told["fields"]) == ("shard throttled", 4, {"count": 4})
    assert lines(out)[3]["text"] == "and more"


def test_after_its_window_a_line_is_shown_again(
    handler: LogHandler, out: io.StringIO, clock: HandClock
) -> None:
    throttled()
    clock.ns += WINDOW_NS
    throttled()
    assert [line.get("repeated") for line in lines(out)] == [None, None]


def test_each_stream_is_shown_once_in_a_window(handler: LogHandler, out: io.StringIO) -> None:
    for stream in ("a", "b", "a"):
        throttled(stream=stream)
    assert [line["fields"] for line in lines(out)] == [{"stream": "a"}, {"stream": "b"}]


def test_many_streams_at_one_call_site_are_told_by_one_line(
    handler: LogHandler, out: io.StringIO, clock: HandClock
) -> None:
    """What a line said of 95 missing streams made 500 lines a second."""
    for _ in range(50):
        for number in range(95):
            throttled(stream=f"stream-{number:02}")
    assert len(lines(out)) == STREAMS_SHOWN_MAX
    clock.ns += WINDOW_NS
    log.info("another")
    *repeats, rest, _ = lines(out)[STREAMS_SHOWN_MAX:]
    assert [line["repeated"] for line in repeats] == [49] * STREAMS_SHOWN_MAX
    assert (rest["repeated"], rest["other_streams"]) == (50 * 75, 75)


def test_streams_without_end_are_counted_within_a_bound(
    handler: LogHandler, out: io.StringIO
) -> None:
    for number in range(3 * STREAMS_COUNTED_MAX):
        throttled(stream=f"stream-{number}")
    handler.close()
    assert len(lines(out)) == STREAMS_SHOWN_MAX + 1
    assert lines(out)[-1]["repeated"] == 3 * STREAMS_COUNTED_MAX - STREAMS_SHOWN_MAX
    assert lines(out)[-1]["other_streams"] == STREAMS_COUNTED_MAX


def test_on_a_terminal_the_sum_is_said_in_words(clock: HandClock) -> None:
    out = Terminal()
    handler = configure_logs(LogConfig(), out, clock)
    for number in range(STREAMS_SHOWN_MAX + 3):
        throttled(stream=f"s{number}")
    handler.close()
    assert "(and 3 more for 3 other streams in 10 s)" in out.getvalue()


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
    handler: LogHandler, out: io.StringIO, clock: HandClock
) -> None:
    handler.attach(asyncio.get_running_loop())
    throttled()
    throttled()
    clock.ns += WINDOW_NS
    await until(lambda: len(lines(out)) >= 2)
    assert lines(out)[1]["repeated"] == 1


def test_after_the_last_words_nothing_but_errors_and_other_last_words(
    handler: LogHandler, out: io.StringIO
) -> None:
    """A call that was out when the end was told fails while the daemon closes: no line may make an
    operator, or who reads the last line, miss what was left.
    """
    log.info("stopped", extra={"is_last": True})
    log.warning("a call failed")
    assert [line["text"] for line in lines(out)] == ["stopped"]
    log.error("a defect")
    log.warning("not all could be closed", extra={"is_last": True})
    texts = [line["text"] for line in lines(out)]
    assert texts == ["stopped", "a defect", "not all could be closed"]


def test_other_libraries_are_heard_from_warning_up_even_at_debug(
    out: io.StringIO, clock: HandClock
) -> None:
    handler = configure_logs(LogConfig(level="debug"), out, clock)
    logging.getLogger("botocore.auth").debug("a signature")
    logging.getLogger("botocore.auth").info("a signature")
    logging.getLogger("botocore.auth").warning("a warning")
    log.debug("ours")
    handler.close()
    assert [line["text"] for line in lines(out)] == ["a warning", "ours"]


def test_the_level_holds_back_what_is_below(out: io.StringIO, clock: HandClock) -> None:
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
    assert line["stack"].endswith("invalid literal for int() with base 10: 'one'")


def test_a_stack_cannot_look_like_a_line(clock: HandClock) -> None:
    out = Terminal()
    handler = configure_logs(LogConfig(), out, clock)
    error = ValueError("a\n12:00:00 error   kdaemon: forged\x1b[2J")
    log.error("failed", exc_info=error)
    handler.close()
    assert not any(line.startswith("12:00:00 error") for line in out.getvalue().splitlines())
    assert "\x1b" not in out.getvalue()


HARMFUL = "\x1b]0;x\x07\u202e\u200b\x9b\u2028"


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_what_others_wrote_is_printable_in_every_format(clock: HandClock, log_format: str) -> None:
    out = io.StringIO()
    handler = configure_logs(LogConfig(format=cast("Any", log_format)), out, clock)
    fields = {HARMFUL: HARMFUL, "stream": HARMFUL}
    log.error("text %s", HARMFUL, extra={"fields": fields}, exc_info=ValueError(HARMFUL))
    handler.close()
    assert all(c.isprintable() or c == "\n" for c in out.getvalue())
    if log_format == "json":
        shown = json.dumps(json.loads(out.getvalue()), ensure_ascii=False)
        assert "\\\\x1b]0;x" in shown
        assert shown.isprintable()


def test_secrets_are_hidden_in_text_fields_and_stack(handler: LogHandler, out: io.StringIO) -> None:
    SECRETS.register("a-registered-secret-of-ours")
    fields = {"message": "a-registered-secret-of-ours", "url": "http://u:sekrit@h"}
    log.error(
        "said: Authorization: AWS4-HMAC-SHA256 Credential=sekrit",
        extra={"fields": fields},
        exc_info=ValueError("X-Amz-Security-Token: sekrit and a-registered-secret-of-ours"),
    )
    text = written(out)
    assert "sekrit" not in text
    assert "a-registered-secret" not in text
    assert json.loads(text)["fields"]["url"] == "http://***@h"


def test_a_counted_line_keeps_no_exception_alive(handler: LogHandler) -> None:
    """Its frames hold whatever was in hand: requests of clients, say."""

    class Held:
        pass

    def fails() -> weakref.ref[Held]:
        held = Held()
        try:
            int("x")
        except ValueError as error:
            record = log.makeRecord(
                "kdaemon.x", 40, "file", 1, "failed", (), (ValueError, error, error.__traceback__),
                extra={"fields": {"held": held}},
            )  # fmt: skip
            handler.emit(record)
        return weakref.ref(held)

    refs = [fails() for _ in range(3)]
    gc.collect()  # the record and its frame are a cycle of this test
    assert [ref() for ref in refs] == [None, None, None]


def test_a_line_that_cannot_be_made_is_told_and_ends_nothing(
    handler: LogHandler, out: io.StringIO
) -> None:
    class Unshowable:
        def __str__(self) -> str:
            raise RuntimeError("no")

    log.info("x", extra={"fields": {"v": Unshowable()}})
    assert lines(out)[-1]["text"] == "a line of the log could not be made"


def test_a_log_whose_reader_is_gone_does_not_end_the_program(
    clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    out = io.StringIO()
    handler = configure_logs(LogConfig(), out, clock)
    out.close()
    log.error("nobody reads")
    log.error("nobody reads", extra={"fields": {"stream": "b"}})
    handler.flush()
    assert handler.queue.lines_dropped == 2
    handler.close()
    assert capsys.readouterr().err == ""


def test_configuring_again_replaces_the_first(
    handler: LogHandler, out: io.StringIO, clock: HandClock
) -> None:
    second = io.StringIO()
    other = configure_logs(LogConfig(), second, clock)
    log.info("x")
    other.close()
    assert written(out) == ""
    assert len(lines(second)) == 1


@pytest.mark.parametrize("value", ["\udcff", "x" * 100_000, object(), 2**128, float("nan"), None])
def test_any_field_gives_a_json_line_of_bounded_length(value: object) -> None:
    record = log.makeRecord(
        "kdaemon.x", 20, "f", 1, "text", (), None, extra={"fields": {"v": value}}
    )
    line = format_json(read_record(record, with_stack=True))
    assert "v" in json.loads(line)["fields"]
    assert len(line) < 2_000
