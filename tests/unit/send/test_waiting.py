"""Clients take turns where calls wait, and none has all the places."""

from hypothesis import given
from hypothesis import strategies as st

from kdaemon.send.waiting import PLACES_MAX, Line, WaitingPlaces


def line_of(*calls: tuple[int, str]) -> Line[str]:
    line: Line[str] = Line(WaitingPlaces())
    for client, call in calls:
        assert line.put(client, call)
    return line


def rest_of(line: Line[str]) -> list[str]:
    found = []
    while (call := line.next()) is not None:
        found.append(call)
    return found


def test_who_asks_once_does_not_wait_for_all_that_another_asked() -> None:
    line = line_of(*((1, f"a{number}") for number in range(10)), (2, "b"))
    assert rest_of(line) == ["a0", "b", *(f"a{number}" for number in range(1, 10))]


def test_each_client_has_its_own_order() -> None:
    line = line_of((1, "a0"), (2, "b0"), (1, "a1"), (2, "b1"), (3, "c0"))
    assert rest_of(line) == ["a0", "b0", "c0", "a1", "b1"]


def test_a_call_that_two_wait_for_goes_at_the_first_turn_of_either() -> None:
    line = line_of((1, "a0"), (1, "a1"), (1, "both"), (2, "both"))
    assert rest_of(line) == ["a0", "both", "a1"]


def test_a_call_that_nobody_waits_for_is_not_given_out() -> None:
    places = WaitingPlaces()
    line: Line[str] = Line(places)
    for client in (1, 2):
        assert line.put(client, "gone")
    assert line.put(2, "b")
    line.remove("gone")
    line.remove("gone")
    assert rest_of(line) == ["b"]
    assert places.taken == 0


def test_one_client_leaves_places_to_others_whatever_it_asks() -> None:
    places = WaitingPlaces()
    lines: list[Line[object]] = [Line(places), Line(places)]
    flood = sum(lines[number % 2].put(1, number) for number in range(10 * PLACES_MAX))
    assert flood == PLACES_MAX // 2
    assert lines[0].put(2, "b")
    assert lines[1].put(3, "c")


def test_all_places_are_bounded_however_many_clients_come() -> None:
    places = WaitingPlaces()
    line: Line[int] = Line(places)
    taken = sum(line.put(client, client) for client in range(10 * PLACES_MAX))
    assert taken == places.taken == len(line) == PLACES_MAX


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=60))
def test_nothing_is_lost_or_given_twice(acts: list[tuple[int, int, bool]]) -> None:
    places = WaitingPlaces()
    line: Line[int] = Line(places)
    waiting: set[int] = set()
    for client, call, is_removed in acts:
        if is_removed:
            line.remove(call)
            waiting.discard(call)
        elif line.put(client, call):
            waiting.add(call)
        assert set(line) == waiting
    found = []
    while (next_call := line.next()) is not None:
        found.append(next_call)
    assert sorted(found) == sorted(waiting)
    assert places.taken == 0
