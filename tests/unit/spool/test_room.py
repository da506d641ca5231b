"""The memory of what stands on disk: bounded for all together, shared by all, left to others."""

import random

import pytest

from kdaemon.base.memory import ByteBudget
from kdaemon.engine.health import Health
from kdaemon.spool.room import CROSSING, READ_BYTES_MAX, READ_BYTES_MIN, Room, Share
from tests.kit.depth import some

MIB = 1024 * 1024
MEMORY = 256 * MIB
FRAME = 256 * 1024


def grow(room: Room, share: Share, frame_bytes: int = FRAME) -> None:
    """As an engine in an outage: takes what it may have."""
    while room.has(share, frame_bytes):
        room.add(share, frame_bytes)


@pytest.mark.parametrize("stream_count", [1, 8, 90])
def test_streams_in_an_outage_leave_half_of_the_memory_and_room_for_one_more(
    stream_count: int,
) -> None:
    room = Room(ByteBudget(MEMORY))
    shares = [Share(is_listed=True) for _ in range(stream_count)]
    for _ in range(MEMORY // FRAME):
        for share in shares:
            if room.has(share, FRAME):
                room.add(share, FRAME)
    assert MEMORY // 4 < room.footprint_bytes < MEMORY // 2
    one_more = Share(is_listed=True)
    assert room.take_ahead(one_more) >= READ_BYTES_MIN
    assert room.footprint_bytes <= MEMORY // 2


def test_a_hundred_streams_that_are_well_leave_half_of_it_too() -> None:
    room = Room(ByteBudget(MEMORY))
    shares = [Share(is_listed=True, health=Health.WELL) for _ in range(100)]
    for _ in range(MEMORY // FRAME):
        for share in shares:
            if room.has(share, FRAME):
                room.add(share, FRAME)
    assert room.footprint_bytes <= MEMORY // 2


def test_one_alone_has_two_thirds_of_it() -> None:
    room, alone = Room(ByteBudget(MEMORY)), Share(is_listed=True)
    grow(room, alone)
    assert MEMORY / 3 - 2 * FRAME < alone.footprint_bytes <= MEMORY / 3


def test_unlisted_streams_have_half_of_it_together() -> None:
    room = Room(ByteBudget(MEMORY))
    for _ in range(20):  # the last ones have a first frame each, beyond
        grow(room, Share(is_listed=False))
    assert MEMORY // 5 < room.unlisted_bytes <= MEMORY // 4 + 20 * FRAME
    listed = Share(is_listed=True)
    grow(room, listed)
    assert listed.footprint_bytes > MEMORY // 8


def test_a_stream_that_becomes_listed_takes_what_it_has_along() -> None:
    room, share = Room(ByteBudget(MEMORY)), Share(is_listed=False)
    grow(room, share)
    room.move(share, is_listed=True)
    assert room.unlisted_bytes == 0
    room.move(share, is_listed=False)
    assert room.unlisted_bytes == share.footprint_bytes == room.footprint_bytes


def test_a_frame_that_is_larger_than_a_part_is_read_by_a_stream_that_has_nothing() -> None:
    memory = ByteBudget(MEMORY)
    room = Room(memory)
    for _ in range(90):
        grow(room, Share(is_listed=True))
    large, share = 14 * MIB, Share(is_listed=True)
    room.take_ahead(share)
    assert room.was_read(share, large)
    assert memory.bytes_taken == share.ahead_bytes == large
    assert not room.take_ahead(share)


def begin(room: Room, share: Share, frame_bytes: int) -> bool:
    """As a stream that has nothing, and whose next frame is so large. It is not read in vain."""
    if room.take_ahead(share) and room.was_read(share, frame_bytes):
        return True
    if share.next_bytes:  # it was read once: not again before there is room for it
        assert not room.take_ahead(share)
    return False


def taken_by_first_frames(room: Room, health: Health, frame_bytes: int, *, is_listed: bool) -> None:
    for _ in range(MEMORY // frame_bytes):
        begin(room, Share(is_listed, health), frame_bytes)


@pytest.mark.parametrize("frame_bytes", [READ_BYTES_MIN, 14 * MIB])
@pytest.mark.parametrize(
    ("health", "most"),
    [
        (Health.ILL, 20 / 32),
        (Health.UNTRIED, 21 / 32),
        (Health.TOLD, 22 / 32),
        (Health.WELL, 24 / 32),
    ],
)
def test_first_frames_go_beyond_the_half_by_the_health_of_their_streams(
    health: Health, most: float, frame_bytes: int
) -> None:
    memory = ByteBudget(MEMORY)
    taken_by_first_frames(Room(memory), health, frame_bytes, is_listed=True)
    crossing_bytes = frame_bytes if health in CROSSING else 0
    assert MEMORY * most - frame_bytes < memory.bytes_taken <= MEMORY * most + crossing_bytes


@pytest.mark.parametrize("frame_bytes", [READ_BYTES_MIN, MIB, 14 * MIB])
@pytest.mark.parametrize("is_listed", [True, False], ids=["listed", "unlisted"])
@pytest.mark.parametrize("are_listed", [True, False], ids=["listed ones", "unlisted ones"])
def test_streams_that_are_ill_leave_a_place_to_one_that_is_well(
    frame_bytes: int, *, is_listed: bool, are_listed: bool
) -> None:
    """However large their first frames are, and its own."""
    memory = ByteBudget(MEMORY)
    room = Room(memory)
    for health in (Health.ILL, Health.UNTRIED):
        taken_by_first_frames(room, health, frame_bytes, is_listed=are_listed)
    for own_bytes in (READ_BYTES_MIN, MIB, 14 * MIB, 40 * MIB):
        well = Share(is_listed, Health.WELL)
        assert room.take_ahead(well)
        assert room.was_read(well, own_bytes)
        room.give_ahead(well, own_bytes)
        assert room.has(well, own_bytes)
        room.add(well, own_bytes)
        room.add(well, -own_bytes)


def test_the_less_is_known_of_streams_the_more_they_leave_to_others() -> None:
    room = Room(ByteBudget(MEMORY))
    taken_by_first_frames(room, Health.ILL, MIB, is_listed=True)
    for health in (Health.UNTRIED, Health.TOLD, Health.WELL):
        assert not begin(room, Share(is_listed=True, health=Health.ILL), MIB)
        assert begin(room, Share(is_listed=True, health=health), MIB)
        taken_by_first_frames(room, health, MIB, is_listed=True)


def test_a_stream_that_is_well_has_more_than_one_small_frame_in_its_place() -> None:
    """One at a time would be 20 a second."""
    room = Room(ByteBudget(MEMORY))
    taken_by_first_frames(room, Health.ILL, MIB, is_listed=True)
    well, ill = Share(is_listed=True, health=Health.WELL), Share(is_listed=True, health=Health.ILL)
    grow(room, ill, 1_000)
    assert ill.footprint_bytes <= 1_000
    grow(room, well, 1_000)
    assert MIB - 1_000 < well.footprint_bytes <= MIB


def test_one_frame_at_a_time_crosses_the_end_of_the_place_of_those_that_are_well() -> None:
    room = Room(ByteBudget(MEMORY))
    taken_by_first_frames(room, Health.ILL, MIB, is_listed=True)
    first, second = (Share(is_listed=True, health=Health.WELL) for _ in range(2))
    assert begin(room, first, 40 * MIB)
    assert not begin(room, second, MIB)
    room.give_ahead(first, 40 * MIB)
    assert begin(room, second, MIB)


def test_nothing_is_read_where_others_have_the_memory() -> None:
    memory = ByteBudget(MEMORY)
    memory.take(MEMORY - READ_BYTES_MIN)
    room, share = Room(memory), Share(is_listed=True)
    assert room.take_ahead(share) == 0
    assert share.footprint_bytes == 0


@pytest.mark.parametrize("seed", some(range(20)))
def test_what_is_taken_is_given_back(seed: int) -> None:
    dice, memory = random.Random(seed), ByteBudget(MEMORY // 16)
    room = Room(memory)
    shares = [Share(is_listed=dice.random() < 0.5) for _ in range(12)]
    engines = dict.fromkeys(range(12), 0)
    for _ in range(2_000):
        number = dice.randrange(12)
        share = shares[number]
        roll = dice.random()
        if not share.ahead_bytes and roll < 0.5:
            most = max(READ_BYTES_MAX, share.next_bytes)
            taken = room.take_ahead(share)
            assert taken <= most
            if taken:
                room.was_read(share, dice.randrange(taken * 2))
        elif share.ahead_bytes and roll < 0.7:
            part = dice.randint(1, share.ahead_bytes)
            room.give_ahead(share, part)
            if dice.random() < 0.3:
                room.take_back(share, part)
            else:
                room.add(share, part)
                engines[number] += part
        elif engines[number]:
            room.add(share, -engines[number])
            engines[number] = 0
        if dice.random() < 0.05:
            room.move(share, is_listed=dice.random() < 0.5)
        assert room.footprint_bytes == sum(each.footprint_bytes for each in shares)
        assert memory.bytes_taken == sum(each.ahead_bytes for each in shares)
        assert room.unlisted_bytes == sum(e.footprint_bytes for e in shares if not e.is_listed)
