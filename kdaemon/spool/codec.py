"""How a frame is written: its payload, its checksum, and the bitmap of its settled records. Pure.

A payload is msgpack of a list of records, under the wire names of `base/record.py`. Version 1
begins with the marker of a msgpack array (0x90-0x9f, 0xdc, 0xdd); a later version must begin with
another byte. Knows records and bytes; no database.
Invariant: `decode_*` returns what was encoded, or raises: damage is not passed on.
Where it sits: `spool.py`, `writes.py` and `held.py` encode with it; `rows.py` and `delivery.py`
decode.
"""

import struct
import zlib
from collections.abc import Iterable

import msgspec

from kdaemon.base.record import Record

CHECKSUM_VERSION = 1  # of the summed layout; it is a part of the sum
_SUMMED = struct.Struct("<BQIqI")  # version, id, record count, accepted_ms, bytes of the name
_CRC = struct.Struct("<I")


class CorruptFrame(Exception):  # noqa: N818 - the word is the design's
    """The stored bytes are not those that were written."""


class _StoredRecord(
    msgspec.Struct,
    gc=False,
    rename={
        "data": "Data",
        "partition_key": "PartitionKey",
        "explicit_hash_key": "ExplicitHashKey",
    },
):
    """A record as stored. The limits of the wire are not checked: they were when the record came
    in. A key that asks to be spread is an empty string.
    """

    data: bytes
    partition_key: str
    explicit_hash_key: str | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[_StoredRecord])


def encode_records(records: list[Record]) -> bytes:
    """The payload of a frame: for each record about 24 bytes more than its data and key."""
    return _encoder.encode(records)


def decode_records(payload: bytes) -> list[Record]:
    """The records of a payload, in order. Raises CorruptFrame."""
    try:
        stored = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptFrame("the payload is no list of records") from error
    return [Record(one.data, one.partition_key, one.explicit_hash_key) for one in stored]


def checksum(
    stream: str, frame_id: int, record_count: int, accepted_ms: int, payload: bytes
) -> int:
    """CRC-32 of all fields of a row, in 0..2**32-1. So a row whose payload is whole, but which
    stands under another stream or id, is found out as well.
    """
    name = stream.encode()
    head = _SUMMED.pack(CHECKSUM_VERSION, frame_id, record_count, accepted_ms, len(name))
    return zlib.crc32(payload, zlib.crc32(name, zlib.crc32(head)))


def bits_of(indices: Iterable[int], record_count: int) -> int:
    """Bit i is record i. Raises ValueError for an index out of range."""
    bitmap = bytearray((record_count + 7) // 8)
    for index in indices:
        if not 0 <= index < record_count:
            raise ValueError(f"record {index} of a frame of {record_count}")
        bitmap[index >> 3] |= 1 << (index & 7)
    return int.from_bytes(bitmap, "little")


def indices_of(bits: int, record_count: int) -> list[int]:
    """The indices that `bits_of` was given, in order, each once."""
    bitmap = bits.to_bytes((record_count + 7) // 8, "little")
    return [index for index in range(record_count) if bitmap[index >> 3] >> (index & 7) & 1]


def encode_bits(bits: int, record_count: int) -> bytes:
    """The stored form of the bits of settled records: a little-endian bitmap of ceil(record_count /
    8) bytes, in which bit i is record i; then the bitmap's CRC-32, for a bit that flips to 1 would
    lose a record.
    """
    bitmap = bits.to_bytes((record_count + 7) // 8, "little")
    return bitmap + _CRC.pack(zlib.crc32(bitmap))


def settled_bits(settled: bytes, record_count: int) -> int:
    """The bits that `encode_bits` was given. Raises CorruptFrame: then no record is known to be
    settled, and all must be sent.
    """
    bitmap = settled[: -_CRC.size]
    is_whole = settled[len(bitmap) :] == _CRC.pack(zlib.crc32(bitmap))
    if len(bitmap) != (record_count + 7) // 8 or not is_whole:
        raise CorruptFrame("the bitmap of settled records is damaged")
    return int.from_bytes(bitmap, "little") & ((1 << record_count) - 1)


def count_settled(settled: bytes) -> int:
    """How many records a bitmap notes as settled, for a row whose record count is not known; 0 if
    the bitmap is damaged.
    """
    try:
        return settled_bits(settled, max(0, len(settled) - _CRC.size) * 8).bit_count()
    except CorruptFrame:
        return 0


def settled_indices(settled: bytes, record_count: int) -> list[int]:
    """The indices of the records that a bitmap notes, in order. Raises as `settled_bits`."""
    return indices_of(settled_bits(settled, record_count), record_count)
