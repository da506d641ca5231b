"""The bodies of the Kinesis API's PutRecord and PutRecords, in JSON. Pure.

Reading is one typed decode straight into the `Record` objects that are queued and sent; the same
pass checks their constraints. Only if it fails is the body read again (`explain.py`), to say why in
the service's words. As at the service, one invalid record refuses the whole request. A body of more
than AT_ONCE_BYTES_MAX is weighed first, then read in steps, and never explained. Knows no stream's
state, no queue, no connection; checks no signature.

Invariant: nothing of a refused request is taken; memory and time are in proportion to the size of
its body.
Where it sits: `envelope.py` -> door: parse -> engine -> `results.py`.

There are two differences from the service. Base64 whose last character carries bits that no byte
uses (`ab==`) is accepted, as by most decoders: finding it would cost another pass over every body.
A body that names a member twice is refused, where the service takes one of the two.
"""

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from kdaemon.base.limits import MIB, RECORDS_PER_CALL_MAX
from kdaemon.base.steps import Steps, at_once
from kdaemon.wire.envelope import AT_ONCE_BYTES_MAX, WEIGHT_MAX, is_too_heavy
from kdaemon.wire.explain import UNREADABLE, count_records, explain, reason_of
from kdaemon.wire.limits import PutLimits, PutRequest, error_of
from kdaemon.wire.measured import (
    check,
    members_of,
    request_of,
    single_request_of,
    with_empty_key,
    with_empty_keys,
)
from kdaemon.wire.members import repeated_in_request
from kdaemon.wire.refusals import api_error, repeated
from kdaemon.wire.shapes import OpenPutRecord, OpenPutRecords, PutRecord, PutRecords

SPARE_BYTES_MAX = MIB
"""Names, blanks, escapes and unknown members, in a body that has more members than it must have.
Ours, 2026-11-28: 500 keys with all characters escaped take 0.75 MiB."""

COUNTED_BYTES_MAX = 4 * MIB
"""A larger body that is too heavy counts as one record. Ours, 2026-11-28: counting the records of a
body of this size takes 11 ms at worst."""

W = TypeVar("W")

_decode_records: Final = msgspec.json.Decoder(PutRecords).decode
_decode_record: Final = msgspec.json.Decoder(PutRecord).decode
_decode_open_records = msgspec.json.Decoder(OpenPutRecords).decode
_decode_open_record = msgspec.json.Decoder(OpenPutRecord).decode

# Bytes of a request of one record beside its values, in the shortest JSON, plus one more member.
_SINGLE_BYTES: Final = len(b'{"Data":"","PartitionKey":"","StreamName":""}') + len(b'"Data":"",')

_KEY_PROBLEM: Final = "PartitionKey`"  # in the decoder's message if a key is missing or null


def parse_put_records(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecords request. Raises ApiError; then nothing of it is taken."""
    if len(body) > AT_ONCE_BYTES_MAX:
        return at_once(read_put_records(body, limits))
    keyless_count = 0
    try:
        wire = _decode_records(body)
    except UNREADABLE as error:
        wire = with_empty_keys(
            _decode_open(body, reason_of(error), _decode_open_records, limits, is_single=False)
        )
        keyless_count = sum(not record.partition_key for record in wire.Records)
    return at_once(_request_of(body, wire, keyless_count, limits))


def read_put_records(body: bytes, limits: PutLimits) -> Steps[PutRequest]:
    """As `parse_put_records`, in steps if the body is large."""
    decoded = yield from _decode_large(body, _decode_open_records, limits, is_single=False)
    wire = with_empty_keys(decoded)
    keyless_count = sum(not record.partition_key for record in wire.Records)
    return (yield from _request_of(body, wire, keyless_count, limits))


def _request_of(
    body: bytes, wire: PutRecords, keyless_count: int, limits: PutLimits
) -> Steps[PutRequest]:
    """The decoded request, after all checks that the decoder does not make."""
    records = wire.Records
    keys = "".join([record.partition_key for record in records])
    request = request_of(wire, keys, keyless_count, limits)
    hash_keys: list[str | None] = []
    member_count = 1 + 2 * len(records) + _head_member_count(wire)
    if keyless_count or not _is_ordinary(body, member_count, keys, wire):
        hash_keys = [record.explicit_hash_key for record in records]
        member_count += len(records) - keyless_count - hash_keys.count(None)
        yield from _refuse_repeats(request, body, member_count)
    check(request, limits, hash_keys)
    return request


def _is_ordinary(body: bytes, member_count: int, keys: str, wire: PutRecords) -> bool:
    """Whether a body has only `member_count` members, those that its records must have and those of
    its head: there are no colons for another member. The cheapest proof there is.
    """
    colons = keys.count(":")
    if wire.StreamARN is not None:
        colons += wire.StreamARN.count(":")
    if colons and b"\\" in body:
        return False  # a colon may be escaped, and another one be a member's
    return _has_colons(body, member_count + colons)


def _has_colons(body: bytes, count: int) -> bool:
    """Whether there are exactly `count` colons."""
    if len(body) <= AT_ONCE_BYTES_MAX:  # four times as fast as counting them
        return len(body) - len(body.replace(b":", b"", count + 1)) == count
    at = -1
    for _ in range(count):  # they are far apart, and no copy is made
        at = body.find(b":", at + 1)
        if at < 0:
            return False
    return body.find(b":", at + 1) < 0


def parse_put_record(body: bytes, limits: PutLimits) -> PutRequest:
    """Reads the body of a PutRecord request. Raises ApiError; then nothing of it is taken."""
    if len(body) > AT_ONCE_BYTES_MAX:
        return at_once(read_put_record(body, limits))
    try:
        wire = _decode_record(body)
    except UNREADABLE as error:
        wire = with_empty_key(
            _decode_open(body, reason_of(error), _decode_open_record, limits, is_single=True)
        )
    members = members_of(wire)
    request = single_request_of(members, limits)
    data, key, hash_key = members[0], members[1], members[2]
    # A text as long as its names and values has no room for another member, except for blanks.
    rest_bytes = len(body) - (len(data) + 2) // 3 * 4 - len(key) - len(request.stream_name or "")
    if rest_bytes >= _SINGLE_BYTES or not key:
        at_once(_refuse_repeats(request, body, _single_member_count(wire)))
    check(request, limits, () if hash_key is None else (hash_key,))
    return request


def read_put_record(body: bytes, limits: PutLimits) -> Steps[PutRequest]:
    """As `parse_put_record`, in steps if the body is large."""
    decoded = yield from _decode_large(body, _decode_open_record, limits, is_single=True)
    wire = with_empty_key(decoded)
    request = single_request_of(members_of(wire), limits)
    yield from _refuse_repeats(request, body, _single_member_count(wire))
    hash_key = wire.ExplicitHashKey
    check(request, limits, () if hash_key is None else (hash_key,))
    return request


def _decode_large(
    body: bytes, decode: Callable[[bytes], W], limits: PutLimits, *, is_single: bool
) -> Steps[W]:
    """Weighs a large body, then decodes it, each in a step. Raises ApiError."""
    yield from _weigh(body)
    reason = ""
    try:
        decoded = decode(body)
    except UNREADABLE as error:
        reason = reason_of(error)
    yield
    if reason:
        is_free = limits.is_stream_name_free
        raise explain(body, reason, is_single=is_single, is_stream_name_free=is_free)
    return decoded


def _weigh(body: bytes) -> Steps[None]:
    """Refuses, without decoding, a large body that no request can need. Raises ApiError."""
    if not is_too_heavy(body):
        yield
        return
    text = (
        f"The body has more than {WEIGHT_MAX} bytes beside base64, which is more than a request of "
        f"{RECORDS_PER_CALL_MAX} records can need."
    )
    record_count, stream = 1, None
    if len(body) <= COUNTED_BYTES_MAX:
        yield
        record_count, stream = count_records(body)
    # The error gets no name here: it refers to this stack frame, and so to the body.
    raise api_error("SerializationException", text, record_count=record_count, stream=stream)


def _head_member_count(wire: PutRecords | PutRecord) -> int:
    """How many members beside the records there are."""
    return (
        (wire.StreamName is not None)
        + (wire.StreamARN is not None)
        + (wire.StreamId is not None)
        + (wire.DryRun is not None)
    )


def _single_member_count(wire: PutRecord) -> int:
    """How many members a PutRecord request has."""
    return (
        1
        + bool(wire.PartitionKey)
        + (wire.ExplicitHashKey is not None)
        + (wire.SequenceNumberForOrdering is not None)
        + _head_member_count(wire)
    )


def _refuse_repeats(request: PutRequest, body: bytes, member_count: int) -> Steps[None]:
    """Raises ApiError if a member is named twice. `member_count`: of the members that were read.
    Colons beyond one for each of them are in a text, or of a null, unknown or repeated member.
    """
    is_large = len(body) > AT_ONCE_BYTES_MAX
    if is_large:
        yield
    elif _has_colons(body, member_count):
        return  # a request with hash keys
    spare = body.count(b":") - member_count
    if not spare:
        return
    if len(body) - request.byte_count * 4 // 3 > SPARE_BYTES_MAX:
        text = f"The body has more than {SPARE_BYTES_MAX} bytes beyond its records."
        raise error_of(request, api_error("SerializationException", text))
    if b"\\" not in body:  # nothing is escaped: the texts are as they were written
        texts = [record.partition_key for record in request.records]
        texts += [request.stream_name or "", request.stream_arn or ""]
        if spare == "".join(texts).count(":"):
            return
    if is_large:
        yield
    try:
        name = yield from repeated_in_request(body, is_single=request.is_single)
    except UNREADABLE as error:  # in a part that the API does not know and the decoder skips
        text = f"The body cannot be read as this operation's input: {reason_of(error)}."
        raise error_of(request, api_error("SerializationException", text)) from None
    if name is not None:
        raise error_of(request, api_error("SerializationException", repeated(name)))


def _decode_open(
    body: bytes, reason: str, decode: Callable[[bytes], W], limits: PutLimits, *, is_single: bool
) -> W:
    """Decodes a body that the strict decoder refuses for `reason`, if a key is missing. Raises
    ApiError if that was not the only problem.
    """
    if _KEY_PROBLEM in reason:
        try:
            return decode(body)
        except UNREADABLE as error:
            reason = reason_of(error)
    is_free = limits.is_stream_name_free
    raise explain(body, reason, is_single=is_single, is_stream_name_free=is_free)
