"""Decompresses a block of HTTP/2 headers (RFC 7541), with the tables of the library `hpack`.

About: the loop of the library's decoder, without its logs and without an object for each piece:
these were half of what a request with one record costs over HTTP/2. The tables, and the code of
compressed texts, are the library's. Must not know a rule of HTTP: any list of names and values may
come out.
Invariants: what the library accepts is accepted, and means the same; what it refuses is refused. A
list is not longer than its bound, and a block is read once.
Where it sits: http2_core.py gets the connection's decoder here.
"""

import re

from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import Decoder
from hpack.huffman_table import (
    HUFFMAN_COMPLETE,
    HUFFMAN_EMIT_SYMBOL,
    HUFFMAN_FAIL,
    HUFFMAN_TABLE,
)
from hpack.struct import HeaderTuple
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

FIELD_BYTES = 32  # bytes that a header counts beside its name and value (RFC 7541, 4.1)

_STATIC = HeaderTable.STATIC_TABLE
_STATIC_MAX = len(_STATIC)

# Three changes of the table's size at the start of a block. Two are allowed (RFC 7541, 4.2). Each
# one costs a microsecond, and a block may have 32,000.
SIZE_CHANGES = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")

INTEGER_BYTES_MAX = 5  # beyond the first, as in the library: enough for 32 bits

_CUT_OFF = "it ends in the middle of a field"


class BlockDecoder(Decoder):
    """Keeps the headers for us in `decoded`, and gives the library none."""

    def __init__(self, list_bytes_max: int) -> None:
        super().__init__(list_bytes_max)
        self.decoded: list[Field] = []

    def decode(self, data: bytes, raw: bool = False) -> tuple[HeaderTuple, ...]:  # noqa: ARG002
        """Reads a block into `decoded`. HPACKDecodingError, OversizedHeaderListError: the
        connection ends.
        """
        if SIZE_CHANGES.match(data):
            raise HPACKDecodingError("the size of the table changes again and again")
        try:
            self.decoded = self._decode_fields(data)
        except IndexError:
            raise HPACKDecodingError(_CUT_OFF) from None
        self._assert_valid_table_size()
        return ()

    def _decode_fields(self, data: bytes) -> list[Field]:
        """The headers of a block. IndexError: the block is cut off."""
        table = self.header_table
        fields: list[Field] = []
        at, end, left = 0, len(data), self.max_header_list_size
        while at < end:
            byte = data[at]
            at += 1
            if byte >= 0x80:  # a whole field of a table
                index = byte & 0x7F
                if index == 0x7F:
                    index, at = _rest_of_integer(data, at, 0x7F)
                if 0 < index <= _STATIC_MAX:
                    field = _STATIC[index - 1]
                else:
                    field = table.get_by_index(index)
            elif byte & 0xE0 == 0x20:  # another size of the table
                if fields:
                    raise HPACKDecodingError("the size of the table changes behind a field")
                at += self._update_encoding_context(data[at - 1 :]) - 1
                continue
            else:  # 0x40: the field goes into the table
                mask = 0x3F if byte & 0x40 else 0x0F
                index = byte & mask
                if index == mask:
                    index, at = _rest_of_integer(data, at, mask)
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, at = _text(data, at)
                value, at = _text(data, at)
                field = (name, value)
                if byte & 0x40:
                    table.add(name, value)
            fields.append(field)
            left -= FIELD_BYTES + len(field[0]) + len(field[1])
            if left < 0:
                text = f"the headers have more than {self.max_header_list_size} bytes"
                raise OversizedHeaderListError(text)
        return fields


def _rest_of_integer(data: bytes, at: int, number: int) -> tuple[int, int]:
    """Reads an integer for which its prefix has no room (RFC 7541, 5.1). Returns the integer and
    the position after it.
    """
    for shift in range(0, 7 * INTEGER_BYTES_MAX, 7):
        byte = data[at]
        at += 1
        number += (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise HPACKDecodingError("an integer is too long")


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """Reads a text (RFC 7541, 5.2). Returns the text and the position after it."""
    byte = data[at]
    at += 1
    size = byte & 0x7F
    if size == 0x7F:
        size, at = _rest_of_integer(data, at, size)
    end = at + size
    if end > len(data):
        raise HPACKDecodingError(_CUT_OFF)
    text = data[at:end]
    return (_decompressed(text) if byte & 0x80 else text), end


# --- compressed texts (RFC 7541, 5.2 and appendix B)

_Step = tuple[int, bytes, bool]
"""The effect of a byte in a state: the next state, the bytes that it adds to the text, and whether
the text may end there."""

_FAILED: _Step = (256, b"", False)  # the bytes were no text; no byte leads out of this state
_rows: list[list[_Step] | None] = [*[None] * 256, [_FAILED] * 256]


def _decompressed(data: bytes) -> bytes:
    """The library takes half a byte at a time; this takes a byte. A state's row is made when a text
    first reaches the state: 1 MB of rows for ordinary texts, 5 MB for all possible ones, once in
    the process.
    """
    state, is_whole = 0, True
    parts: list[bytes] = []
    for byte in data:
        row = _rows[state] or _row(state)
        state, part, is_whole = row[byte]
        parts.append(part)
    if not is_whole:
        raise HPACKDecodingError("a compressed text is none")
    return b"".join(parts)


def _row(state: int) -> list[_Step]:
    row = _rows[state] = [_step(state, byte) for byte in range(256)]
    return row


def _step(state: int, byte: int) -> _Step:
    added, flags = b"", 0
    for half in (byte >> 4, byte & 0xF):
        state, flags, symbol = HUFFMAN_TABLE[16 * state + half]
        if flags & HUFFMAN_FAIL:
            return _FAILED
        if flags & HUFFMAN_EMIT_SYMBOL:
            added += bytes((symbol,))
    return state, added, bool(flags & HUFFMAN_COMPLETE)
