"""The ledger of frames: memory once, countdown once, counters that conserve."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.counters import DeadReason, RefuseReason
from kdaemon.base.counting import StreamCounters
from kdaemon.base.frame import Frame
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record, RecordResult
from kdaemon.settle.deadlines import pieces_of
from kdaemon.settle.ledger import IN_FLIGHT_AT_DEADLINE, FrameLedger, Parting
from tests.kit.depth import examples
from tests.kit.frames import MS, SECOND, delivered, failed, make_frame
from tests.kit.queues import settings_of

WITHDRAWN = failed("withdrawn")

MANY = 10**9  # pieces: no bound


def make(
    buffer_bytes: int = 1000, memory_bytes: int = 10_000
) -> tuple[FrameLedger, ByteBudget, StreamCounters]:
    memory, counters = ByteBudget(memory_bytes), StreamCounters()
    return (
        FrameLedger(settings_of(buffer_bytes_max=buffer_bytes), memory, counters),
        memory,
        counters,
    )


def frame_of(count: int, footprint_bytes: int = 100, deadline_ns: int | None = None) -> Frame:
    records = [Record(b"xyz", "k") for _ in range(count)]
    return make_frame(records, footprint_bytes=footprint_bytes, deadline_ns=deadline_ns)


def admit(ledger: FrameLedger, frame: Frame, now_ns: int = 0) -> bool:
    return ledger.admit(frame, sum(frame.sizes), now_ns)


def fly(counters: StreamCounters, count: int) -> None:
    counters.buffered -= count
    counters.in_flight += count


def land(
    ledger: FrameLedger, counters: StreamCounters, frame: Frame, indices: list[int], now_ns: int = 0
) -> None:
    counters.in_flight -= len(indices)
    if not frame.is_abandoned:
        for index in indices:
            frame.results[index] = delivered()
    ledger.deliver({frame: len(indices)}, 4 * len(indices), now_ns)


def test_an_admitted_frame_takes_its_memory_and_is_counted() -> None:
    ledger, memory, counters = make()
    frame = frame_of(3)
    assert admit(ledger, frame, 77)
    assert ledger.footprint_bytes == memory.bytes_taken == 100
    assert frame.accepted_ns == 77
    assert (counters.received, counters.accepted, counters.buffered) == (3, 3, 3)
    assert (counters.received_bytes, counters.accepted_bytes) == (12, 12)
    assert counters.unaccounted() == 0


def test_of_a_frame_that_is_taken_in_part_the_rest_is_refused_at_once() -> None:
    ledger, memory, counters = make()
    frame = frame_of(3)
    no = failed()
    assert ledger.admit(frame, 12, 0, {1: no})
    assert frame.results == [None, no, None]
    assert (frame.unsettled, ledger.footprint_bytes) == (2, 100)
    assert (counters.received, counters.accepted, counters.buffered) == (3, 2, 2)
    assert (counters.received_bytes, counters.accepted_bytes) == (12, 8)
    assert counters.rejected[RefuseReason.FULL] == 1
    assert counters.unaccounted() == 0
    fly(counters, 2)
    land(ledger, counters, frame, [0, 2])
    assert ledger.take_settled() == [frame]
    assert frame.results[1] is no
    assert memory.bytes_taken == 0
    assert counters.unaccounted() == 0


def test_there_is_as_much_room_as_the_smaller_of_both_budgets_has() -> None:
    for buffer_bytes, memory_bytes in ((1000, 400), (400, 1000)):
        ledger, _, _ = make(buffer_bytes, memory_bytes)
        admit(ledger, frame_of(1))
        assert ledger.free_bytes() == 300


def test_a_ledger_is_calm_while_all_it_would_hold_is_a_part_of_what_is_free() -> None:
    for buffer_bytes, memory_bytes in ((1000, 400), (400, 1000)):
        ledger, _, _ = make(buffer_bytes, memory_bytes)
        admit(ledger, frame_of(1))
        assert ledger.is_calm(50, 2)
        assert not ledger.is_calm(51, 2)
        assert not ledger.is_calm(1, 3)


@pytest.mark.parametrize(("buffer_bytes", "memory_bytes"), [(250, 10_000), (10_000, 250)])
def test_when_full_nothing_is_taken_and_the_refusal_is_counted(
    buffer_bytes: int, memory_bytes: int
) -> None:
    ledger, memory, counters = make(buffer_bytes, memory_bytes)
    assert admit(ledger, frame_of(1))
    assert admit(ledger, frame_of(1))
    assert ledger.has_room(50)
    assert not ledger.has_room(51)
    assert not admit(ledger, frame_of(5, deadline_ns=SECOND))
    assert ledger.footprint_bytes == memory.bytes_taken == 200
    assert counters.rejected[RefuseReason.FULL] == 5
    assert (counters.received, counters.accepted) == (7, 2)
    assert counters.unaccounted() == 0
    assert ledger.next_sweep_ns() is None, "a refused frame has no deadline to keep"
    assert ledger.take_settled() == []


def test_two_streams_share_the_memory_and_each_has_its_own_part() -> None:
    memory = ByteBudget(300)
    ledgers = [
        FrameLedger(settings_of(buffer_bytes_max=200), memory, StreamCounters()) for _ in range(2)
    ]
    assert admit(ledgers[0], frame_of(1))
    assert admit(ledgers[0], frame_of(1))
    assert not admit(ledgers[0], frame_of(1)), "its own part is full"
    assert admit(ledgers[1], frame_of(1))
    assert not admit(ledgers[1], frame_of(1)), "there is no memory left"


def test_a_frame_is_settled_by_its_last_record_once() -> None:
    ledger, memory, counters = make()
    frame = frame_of(3)
    admit(ledger, frame, 10 * MS)
    fly(counters, 3)
    land(ledger, counters, frame, [0, 2], 15 * MS)
    assert ledger.take_settled() == []
    assert memory.bytes_taken == 100
    land(ledger, counters, frame, [1], 30 * MS)
    assert ledger.take_settled() == [frame]
    assert ledger.take_settled() == []
    assert ledger.footprint_bytes == memory.bytes_taken == 0
    assert (counters.delivered, counters.delivered_bytes) == (3, 12)
    assert counters.delivery_ns.sum == 2 * 5 * MS + 20 * MS
    assert counters.unaccounted() == 0


def test_a_dead_record_settles_as_a_delivered_one_does() -> None:
    ledger, memory, counters = make()
    frame = frame_of(2)
    admit(ledger, frame)
    fly(counters, 2)
    land(ledger, counters, frame, [0])
    counters.in_flight -= 1
    refused = failed("ValidationException")
    ledger.bury(frame, 1, refused, 1)
    assert frame.results == [delivered(), refused]
    assert ledger.take_settled() == [frame]
    assert counters.dead[DeadReason.POISON] == 1
    assert counters.unaccounted() == 0
    assert memory.bytes_taken == 0


def test_a_settled_frame_has_no_deadline_left() -> None:
    ledger, _, counters = make()
    frame = frame_of(1, deadline_ns=SECOND)
    admit(ledger, frame)
    assert ledger.next_sweep_ns() == SECOND
    fly(counters, 1)
    land(ledger, counters, frame, [0])
    assert ledger.next_sweep_ns() is None
    assert ledger.take_expired(2 * SECOND, MANY) == []


def test_an_abandoned_frame_tells_each_record_what_became_of_it() -> None:
    ledger, memory, counters = make()
    frame = frame_of(4, deadline_ns=SECOND)
    admit(ledger, frame)
    fly(counters, 3)
    land(ledger, counters, frame, [1])
    assert ledger.take_expired(SECOND, MANY) == [frame]
    ledger.abandon([frame], {frame: {0, 2}}, Parting(WITHDRAWN), RefuseReason.DEADLINE)
    in_flight = IN_FLIGHT_AT_DEADLINE
    assert frame.results == [in_flight, delivered(), in_flight, WITHDRAWN]
    assert frame.is_abandoned
    assert ledger.take_settled() == [frame]
    assert ledger.footprint_bytes == memory.bytes_taken == 0
    assert counters.rejected[RefuseReason.DEADLINE] == 1
    assert counters.possible_duplicates == 2
    assert (counters.buffered, counters.in_flight) == (0, 2)
    assert counters.unaccounted() == 0


def test_late_news_of_an_abandoned_frame_is_counted_and_changes_nothing_else() -> None:
    ledger, memory, counters = make()
    frame = frame_of(2, deadline_ns=SECOND)
    admit(ledger, frame)
    fly(counters, 2)
    ledger.take_expired(SECOND, MANY)
    ledger.abandon([frame], {frame: {0, 1}}, Parting(WITHDRAWN), RefuseReason.DEADLINE)
    told = list(frame.results)
    ledger.take_settled()
    land(ledger, counters, frame, [0], 2 * SECOND)
    counters.in_flight -= 1
    ledger.bury(frame, 1, failed(), 1)
    assert frame.results == told, "what was told is not rewritten"
    assert ledger.take_settled() == []
    assert memory.bytes_taken == 0
    assert (counters.delivered, counters.dead[DeadReason.POISON]) == (1, 1)
    assert counters.unaccounted() == 0


def test_only_those_who_wait_are_taken_at_the_end_of_a_drain() -> None:
    ledger, _, _ = make()
    waiting, patient = frame_of(1, deadline_ns=SECOND), frame_of(1)
    admit(ledger, waiting)
    admit(ledger, patient)
    assert ledger.take_waiting(MANY, SECOND) == [waiting]


def test_those_with_and_without_a_deadline_are_taken_together_in_slices() -> None:
    ledger, _, _ = make(buffer_bytes=10_000)
    frames = [frame_of(1, deadline_ns=SECOND if number % 2 else None) for number in range(8)]
    for number, frame in enumerate(frames):
        frame.on_settled = lambda _: None
        admit(ledger, frame, number)
    pieces = 3 * pieces_of(frames[0])
    slices = [ledger.take_waiting(pieces, 5) for _ in range(3)]
    assert [len(each) for each in slices] == [3, 3, 0]
    assert {frame for each in slices for frame in each} == set(frames[:6])


def test_what_is_told_of_a_record_in_flight_is_not_a_promise() -> None:
    assert not IN_FLIGHT_AT_DEADLINE.is_delivered
    assert IN_FLIGHT_AT_DEADLINE.error_code == "InternalFailure"


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "send", "deliver", "bury", "expire", "later"]),
        st.integers(0, 9),
        st.integers(1, 5),
    ),
    max_size=60,
)


@settings(deadline=None, print_blob=True, max_examples=examples(120))
@given(STEPS)
def test_whatever_happens_counters_conserve_and_memory_comes_back_once(steps: list[Step]) -> None:
    """Each record is queued, in flight, or told; frames are handed out once."""
    ledger, memory, counters = make(2000, 1500)
    now_ns = 0
    frames: list[Frame] = []
    queued: list[tuple[Frame, int]] = []
    flying: list[tuple[Frame, int]] = []
    told: list[Frame] = []
    for action, number, count in steps:
        if action == "admit":
            frame = frame_of(count, 100 * count, now_ns + SECOND if number % 2 else None)
            if admit(ledger, frame, now_ns):
                frames.append(frame)
                queued += [(frame, index) for index in range(count)]
        elif action == "send":
            flying += queued[:count]
            fly(counters, len(queued[:count]))
            del queued[:count]
        elif action == "deliver" and flying:
            frame, index = flying.pop(number % len(flying))
            land(ledger, counters, frame, [index], now_ns)
        elif action == "bury" and flying:
            frame, index = flying.pop(number % len(flying))
            counters.in_flight -= 1
            ledger.bury(frame, index, failed(), 1)
        elif action == "later":
            now_ns += number * SECOND // 5
        elif action == "expire":
            expired = ledger.take_expired(now_ns, MANY)
            in_flight: dict[Frame, set[int]] = {}
            for frame, index in flying:
                if frame in expired:
                    in_flight.setdefault(frame, set()).add(index)
            ledger.abandon(expired, in_flight, Parting(WITHDRAWN), RefuseReason.DEADLINE)
            queued = [(frame, index) for frame, index in queued if frame not in expired]
        told += ledger.take_settled()
        assert counters.unaccounted() == 0
        assert (counters.buffered, counters.in_flight) == (len(queued), len(flying))
        held = sum(frame.footprint_bytes for frame in frames if frame not in told)
        assert ledger.footprint_bytes == memory.bytes_taken == held <= 1500
        assert len(told) == len(set(told))
        for frame in told:
            assert all(isinstance(result, RecordResult) for result in frame.results)
