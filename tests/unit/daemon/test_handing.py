"""Who gets the next connection."""

import socket
from dataclasses import dataclass, field

from kdaemon.daemon.handing import Handing


@dataclass(eq=False)
class Taker:
    load: int = 0
    is_ready: bool = True
    is_full: bool = False
    taken: list[str] = field(default_factory=list)

    def hand(self, name: str, connection: socket.socket) -> bool:
        if self.is_full:
            return False
        self.taken.append(name)
        self.load += 1
        connection.close()
        return True


def hand(handing: Handing, count: int) -> int:
    """How many were taken."""
    taken = 0
    for _ in range(count):
        with socket.socket() as connection:
            taken += handing.hand("http", connection)
    return taken


def test_each_has_the_same_number() -> None:
    takers = [Taker() for _ in range(3)]
    assert hand(Handing(lambda: takers), 10) == 10
    assert sorted(each.load for each in takers) == [3, 3, 4]


def test_who_has_fewest_is_first() -> None:
    takers = [Taker(load=5), Taker(load=1), Taker(load=5)]
    hand(Handing(lambda: takers), 4)
    assert [each.load for each in takers] == [5, 5, 5]


def test_where_all_are_equal_each_has_its_turn() -> None:
    """Connections of a moment: nobody has one when the next comes."""
    takers = [Taker() for _ in range(2)]
    handing = Handing(lambda: takers)
    for _ in range(6):
        hand(handing, 1)
        for each in takers:
            each.load = 0
    assert [len(each.taken) for each in takers] == [3, 3]


def test_who_is_not_ready_gets_one_only_where_nobody_is() -> None:
    takers = [Taker(is_ready=False), Taker(load=100)]
    hand(Handing(lambda: takers), 5)
    assert [len(each.taken) for each in takers] == [0, 5]
    takers[1].is_ready = False
    hand(Handing(lambda: takers), 1)
    assert [len(each.taken) for each in takers] == [1, 5]


def test_who_reads_nothing_is_passed_over_and_without_anybody_it_waits() -> None:
    takers = [Taker(is_full=True), Taker(load=3)]
    handing = Handing(lambda: takers)
    assert hand(handing, 2) == 2
    assert [len(each.taken) for each in takers] == [0, 2]
    takers[1].is_full = True
    assert hand(handing, 1) == 0
    takers.clear()
    assert hand(handing, 1) == 0
