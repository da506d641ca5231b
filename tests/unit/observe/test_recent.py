"""Warnings and errors of the log, with counts, for who looks at a page."""

import io
import logging
from collections.abc import Iterator

import pytest

from kdaemon.observe.logs import LogHandler, words_of
from kdaemon.observe.recent import PLACES_MAX, Recent
from tests.kit.clock import HandClock

log = logging.getLogger("kdaemon.test_recent")


@pytest.fixture
def handler() -> Iterator[LogHandler]:
    handler = LogHandler(io.StringIO(), HandClock(1_000), is_json=True)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    handler.close()


def told(recent: Recent, now_ns: int = 1_000) -> list[tuple[int, str, str]]:
    return [(each.count, each.line.level, words_of(each.line)) for each in recent.snapshot(now_ns)]


def test_lines_of_a_place_are_one_entry_whether_shown_or_summed(handler: LogHandler) -> None:
    for number in range(3):
        log.warning("a call failed", extra={"fields": {"stream": "a", "number": number}})
    log.info("nobody need know")
    log.error("the end", extra={"is_always_shown": True})
    assert told(handler.recent) == [
        (1, "error", "the end"),
        (3, "warning", "a call failed stream=a number=2"),
    ]
    assert handler.recent.snapshot(4_000)[0].age_ns == 3_000


def test_an_exception_is_told_by_its_last_line_and_secrets_are_hidden(handler: LogHandler) -> None:
    try:
        int("password=hunter2hunter2")
    except ValueError:
        log.exception("it broke")
    ((count, _, words),) = told(handler.recent)
    assert (count, words.endswith(": 'password=***'")) == (1, True), words


def test_the_places_that_spoke_last_are_kept(handler: LogHandler) -> None:
    recent, line = Recent(), None
    log.warning("one")
    (said,) = handler.recent.snapshot(0)
    line = said.line
    for number in range(PLACES_MAX + 3):
        recent.note(("file.py", number), line, number)
    recent.note(("file.py", 5), line, 100)
    found = recent.snapshot(100)
    assert len(found) == PLACES_MAX
    assert (found[0].count, found[0].age_ns) == (2, 0)
    assert found[-1].age_ns == 100 - 3
