"""What is passed on to the service and back: a client's body, and the answer that it is given.

The first byte of an input chooses: a body at AWS, a body at Yandex, a success, a refusal; the rest
is the text. A body is compared with what Python's own JSON reader finds in it. Of an answer no
secret may be left, however it is written.
"""

import json
from typing import Any

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.base.names import ARN_CHARACTERS_MAX, parse_arn
from kdaemon.base.redact import SECRETS
from kdaemon.send.answers import error_answer
from kdaemon.send.relayed import HEADERS, Relayed, relayed_error, relayed_success
from kdaemon.wire.passed_on import BODY_BYTES_MAX, read_asked
from kdaemon.wire.refusals import ApiError, render

SECRET = "wJalrXUtnFEMI/K7MDENG/of-this-fuzz"
ARN = b"arn:aws:kinesis:us-east-1:000000000000:stream/s"
SEEDS = [
    b'\x00{"StreamName":"s"}',
    b'\x00{"StreamARN":"%b","Limit":10,"ExclusiveStartShardId":"shardId-0"}' % ARN,
    b'\x00{"ConsumerARN":"%b/consumer/c:1","ResourceARN":"%b"}' % (ARN, ARN),
    b'\x00{"ShardFilter":{"Type":"AT_TIMESTAMP","Timestamp":1.5e9},"StreamName":"s"}',
    b'\x01{"StreamName":"/ru/b1g/etn/s","Recurse":true}',
    b'\x02{"Shards":[{"ShardId":"shardId-0"}],"NextToken":"AAA"}',
    b'\x03{"__type":"ResourceNotFoundException","message":"Stream s not found."}',
    b'\x03{"__type":"com.amazon#InvalidSignatureException","Message":"%b"}' % SECRET.encode(),
]
TOKENS = [
    *(b'"StreamName":', b'"StreamARN":', b'"ConsumerARN":', b'"ResourceARN":', b'"NextToken":'),
    *(b'"Limit":1,', b'"a":', b'"\\u0061":', b"null", b"true", b"1e999", b"-0", b"1.0", b"NaN"),
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\u0000", b"\\ud800", b'\\"', b"[" * 500, ARN),
    *(
        b'"__type":',
        b'"message":',
        b'"Message":',
        b'"code":',
        SECRET.encode(),
        b"18446744073709551616",
    ),
    *(SECRET[:20].encode(), SECRET.replace("/", "\\/").encode(), b"\\u0077JalrXUtnFEMI"),
    b'"Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE123456789/x, Signature=0a1b2c"',
]


class _Repeated(Exception):  # noqa: N818 - of this file
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise _Repeated
    return dict(pairs)


def one_input(data: bytes) -> None:
    SECRETS.register(SECRET)
    choice, body = (data[0] if data else 0) % 4, data[1:]
    if choice < 2:
        _check_body(body, is_stream_name_free=choice == 1)
    else:
        _check_answer(200 if choice == 2 else 400, body)


def _check_body(body: bytes, *, is_stream_name_free: bool) -> None:
    try:
        asked = read_asked(body, is_stream_name_free=is_stream_name_free)
    except ApiError as error:
        status, answer, _ = render(error.refusal, error.encoding)
        assert status == 400
        assert len(answer) < 32 * 1024
        assert error.record_count == 0
        return
    assert len(body) <= BODY_BYTES_MAX
    members = json.loads(body, object_pairs_hook=_once, parse_int=float)
    assert isinstance(members, dict)
    assert json.loads(asked.canonical, parse_int=float) == members
    again = read_asked(asked.canonical, is_stream_name_free=is_stream_name_free)
    assert again == asked
    for member in ("StreamName", "StreamARN"):
        assert members.get(member) is None or members[member] in asked.spellings
    for spelling in asked.spellings:
        assert 0 < len(spelling) <= ARN_CHARACTERS_MAX
    if asked.arn is not None:
        assert parse_arn(asked.arn) is not None
        assert asked.arn in asked.spellings


def _check_answer(status: int, body: bytes) -> None:
    text = body[:80].decode("latin-1")
    headers = {"x-amzn-RequestId": text, "Retry-After": text, "Set-Cookie": "a=b"}
    relayed = _relayed(status, body, headers)
    if relayed is None:
        return
    assert relayed.status == status
    if status == 200:
        assert relayed.body == body
        assert SECRET.encode() not in body
    else:
        members = msgspec.json.decode(relayed.body)
        for shown in (relayed.body.decode(), str(members)):
            assert SECRET not in shown
            assert "Signature=0a1b2c" not in shown
    for name, value in relayed.headers:
        assert name.decode() in HEADERS
        assert value.isascii()
        assert b"\n" not in value
        assert SECRET.encode() not in value


def _relayed(status: int, body: bytes, headers: dict[str, str]) -> Relayed | None:
    if status == 200:
        call = relayed_success("ListShards", body, headers)
        try:
            call.send(None)
        except StopIteration as end:
            result: Relayed = end.value
            return result
        except ServiceError:
            return None
        raise AssertionError("a small answer takes one turn")
    error = error_answer(status, body, headers)
    return None if error.trouble or error.is_nameless else relayed_error(error, body, headers)
