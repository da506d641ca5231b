"""Bytes on their way to being lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.wire import line_buffer
from kdaemon.wire.line_buffer import LineBuffer


@given(st.lists(st.text("a\n", max_size=8).map(str.encode), max_size=12), st.data())
def test_lines_come_out_as_they_came_in_and_whole(pieces: list[bytes], data: st.DataObject) -> None:
    buffer, taken = LineBuffer(), b""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_buffer, "BLOCK_BYTES", 5)
        for i, piece in enumerate(pieces):
            buffer.feed(piece)
            sent = b"".join(pieces[: i + 1])
            assert buffer.partial_bytes == len(sent) - (sent.rfind(b"\n") + 1)
            assert buffer.line_count == (sent[len(taken) :]).count(b"\n")
            while buffer.has_lines and data.draw(st.booleans()):
                block = buffer.take_block() if data.draw(st.booleans()) else buffer.take_line()
                assert block.endswith(b"\n")
                assert len(block) <= 5 or block.count(b"\n") == 1
                taken += block
        buffer.finish()
        while buffer.has_lines:
            taken += buffer.take_block()
    assert taken == b"".join(pieces)


def test_what_is_dropped_does_not_come_out() -> None:
    buffer = LineBuffer()
    buffer.feed(b"a\nb")
    buffer.drop_partial()
    assert (buffer.partial_bytes, buffer.line_count) == (0, 1)
    buffer.clear()
    assert not buffer.has_lines


@pytest.mark.parametrize("is_line", [False, True])
def test_a_byte_order_mark_is_left_out_once_however_it_comes(is_line: bool) -> None:
    buffer = LineBuffer()
    for byte in b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n":
        buffer.feed(bytes([byte]))
    taken = [buffer.take_line(), buffer.take_line()] if is_line else [buffer.take_block()]
    assert b"".join(taken) == b"a\n\xef\xbb\xbfb\n"
