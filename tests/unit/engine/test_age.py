"""Records that are too old, by a clock that may be wrong: what was stored is tried once before."""

from dataclasses import replace

import pytest

from kdaemon.base.counters import DeadReason
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Acknowledge, Frame
from kdaemon.base.record import Record
from kdaemon.settle.ledger import EXPIRED
from kdaemon.spool.held import letters_of
from tests.kit.engine_rig import SETTINGS, Rig
from tests.kit.frames import SECOND, delivered, failed, make_frame

MAX_AGE_NS = 1000 * SECOND
NOT_SENT = ServiceError(Trouble.CONNECT, "refused", was_sent=False)


def a_frame(rig: Rig, count: int, acknowledge: Acknowledge) -> Frame:
    records = []
    for _ in range(count):
        rig.record_count += 1
        records.append(Record(b"%08d" % rig.record_count, "k"))
    frame = make_frame(records)
    frame.acknowledge = acknowledge
    return frame


def spooled(rig: Rig, count: int = 2, *, age_ns: int = 2 * MAX_AGE_NS) -> Frame:
    frame = a_frame(rig, count, Acknowledge.STORED)
    frame.accepted_ns = rig.now_ns - age_ns
    rig.counters.recovered += count
    rig.counters.spooled += count
    assert rig.engine.handle_spooled(frame, rig.now_ns)
    return frame


def a_rig() -> Rig:
    return Rig(replace(SETTINGS, max_age_ns=MAX_AGE_NS, batch_records_max=4))


def test_what_was_never_tried_is_tried_though_it_is_too_old() -> None:
    rig = a_rig()
    frames = [spooled(rig) for _ in range(6)]
    while any(frame.unsettled for frame in frames):
        batch = rig.poll()
        if batch is None:
            rig.wait()
        else:
            rig.answer(batch)
    assert rig.counters.dead[DeadReason.EXPIRED] == 0
    assert rig.counters.delivered == 12


@pytest.mark.parametrize("how", ["call", "records", "one of them"])
def test_what_was_tried_and_failed_expires(how: str) -> None:
    rig = a_rig()
    frame = spooled(rig)
    batch = rig.call()
    if how == "call":
        rig.fail(batch, NOT_SENT)
    else:
        first = delivered() if how == "one of them" else failed("InternalFailure")
        rig.answer(batch, [first, failed("InternalFailure")])
    rig.now_ns += 2 * SECOND
    while rig.engine.next_wakeup_ns() is not None and frame.unsettled and not frame.is_abandoned:
        rig.poll()
        if not frame.is_abandoned:
            rig.now_ns += SECOND
    assert rig.settled() == [frame]
    assert rig.counters.dead[DeadReason.EXPIRED] == (1 if how == "one of them" else 2)


def test_what_expires_says_how_often_it_was_sent_and_what_failed_last() -> None:
    """Its dead letters are all that is left of it, and of why."""
    rig = a_rig()
    frame = spooled(rig)
    for _ in range(2):
        rig.fail(rig.call(), NOT_SENT)
        rig.wait()
    denied = ServiceError("AccessDeniedException", "Not for you.", status=400)
    rig.fail(rig.call(), denied)
    rig.now_ns += 2 * SECOND
    while not frame.is_abandoned:
        rig.engine.handle_timeout(rig.now_ns)
        rig.now_ns += SECOND
    letters = letters_of("orders", frame, 1, 2)
    assert [letter.attempts for letter in letters] == [3, 3]
    assert {letter.reason for letter in letters} == {"expired"}
    assert {letter.code for letter in letters} == {"Expired"}
    last = "The last error was AccessDeniedException: Not for you."
    assert {letter.message for letter in letters} == {f"{EXPIRED.error_message} {last}"}


def test_an_error_from_before_a_record_came_is_not_why_it_expired() -> None:
    rig = a_rig()
    spooled(rig)
    rig.fail(rig.call(), NOT_SENT)
    rig.now_ns += SECOND
    frame = a_frame(rig, 1, Acknowledge.ACCEPTED)
    assert rig.engine.handle_frame(frame, rig.now_ns)
    rig.now_ns += MAX_AGE_NS
    rig.engine.handle_timeout(rig.now_ns)
    (letter,) = letters_of("orders", frame, 1, 2)
    assert letter.message == EXPIRED.error_message
    assert letter.attempts == 0


def test_while_nothing_can_be_sent_what_was_stored_waits() -> None:
    rig = a_rig()
    frames = [spooled(rig) for _ in range(3)]
    rig.fail(rig.call(), NOT_SENT)  # the first two
    for _ in range(5):
        rig.now_ns += 1
        rig.engine.handle_timeout(rig.now_ns)
        rig.now_ns += 2 * SECOND
    rig.engine.handle_timeout(rig.now_ns)
    assert [frame.is_abandoned for frame in frames] == [True, True, False]


def test_what_was_only_accepted_expires_by_its_age_alone() -> None:
    rig = a_rig()
    frame = a_frame(rig, 2, Acknowledge.ACCEPTED)
    assert rig.engine.handle_frame(frame, rig.now_ns)
    rig.now_ns += MAX_AGE_NS
    rig.engine.handle_timeout(rig.now_ns)
    assert frame.is_abandoned
    assert rig.counters.dead[DeadReason.EXPIRED] == 2
