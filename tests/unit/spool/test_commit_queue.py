"""Who waits for the disk waits for a turn: of streams, and in a stream of clients."""

import random
from collections import Counter, defaultdict
from dataclasses import dataclass

import pytest

from kdaemon.spool.commit_queue import (
    COMMIT_BYTES_MAX,
    FRAME_COST,
    REMEMBERED_MIN,
    CommitQueue,
    Turns,
)
from tests.kit.depth import some

LARGE = COMMIT_BYTES_MAX // 4 - FRAME_COST  # four to a commit


@dataclass(frozen=True)
class Item:
    stream: str
    client: int
    payload_bytes: int
    number: int = 0

    @property
    def footprint_bytes(self) -> int:
        return self.payload_bytes


def flooded(*, streams: int = 1, clients: int = 1, size: int = LARGE) -> CommitQueue[Item]:
    """Twenty commits' worth, of each client as much, and the first of them are taken."""
    queue: CommitQueue[Item] = CommitQueue()
    count = 20 * COMMIT_BYTES_MAX // (size + FRAME_COST)
    for number in range(count):
        queue.add(Item(f"s{number % streams}", 1 + number // streams % clients, size, number))
    queue.take()
    return queue


@pytest.mark.parametrize("size", [100, LARGE], ids=["tiny", "large"])
@pytest.mark.parametrize("streams", [1, 7], ids=lambda count: f"{count} streams")
@pytest.mark.parametrize("clients", [1, 70], ids=lambda count: f"{count} clients")
@pytest.mark.parametrize("newcomer", [("other", 1), ("s0", 999), ("other", 999)])
def test_who_comes_into_a_flood_is_in_the_next_commit(
    newcomer: tuple[str, int], clients: int, streams: int, size: int
) -> None:
    queue = flooded(streams=streams, clients=clients, size=size)
    item = Item(*newcomer, 100)
    queue.add(item)
    assert item in queue.take()


def test_so_is_who_stores_little_again_and_again() -> None:
    """Also where the flood's clients each wait for an answer before they store the next."""
    queue = flooded(clients=40)
    for number in range(50):
        item = Item("s0", 999, 100, number)
        queue.add(item)
        taken = queue.take()
        assert item in taken
        for each in taken:
            if each is not item:
                queue.add(each)


def test_what_one_commit_takes_is_bounded_in_bytes_and_in_frames() -> None:
    assert len(flooded(size=LARGE).take()) == 4
    assert len(flooded(size=0).take()) == COMMIT_BYTES_MAX // FRAME_COST
    queue: CommitQueue[Item] = CommitQueue()
    for number in range(3):
        queue.add(Item("s", 1, 2 * COMMIT_BYTES_MAX, number))
    assert [len(queue.take()) for _ in range(3)] == [1, 1, 1], "any frame fits, alone"


def test_streams_have_equal_parts_and_so_have_the_clients_of_one() -> None:
    """However many clients one stream has, and however large the frames of another are."""
    queue: CommitQueue[Item] = CommitQueue()
    for number in range(4_000):
        queue.add(Item("many", number % 50, 10_000, number))
    for number in range(1_000):
        queue.add(Item("few", 1 + number % 2, 20_000 + 40_000 * (number % 2), number))
    bytes_of: Counter[tuple[str, int]] = Counter()
    for _ in range(4):
        for item in queue.take():
            bytes_of[item.stream, item.client] += item.payload_bytes + FRAME_COST
    of_stream = Counter({"many": 0, "few": 0})
    for (stream, _), byte_count in bytes_of.items():
        of_stream[stream] += byte_count
    assert of_stream["few"] == pytest.approx(of_stream["many"], rel=0.02)
    assert bytes_of["few", 1] == pytest.approx(bytes_of["few", 2], rel=0.05)
    shares = [byte_count for (stream, _), byte_count in bytes_of.items() if stream == "many"]
    assert len(shares) == 50
    assert max(shares) - min(shares) <= 2 * (10_000 + FRAME_COST)


@pytest.mark.parametrize("seed", some(range(20)))
def test_all_are_taken_once_and_a_clients_own_in_their_order(seed: int) -> None:
    dice = random.Random(seed)
    queue: CommitQueue[Item] = CommitQueue()
    added: list[Item] = []
    taken: list[Item] = []
    for _ in range(200):
        for _ in range(dice.randrange(20)):
            size = dice.choice([0, 100, 100_000, LARGE])
            item = Item(f"s{dice.randrange(3)}", dice.randrange(4), size, len(added))
            added.append(item)
            queue.add(item)
        if dice.random() < 0.5:
            taken += queue.take()
        assert len(queue) == len(added) - len(taken)
    taken += queue.take_all()
    assert len(queue) == 0
    assert queue.take() == []
    assert Counter(taken) == Counter(added)
    numbers = defaultdict(list)
    for item in taken:
        numbers[item.stream, item.client].append(item.number)
    assert all(each == sorted(each) for each in numbers.values())


def test_a_large_frame_is_not_passed_for_ever_by_small_ones_of_new_clients() -> None:
    """Ten wait at any time; it has its part, an eleventh, so its turn comes after as much work."""
    turns: Turns[str] = Turns()
    turns.want("large", 1_000)
    for number in range(10):
        turns.want(f"small-{number}", 10)
    passed = 10
    while (who := turns.next()) != "large":
        turns.end(who, 10, None)
        turns.want(f"small-{passed}", 10)
        passed += 1
    assert passed <= 1_000 // 10 * 11 + 11


def test_who_has_gone_is_forgotten() -> None:
    """A flood that never ends, of clients that come once each."""
    turns: Turns[int] = Turns()
    for client in range(10_000):
        turns.want(client, 100)
        if client >= 10:
            turns.end(turns.next(), 100, None)
        assert turns.remembered <= 2 * 11 + REMEMBERED_MIN + 1


MEMORY = 64 * 1024 * 1024
FRAME = 350_000


def fill(queue: CommitQueue[Item], stream: str, clients: int, free_bytes: int) -> int:
    """Each client adds as much as it may; what is free then."""
    is_full = False
    while not is_full:
        is_full = True
        for client in range(1, clients + 1):
            while queue.may_have(stream, client, FRAME, free_bytes) and free_bytes >= FRAME:
                queue.add(Item(stream, client, FRAME))
                free_bytes -= FRAME
                is_full = False
    return free_bytes


@pytest.mark.parametrize("clients", [1, 8, 1_000])
@pytest.mark.parametrize("newcomer", [("other", 1), ("s", 5_000)])
def test_a_flood_leaves_memory_for_who_asks_for_little(
    newcomer: tuple[str, int], clients: int
) -> None:
    """Twenty single records of 2 KB of memory wait at a time."""
    queue: CommitQueue[Item] = CommitQueue()
    free_bytes = fill(queue, "s", clients, MEMORY)
    for _ in range(20):
        assert queue.may_have(*newcomer, 2_000, free_bytes)
        queue.add(Item(*newcomer, 2_000))
        free_bytes -= 2_000


def test_a_flood_of_one_stream_leaves_a_third_of_the_memory_to_the_others() -> None:
    queue: CommitQueue[Item] = CommitQueue()
    free_bytes = fill(queue, "s", 8, MEMORY)
    assert free_bytes >= MEMORY / 3
    other = free_bytes - fill(queue, "other", 8, free_bytes)
    assert other >= free_bytes / 2


def test_any_frame_may_wait_where_nothing_does() -> None:
    queue: CommitQueue[Item] = CommitQueue()
    assert queue.may_have("s", 1, MEMORY, MEMORY)
    queue.add(Item("s", 1, FRAME))
    queue.take()
    assert queue.may_have("s", 1, MEMORY, MEMORY)
