"""The last part of the disk, of which each client has a part."""

from kdaemon.spool.last_part import LAST_PARTS, LastPart

BYTES_MAX = 1_600_000
GREEDY, QUIET, NOBODY = 1, 2, 0


def fill(part: LastPart, client: int, left_bytes: int, size: int = 1_000) -> int:
    """Stores as long as the client may; what is left then."""
    while left_bytes >= size and part.may_have(client, size, left_bytes, BYTES_MAX):
        left_bytes -= size
    return left_bytes


def test_one_that_stores_much_leaves_room_for_who_stores_little() -> None:
    part = LastPart()
    left_bytes = fill(part, GREEDY, BYTES_MAX)
    assert 0.8 * BYTES_MAX / LAST_PARTS < left_bytes <= BYTES_MAX / LAST_PARTS
    for _ in range(5):
        assert part.may_have(QUIET, 1_000, left_bytes, BYTES_MAX)
        left_bytes -= 1_000
    assert not part.may_have(GREEDY, 1_000, left_bytes, BYTES_MAX)


def test_many_that_store_much_leave_room_too() -> None:
    part = LastPart()
    left_bytes = BYTES_MAX
    for client in range(10, 26):
        left_bytes = fill(part, client, left_bytes, 100)
    assert part.may_have(QUIET, 100, left_bytes, BYTES_MAX)


def test_with_room_again_nothing_is_held_against_anybody() -> None:
    part = LastPart()
    left_bytes = fill(part, GREEDY, BYTES_MAX)
    assert part.may_have(GREEDY, 1_000, left_bytes + BYTES_MAX // 4, BYTES_MAX)
    assert part.may_have(GREEDY, 1_000, left_bytes, BYTES_MAX)


def test_nobody_is_not_asked_to_wait() -> None:
    assert fill(LastPart(), NOBODY, BYTES_MAX) == 0
