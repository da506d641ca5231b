"""The results of a PutRecord(s) request, as the client is told them. Pure.

The other half of `put.py`: makes results into bytes, or into the one refusal for all of them.
Invariant: an entry that says delivered has the service's sequence number, or the word `accepted`.
Where it sits: engine -> door -> here -> the connection.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from kdaemon.base.record import RecordResult
from kdaemon.wire import cbor
from kdaemon.wire.refusals import ApiError, Encoding, Refusal, refuse, worst_first

# The result for a client that asked not to wait for delivery: it reads as success, and cannot be
# mistaken for a real sequence number or shard.
ACCEPTED = RecordResult(sequence_number="accepted", shard_id="accepted")

_encode: Final = msgspec.json.Encoder().encode

_PLAIN: Final = b'{"EncryptionType":"NONE"'  # the beginning of most answers


_SHORT_MAX = 256  # texts below this have a length that takes one byte at most


# For each length of a sequence number: an entry up to it; one character is one byte.
_NUMBER_HEADS = [
    (cbor.head(cbor.MAP, 2) + cbor.text("SequenceNumber") + cbor.head(cbor.TEXT, length)).decode(
        "latin-1"
    )
    for length in range(_SHORT_MAX)
]
_SHARD_ID = cbor.text("ShardId")
_ENDS_MAX = 1_000  # shards whose ends of entries are kept: 150 KB; ours, 2026-11-28
_ends: dict[str | None, str] = {}


def encode_put_records(results: Sequence[RecordResult], encryption: str = "NONE") -> bytes:
    """The answer to a PutRecords request: one entry for each record, in its order.

    `encryption`: the service's word (EncryptionType).
    """
    failed = [result for result in results if not result.sequence_number or result.error_code]
    if failed:
        results = [result if result.is_delivered else _failure(result) for result in results]
    return b'{"EncryptionType":%b,"FailedRecordCount":%d,"Records":%b}' % (
        _encode(encryption),
        len(failed),
        _encode(results),
    )


def encode_put_record(results: list[RecordResult], encryption: str = "NONE") -> bytes:
    """The answer to a PutRecord request, from its one result. Raises ApiError if the record was not
    delivered.
    """
    result = results[0]
    if not result.sequence_number or result.error_code:
        raise ApiError(_refusal_of(result))
    start = _PLAIN if encryption == "NONE" else _encode({"EncryptionType": encryption})[:-1]
    return b"%b,%b" % (start, _encode(result)[1:])


def encode_put_records_cbor(results: Sequence[RecordResult], encryption: str = "NONE") -> bytes:
    """`encode_put_records` in CBOR."""
    failed_count = 0
    entries = _plain_cbor(results)
    if entries is None:
        failed_count = sum(not each.is_delivered for each in results)
        told = [each if each.is_delivered else _failure(each) for each in results]
        entries = cbor.encode(msgspec.to_builtins(told))
    count = cbor.text("FailedRecordCount") + cbor.head(0, failed_count)
    return b"%b%b%b%b" % (_start_cbor(encryption), count, cbor.text("Records"), entries)


def encode_put_record_cbor(results: Sequence[RecordResult], encryption: str = "NONE") -> bytes:
    """`encode_put_record` in CBOR."""
    (result,) = results
    if not result.sequence_number or result.error_code:
        raise ApiError(_refusal_of(result), Encoding.CBOR)
    entries = _plain_cbor(results)
    if entries is None:
        return cbor.encode({"EncryptionType": encryption, **msgspec.to_builtins(result)})
    start = _PLAIN_CBOR if encryption == "NONE" else _start_cbor(encryption)
    return start + entries[2:]  # without the heads of the list and of its map


def _start_cbor(encryption: str) -> bytes:
    """The first of the three members of an answer, after the head of the map."""
    return cbor.head(cbor.MAP, 3) + cbor.encode({"EncryptionType": encryption})[1:]


_PLAIN_CBOR = _start_cbor("NONE")  # the beginning of most answers


def _plain_cbor(results: Sequence[RecordResult]) -> bytes | None:
    """The entries if all records were delivered. None: one was not, or has anything but a short
    sequence number in ASCII and a shard. Column by column, since there may be 500.
    """
    numbers = [each.sequence_number or "" for each in results]
    others = [
        each for each in results if each.error_code is not None or each.error_message is not None
    ]
    ends = _ends_of(results)
    if others or ends is None or not "".join(numbers).isascii():
        return None
    sizes = set(map(len, numbers))
    if not sizes or min(sizes) == 0 or max(sizes) >= _SHORT_MAX:
        return None
    pieces = [_NUMBER_HEADS[sizes.pop()]] * (3 * len(numbers))
    if sizes:
        pieces[::3] = [_NUMBER_HEADS[len(number)] for number in numbers]
    pieces[1::3] = numbers
    pieces[2::3] = ends
    return cbor.head(cbor.LIST, len(numbers)) + "".join(pieces).encode("latin-1")


def _ends_of(results: Sequence[RecordResult]) -> list[str] | None:
    """The last member of each entry, the shard; None: an entry has none."""
    try:
        return [_ends[each.shard_id] for each in results]
    except KeyError:
        shard_ids = {each.shard_id for each in results}
    if None in shard_ids:
        return None
    if len(_ends) > _ENDS_MAX:
        _ends.clear()
    for shard_id in shard_ids:
        _ends[shard_id] = (_SHARD_ID + cbor.text(shard_id or "")).decode("latin-1")
    return [_ends[each.shard_id] for each in results]


def status_of(results: list[RecordResult]) -> Refusal | None:
    """The refusal of a whole request of which nothing was delivered (or taken), for clients that
    read only the status. None: at least one record was.
    """
    for result in results:  # as a rule the first one is delivered
        if result.sequence_number and not result.error_code:
            return None
    return worst_first(map(_refusal_of, results))


def _refusal_of(result: RecordResult) -> Refusal:
    failure = _failure(result)
    return refuse(failure.error_code or "", failure.error_message)


def _failure(result: RecordResult) -> RecordResult:
    """A failed entry with AWS's members only. Without a reason of the service it gets AWS's usual
    one.
    """
    if result.error_code:
        return RecordResult(
            error_code=result.error_code, error_message=result.error_message or result.error_code
        )
    return RecordResult(error_code="InternalFailure", error_message="Internal Service Failure")
