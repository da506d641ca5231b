"""A body that is gathered is what came, in its order, however many pieces there were."""

import pytest

from kdaemon.http.body import JOINED_BYTES_MAX, PIECES_MAX, Gathered


@pytest.mark.parametrize("piece_bytes", [1, 999, 16 * 1024, JOINED_BYTES_MAX, JOINED_BYTES_MAX + 1])
@pytest.mark.parametrize("count", [0, 1, 2, PIECES_MAX, PIECES_MAX + 1, 3 * PIECES_MAX])
def test_what_is_gathered_is_what_came(piece_bytes: int, count: int) -> None:
    if piece_bytes > 16 * 1024:
        count = min(count, 3)
    gathered, expected = Gathered(), bytearray()
    for number in range(count):
        piece = bytes((number % 256,)) * piece_bytes
        gathered.write(piece)
        expected += piece
        assert len(gathered) == len(expected)
    assert bytes(gathered) == expected
    assert bytes(gathered) == expected
