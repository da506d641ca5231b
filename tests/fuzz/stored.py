"""What stands in the spool's database: payloads, bitmaps, rows of frames and of dead letters.

The first byte of an input chooses what is read, the second how much of it is as it was written.
"""

from kdaemon.base.record import Record
from kdaemon.spool.codec import (
    CorruptFrame,
    checksum,
    decode_records,
    encode_records,
    settled_indices,
)
from kdaemon.spool.letters import letter_of
from kdaemon.spool.rows import frame_of
from tests.kit.stores import encode_settled

_PAYLOAD = encode_records([Record(b"one", "k"), Record(b"\x00\xff", "", "7"), Record(b"", "é")])
SEEDS = [
    b"\x00\x00" + _PAYLOAD,
    b"\x01\x03" + encode_settled([0, 2], 3),
    b"\x02\x03" + _PAYLOAD,
    b"\x02\x83" + _PAYLOAD,
    b"\x03\x00" + b"s\x00k\x007\x00data\x00poison\x00Code\x00text",
]
TOKENS = [
    *(b"\x84", b"\x90", b"\x9f", b"\xdc\x00\x01", b"\xdd\xff\xff\xff\xff", b"\xc4\x01x", b"\xc0"),
    *(
        b"\xa4Data",
        b"\xacPartitionKey",
        b"\xafExplicitHashKey",
        b"\xd9\xff",
        b"\xdb\xff\xff\xff\xff",
    ),
    *(b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\x91", b"\x91" * 64, b"\x81", b"\xc7"),
]


def one_input(data: bytes) -> None:
    kind, number, content = (data + b"\0\0")[0] % 4, (data + b"\0\0")[1], data[2:]
    if kind == 0:
        _check_payload(content)
    elif kind == 1:
        _check_bitmap(content, number)
    elif kind == 2:
        _check_frame(content, number)
    else:
        _check_letter(content, number)


def _check_payload(payload: bytes) -> None:
    try:
        records = decode_records(payload)
    except CorruptFrame:
        return
    assert decode_records(encode_records(records)) == records


def _check_bitmap(settled: bytes, record_count: int) -> None:
    try:
        indices = settled_indices(settled, record_count)
    except CorruptFrame:
        return
    assert indices == sorted(set(indices))
    assert all(0 <= index < record_count for index in indices)
    assert settled_indices(encode_settled(indices, record_count), record_count) == indices


def _check_frame(payload: bytes, number: int) -> None:
    """`number`: the records that the row says, and (its high bit) whether its checksum fits."""
    record_count = number & 0x7F
    found = checksum("s", 1, record_count, 5, payload) if number & 0x80 else number
    for settled in (None, payload, "text"):
        try:
            frame = frame_of("s", (1, record_count, 5, found, settled, payload))
        except CorruptFrame:
            continue
        assert len(frame.records) == record_count
        assert found == checksum("s", 1, record_count, 5, payload)
        assert frame.settled in (None, payload)


def _check_letter(content: bytes, number: int) -> None:
    """Whatever a row holds, a letter is shown in its types; only an intact one says so."""
    parts: list[object] = list(content.split(b"\0"))
    for index in range(len(parts)):
        part = parts[index]
        assert isinstance(part, bytes)
        if number >> (index & 7) & 1 == 0:
            parts[index] = part.decode("latin-1")
    row = [*parts, None, 7, 1.5, b"x", "y", 2**63 - 1, -1, None, 0, 0][:10]
    letter = letter_of((*row, 3, number))
    assert letter.id == 3
    assert isinstance(letter.stream, str)
    assert isinstance(letter.data, bytes)
    assert isinstance(letter.attempts, int)
