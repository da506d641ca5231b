"""What is left behind for whom: marks, and what may go."""

from kdaemon.engine.ways import Way
from kdaemon.spool.left import Left, Load, Mark


def way(order: str, *, is_full: bool = False, spooled: str | None = None) -> Way:
    return Way(order, spooled or order, [0], 10, is_full=is_full)


def orders(ways: list[Way]) -> list[str | None]:
    return [each.order for each in ways]


def test_what_is_full_is_left_and_the_rest_goes() -> None:
    left = Left()
    assert orders(left.take(7, 700, [way("a"), way("b", is_full=True)], is_again=False)) == ["a"]
    assert left.marks == {"b": Mark(6, 700, "b")}
    assert (left.first_id, left.oldest_ms) == (6, 700)


def test_what_stands_behind_what_is_left_is_left_though_its_shard_has_room_again() -> None:
    left = Left()
    left.take(7, 700, [way("b", is_full=True)], is_again=False)
    assert orders(left.take(8, 800, [way("a"), way("b")], is_again=False)) == ["a"]
    assert left.marks["b"] == Mark(6, 700, "b")


def test_what_was_left_is_read_again_up_to_where_the_stream_is_read() -> None:
    left = Left()
    for frame_id in (7, 8, 9):
        left.take(frame_id, 100 * frame_id, [way("b", is_full=True)], is_again=False)
    assert left.first_id_of({"b"}) == 6
    assert left.first_id_of({"a"}) is None
    left.begin(6)
    assert orders(left.take(7, 700, [way("b")], is_again=True)) == ["b"]
    assert left.take(8, 800, [way("b", is_full=True)], is_again=True) == []
    assert left.is_all_left
    assert left.take(9, 900, [way("b")], is_again=True) == [], "it stands behind 8"
    left.end(9, 9)
    assert left.marks == {"b": Mark(7, 800, "b")}
    left.begin(7)
    for frame_id in (8, 9):
        assert left.take(frame_id, 800, [way("b")], is_again=True)
    left.end(9, 9)
    assert left.is_empty


def test_what_was_marked_before_the_reading_began_stays_left() -> None:
    left = Left()
    left.take(7, 700, [way("b", is_full=True)], is_again=False)
    left.take(9, 900, [way("c", is_full=True)], is_again=False)
    left.begin(8)
    assert orders(left.take(9, 900, [way("b"), way("c")], is_again=True)) == ["c"]
    left.end(9, 9)
    assert list(left.marks) == ["b"]


def test_one_order_over_two_shards_waits_for_the_full_one() -> None:
    left = Left()
    ways = [way("k", spooled="a"), way("k", spooled="b", is_full=True)]
    assert left.take(7, 700, ways, is_again=False) == []
    assert left.first_id_of({"b"}) == 6
    assert left.first_id_of({"a"}) is None


def test_other_shards_have_no_mark_and_no_queue() -> None:
    left = Left()
    left.take(7, 700, [way("b", is_full=True)], is_again=False)
    left.handed_over([Load("a", 3, 30)])
    left.handed_over([Load("a", 2, 20)])
    left.settled([Load("a", 3, 30)], 0)
    assert left.queued == {"a": (2, 20)}
    left.forget(1)
    assert (left.is_empty, left.queued) == (True, {})
    left.settled([Load("a", 2, 20)], 0)  # of the map before
    left.handed_over([Load("a", 1, 10)])
    left.settled([Load("a", 1, 10)], 1)
    assert left.queued == {}
