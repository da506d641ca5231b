"""What a service, or something in its place, answers: success and error.

The first byte of an input chooses the status and the operation, the rest is the body.
"""

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.send.answers import MESSAGE_CHARACTERS_MAX, error_answer, members_of
from kdaemon.send.put_call import PutAnswer, read_answer
from kdaemon.wire.refusals import ApiError
from kdaemon.wire.results import encode_put_record, encode_put_records, status_of

SEEDS = [
    b'\x00{"FailedRecordCount":0,"Records":[{"SequenceNumber":"7","ShardId":"shardId-0"}]}',
    b'\x00{"FailedRecordCount":1,"Records":[{"ErrorCode":"InternalFailure","ErrorMessage":"Why"}]}',
    b'\x00{"Records":[{"SequenceNumber":"","ShardId":"","ErrorCode":"ThrottlingException"}]}',
    b"\x00",
    b'\x01{"StreamDescriptionSummary":{"OpenShardCount":1}}',
    b'\x02{"__type":"ResourceNotFoundException","message":"Stream s under account 0 not found."}',
    b'\x02{"__type":"com.amazon#ValidationException","Message":"Value \'k\' at \'data\' failed"}',
    b"\x03<html><body>503 Service Unavailable</body></html>",
]
TOKENS = [
    *(b'"Records":', b'"SequenceNumber":', b'"ShardId":', b'"ErrorCode":', b'"ErrorMessage":'),
    *(b'"__type":', b'"message":', b'"Message":', b'"code":', b"null", b"[]", b"{}", b"1e999"),
    *(b'"', b",", b":", b"{", b"}", b"[", b"]", b"Value ", b"' at '", b" is not a valid 128 bit"),
    *(b"Specified value was ", b"' can not be converted", b"\\u0000", b"\\ud800", b"#"),
]
_STATUSES = (200, 200, 400, 503)


def one_input(data: bytes) -> None:
    choice, body = (data[0] if data else 0) % 4, data[1:]
    status = _STATUSES[choice]
    if status != 200:
        text = body[:80].decode("latin-1")
        for headers in (
            {},
            {"x-amzn-ErrorType": text},
            {"Content-Type": text, "x-amz-retry-after": text},
            {"Location": text},
        ):
            for code in (status, 302):
                _check_error(error_answer(code, body, headers), code)
        return
    try:
        if choice == 0:
            _check_results(read_answer(body, {}, 1))
        else:
            assert isinstance(members_of("DescribeStreamSummary", body, {}), dict)
    except ServiceError as error:
        assert error.code in {"UnreadableAnswer", "Http200"}
        assert error.was_sent
        assert len(error.message) <= 2 * MESSAGE_CHARACTERS_MAX


def _check_error(error: ServiceError, status: int) -> None:
    assert error.status == status
    assert error.was_sent
    assert 0 < len(error.code) <= 100
    assert error.code.isascii()
    assert len(error.message) <= MESSAGE_CHARACTERS_MAX
    assert "\n" not in error.message


def _check_results(answer: PutAnswer) -> None:
    """Whatever they are, a client can be told of them."""
    results, encryption = answer.records, answer.encryption_type
    encoded = msgspec.json.decode(encode_put_records(results, encryption or "NONE"))
    assert encoded["FailedRecordCount"] == sum(not each.is_delivered for each in results)
    refusal = status_of(results) if results else None
    assert (refusal is None) == (not results or any(each.is_delivered for each in results))
    for result in results[:3]:
        try:
            encode_put_record([result])
        except ApiError:
            assert not result.is_delivered
