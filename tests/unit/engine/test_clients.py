"""Clients that share a stream: who is refused because too much of his waits, and who is not."""

from dataclasses import replace

import pytest

from kdaemon.base.admission import footprint_bytes
from kdaemon.base.counters import RefuseReason
from kdaemon.base.engine_settings import EngineSettings
from kdaemon.base.errors import ServiceError, Trouble
from kdaemon.base.frame import Frame
from kdaemon.base.limits import HASH_KEY_MAX, MIB
from kdaemon.base.memory import ByteBudget
from kdaemon.base.record import Record
from kdaemon.engine import Engine
from kdaemon.engine.crowding import LONG_RECORDS, QUEUE_NS_MAX
from tests.kit.engine_rig import SETTINGS, Rig, T
from tests.kit.frames import SECOND, LoadedDice, make_frame

NOT_SENT = ServiceError(Trouble.CONNECT, "", was_sent=False)
GREEDY, QUIET, NOBODY = 1, 2, 0
SHARD_COUNT = 4
WIDE = replace(SETTINGS, shard_records_per_second=100, buffer_bytes_max=64 * MIB)
JOINED = replace(WIDE, aggregate_bytes_max=50_000)


def rig_of(settings: EngineSettings = WIDE, shard_count: int = SHARD_COUNT) -> Rig:
    rig = Rig(settings, shard_count)
    rig.memory.bytes_max = 256 * MIB
    return rig


def frame_of(
    client: int,
    count: int = 1,
    *,
    shard: int | None = 0,
    size: int = 100,
    deadline_ns: int | None = None,
) -> Frame:
    """`shard`: in quarters of all hash keys; None: records without a key."""
    if shard is None:
        records = [Record(bytes(size), "") for _ in range(count)]
    else:
        hash_key = str(shard * (HASH_KEY_MAX // 4) + 1)
        records = [Record(bytes(size - 1), "k", hash_key) for _ in range(count)]
    frame = make_frame(records, deadline_ns=deadline_ns)
    frame.footprint_bytes = footprint_bytes(count, frame.byte_count)
    frame.client = client
    return frame


def taken_count(
    rig: Rig,
    client: int,
    records_max: int = 200_000,
    *,
    shard: int | None = 0,
    deadline_ns: int | None = None,
) -> int:
    """How many records of this client are taken, 500 at a time, until one is refused."""
    taken = 0
    while taken < records_max:
        frame = frame_of(client, 500, shard=shard, deadline_ns=deadline_ns)
        if not rig.engine.handle_frame(frame, rig.now_ns):
            return taken
        taken += frame.unsettled
        if frame.unsettled < 500:
            return taken
    return taken


@pytest.mark.parametrize(
    ("settings", "shard", "shards"),
    [
        (WIDE, 0, 1),  # of one shard, in a stream of several
        (WIDE, None, SHARD_COUNT),  # records without a key: all shards can take them
        (replace(WIDE, is_ordered=True), 0, 1),  # behind others of their key
    ],
)
def test_a_client_has_so_many_seconds_of_a_shard_and_the_others_are_taken(
    settings: EngineSettings, shard: int | None, shards: int
) -> None:
    rig = rig_of(settings)
    taken = taken_count(rig, GREEDY, shard=shard)
    seconds = QUEUE_NS_MAX // SECOND
    assert abs(taken - shards * seconds * settings.shard_records_per_second) <= 500
    assert rig.counters.rejected[RefuseReason.FULL] == 500
    assert rig.engine.handle_frame(frame_of(QUIET, shard=shard), rig.now_ns)
    assert rig.engine.handle_frame(frame_of(GREEDY, shard=3), rig.now_ns) or shard is None
    assert rig.counters.unaccounted() == 0


def test_where_nobody_knows_the_shards_it_is_seconds_of_the_one_lane() -> None:
    rig = Rig(WIDE, shard_count=1)
    rig.memory.bytes_max = 256 * MIB
    assert abs(taken_count(rig, GREEDY) - 3_000) <= 500
    assert rig.engine.handle_frame(frame_of(QUIET), rig.now_ns)


def test_who_waits_for_less_long_has_less_queued() -> None:
    rig = rig_of(replace(WIDE, shard_records_per_second=1_000))
    patience_ns = 5 * SECOND
    taken = taken_count(rig, GREEDY, deadline_ns=rig.now_ns + patience_ns)
    assert abs(taken - 5_000) <= 500


def test_a_burst_is_taken_whatever_a_shard_takes() -> None:
    rig = rig_of(replace(WIDE, shard_records_per_second=1))
    assert LONG_RECORDS <= taken_count(rig, GREEDY) <= LONG_RECORDS + 500


def test_aggregates_are_bounded_by_bytes_alone() -> None:
    rig = rig_of(JOINED)
    assert taken_count(rig, GREEDY, 30_000) == 30_000


def test_who_could_not_be_asked_to_wait_is_not_counted() -> None:
    """What stands on disk has bounds of its own (`spool/room.py`)."""
    rig = rig_of()
    assert taken_count(rig, NOBODY, 10_000) == 10_000


def test_a_patient_client_waits_and_nothing_is_counted() -> None:
    rig = rig_of()
    taken_count(rig, GREEDY)
    received = rig.counters.received
    assert not rig.engine.handle_frame(frame_of(GREEDY), rig.now_ns, is_patient=True)
    assert rig.engine.handle_frame(frame_of(QUIET), rig.now_ns, is_patient=True)
    assert rig.counters.received == received + 1


def test_of_a_crowded_shard_who_has_less_than_the_others_is_taken() -> None:
    rig = rig_of(replace(WIDE, shard_records_per_second=1_000, buffer_bytes_max=4 * MIB))
    assert taken_count(rig, GREEDY) < 4 * MIB // 580 // 2
    for _ in range(100):
        assert rig.engine.handle_frame(frame_of(QUIET), rig.now_ns)
    assert not rig.engine.handle_frame(frame_of(GREEDY), rig.now_ns)


def test_clients_that_crowd_a_shard_alike_are_refused_alike() -> None:
    rig = rig_of(replace(WIDE, shard_records_per_second=1_000, buffer_bytes_max=4 * MIB))
    clients = range(1, 51)
    is_taken = dict.fromkeys(clients, True)
    while any(is_taken.values()):
        for client in clients:
            frame = frame_of(client, 10)
            is_taken[client] = rig.engine.handle_frame(frame, rig.now_ns)
    assert rig.engine.ledger.footprint_bytes < 0.6 * 4 * MIB


@pytest.mark.parametrize("is_out", [False, True])
@pytest.mark.parametrize("greedy_count", [1, 8])
def test_clients_that_fill_a_stream_leave_room_for_the_others(
    *, is_out: bool, greedy_count: int
) -> None:
    """Over all its shards; also while the service is out, when nothing can leave."""
    rig = rig_of(replace(WIDE, shard_records_per_second=10_000, buffer_bytes_max=4 * MIB))
    if is_out:
        rig.put(1)
        rig.fail(rig.call(), NOT_SENT)
    clients = range(10, 10 + greedy_count)
    is_taken = True
    while is_taken:
        is_taken = False
        for client in clients:
            for shard in range(SHARD_COUNT):
                frame = frame_of(client, 20, shard=shard)
                is_taken |= rig.engine.handle_frame(frame, rig.now_ns)
    filled = rig.engine.ledger.footprint_bytes / (4 * MIB)
    assert 0.5 < filled < 0.99
    for _ in range(20):
        assert rig.engine.handle_frame(frame_of(QUIET), rig.now_ns)
    assert rig.counters.unaccounted() == 0


def test_what_a_client_may_have_comes_back_as_its_records_settle() -> None:
    rig = rig_of(replace(WIDE, shard_records_per_second=10_000, buffer_bytes_max=MIB))
    for _ in range(3):
        while rig.engine.handle_frame(frame_of(GREEDY, 20), rig.now_ns):
            pass
        while not rig.engine.is_idle:
            if (batch := rig.poll()) is None:
                rig.wait()
            else:
                rig.answer(batch)
        assert rig.engine.ledger.footprint_bytes == 0
        assert rig.engine.has_room(MIB, GREEDY), "a stream that holds nothing takes anything"


def test_streams_that_fill_the_memory_leave_room_for_another() -> None:
    memory = ByteBudget(8 * MIB)
    settings = replace(WIDE, shard_records_per_second=100_000, buffer_bytes_max=4 * MIB)
    *flooded, well = (Engine(settings, memory, LoadedDice(0.5), T) for _ in range(9))
    is_taken = True
    while is_taken:
        is_taken = False
        for engine in flooded:
            for client in range(1, 4):
                is_taken |= engine.handle_frame(frame_of(client, 20), T)
    assert memory.free_bytes() > 0.02 * memory.bytes_max
    for _ in range(20):
        assert well.handle_frame(frame_of(QUIET), T)


def test_what_was_set_aside_for_records_is_theirs() -> None:
    """Who was promised memory for a large body is not half refused when it comes to be read."""
    rig = rig_of(
        replace(WIDE, shard_records_per_second=100_000, buffer_bytes_max=MIB), shard_count=1
    )
    while rig.engine.handle_frame(frame_of(GREEDY, 20), rig.now_ns):
        pass
    refused, reserved = frame_of(GREEDY, 20), frame_of(GREEDY, 20)
    reserved.is_reserved = True
    assert not rig.engine.handle_frame(refused, rig.now_ns)
    assert rig.engine.handle_frame(reserved, rig.now_ns)


def test_the_order_of_a_key_is_kept_whoever_sends_it() -> None:
    rig = Rig(replace(SETTINGS, is_ordered=True))
    first = rig.put(1)
    frames = [frame_of(client, 3) for client in (GREEDY, QUIET, GREEDY)]
    for number, frame in enumerate(frames):
        frame.records = [Record(b"%d.%d" % (number, i), "k") for i in range(3)]
        assert rig.engine.handle_frame(frame, rig.now_ns)
    seen: list[bytes] = []
    while not rig.engine.is_idle:
        if (batch := rig.poll()) is None:
            rig.wait()
            continue
        seen += [record.data for record in batch.records]
        rig.answer(batch)
    assert seen[1:] == [b"%d.%d" % (number, i) for number in range(3) for i in range(3)]
    assert first.unsettled == 0


def test_a_client_that_is_said_to_be_gone_twice_ends_once() -> None:
    rig = rig_of()
    frame = frame_of(GREEDY, 3)
    assert rig.engine.handle_frame(frame, rig.now_ns)
    rig.engine.handle_clients_gone([frame, frame], rig.now_ns)
    assert rig.memory.bytes_taken == rig.engine.ledger.footprint_bytes == 0
    assert rig.counters.unaccounted() == 0
    assert rig.settled() == [frame]
