"""What became of the records of a PutRecord(s) request, as the client is told. Pure.

The other half of `put.py`: results -> bytes, or the one refusal that stands for all of them.
Invariant: an entry that says delivered has the service's sequence number, or the word `accepted`.
Where it sits: engine -> door -> here -> the connection.
"""

from collections.abc import Sequence

import msgspec

from kdaemon.base.record import RecordResult
from kdaemon.wire.refusals import ApiError, Refusal, refuse, worst_first

# The answer of a client that asked not to wait for delivery: true for "it is there" and impossible
# to take for a real sequence number or shard.
ACCEPTED = RecordResult(sequence_number="accepted", shard_id="accepted")

_encode = msgspec.json.Encoder().encode

_PLAIN = b'{"EncryptionType":"NONE"'  # how most answers begin


def encode_put_records(results: Sequence[RecordResult], encryption: str = "NONE") -> bytes:
    """The answer to a PutRecords request: one entry per record, in its order.

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


def encode_put_record(results: Sequence[RecordResult], encryption: str = "NONE") -> bytes:
    """The answer to a PutRecord request, whose one result is given. Raises ApiError if the record
    was not delivered.
    """
    (result,) = results
    if not result.sequence_number or result.error_code:
        raise ApiError(_refusal_of(result))
    start = _PLAIN if encryption == "NONE" else _encode({"EncryptionType": encryption})[:-1]
    return b"%b,%b" % (start, _encode(result)[1:])


def status_of(results: Sequence[RecordResult]) -> Refusal | None:
    """The refusal that a whole request gets of which nothing was delivered (or taken): clients that
    read the status alone must hear of it. None if at least one record was.
    """
    for result in results:  # most often the first one is delivered
        if result.sequence_number and not result.error_code:
            return None
    return worst_first(map(_refusal_of, results))


def _refusal_of(result: RecordResult) -> Refusal:
    failure = _failure(result)
    return refuse(failure.error_code or "", failure.error_message)


def _failure(result: RecordResult) -> RecordResult:
    """Only what a failed entry has at AWS; a service that gave no reason gets the one AWS gives."""
    if result.error_code:
        return RecordResult(
            error_code=result.error_code, error_message=result.error_message or result.error_code
        )
    return RecordResult(error_code="InternalFailure", error_message="Internal Service Failure")
