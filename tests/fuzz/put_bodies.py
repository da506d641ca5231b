"""Bodies of PutRecords and PutRecord, with the limits of both services.

The first byte of an input chooses the operation and the service, the rest is the body. What is read
is compared with what Python's own JSON reader finds, and with what a sandbox of either kind reads
of the same records when they are sent on.
"""

import base64
import json
import random
from pathlib import Path
from typing import Any

import msgspec

from kdaemon.base.errors import ServiceError
from kdaemon.base.limits import HASH_KEY_MAX, SPREAD_KEY_BYTES
from kdaemon.base.record import Record
from kdaemon.base.service import AWS, YANDEX, Service
from kdaemon.sandbox import yandex
from kdaemon.wire.limits import PutLimits, PutRequest, require_keys
from kdaemon.wire.put import parse_put_record, parse_put_records
from kdaemon.wire.refusals import ApiError, render
from tests.fuzz.json_text import TEXTS, Pairs, Value, write

CORPUS = Path(__file__).parent / "corpus" / "put_bodies.txt"
SEEDS = [
    bytes([choice]) + body
    for body in CORPUS.read_bytes().splitlines()
    for choice in (0 if b'"Records"' in body else 1, 2 if b'"Records"' in body else 3)
]
TOKENS = [
    *(b'"Data":', b'"PartitionKey":', b'"ExplicitHashKey":', b'"StreamName":', b'"StreamARN":'),
    *(b'"Records":', b'"SequenceNumberForOrdering":', b'"DryRun":', b'"StreamId":', b'"X":'),
    *(b'"aGk=",', b'"k"', b"null", b"true", b"1e999", b"-0", b'"s",', b"[]", b"{}", b"[", b"{"),
    *(b",", b":", b'"', b"\\u0000", b"\\ud800", b"\\u003a", b'\\"', b"\\\\", b"]", b"}", b"0"),
    b'{"Data":"aGk=","PartitionKey":"k"},',
    b'"Data":"","Data":"eA==",',
    b"340282366920938463463374607431768211456",
    b"arn:aws:kinesis:us-east-1:000000000000:stream/s",
]
ANSWER_BYTES_MAX = 32 * 1024
UNKNOWN = object()


_KEYS = ("k", "k", "k", "user:1", None, "", 7, *TEXTS)
_DATA = ("aGk=", "aGk=", "", "eA==", "AAAA" * 30, "abc", "#", None, 7)
_HASH_KEYS = ("0", "7", str(HASH_KEY_MAX), str(HASH_KEY_MAX + 1), "01", "x", "", None, 5)
_NUMBERS = ("0", "49600000000000000000000000000000000000000000000000000000", "01", "x", "9" * 130)
_ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/s"


def build(dice: random.Random) -> bytes:
    """A request that is nearly right."""
    is_single = dice.randrange(2)
    entry = _members(dice)
    name = dice.choice(("s", "s", "s", "/a/b/s", "no such", "", None, *TEXTS))
    head: Pairs = [("StreamName", name)]
    rare: Pairs = [
        ("StreamARN", dice.choice((_ARN, _ARN.replace("stream/s", "stream/t"), "arn:", None))),
        ("DryRun", dice.choice((True, False, None, "x"))),
        ("StreamId", dice.choice(("x:y", None))),
        ("Other", dice.choice(([("Data", "x"), ("Data", "y")], (1, [], ("a",)), "a:b", 1e9))),
    ]
    if is_single:
        rare.append(("SequenceNumberForOrdering", dice.choice(_NUMBERS)))
        head += entry
    else:
        count = dice.choice((1, 1, 1, 2, 3, 10, 64, 70, 500, 501))
        entries: list[Value] = [[("Data", "aGk="), ("PartitionKey", "k")]] * (count - 1)
        head.append(("Records", (*entries, entry)))
    head += dice.sample(rare, dice.choice((0, 0, 0, 1, 2)))
    if not dice.randrange(8):
        head.append(dice.choice(head))
    dice.shuffle(head)
    return bytes([is_single | dice.choice((0, 0, 2))]) + write(dice, head)


def _members(dice: random.Random) -> Pairs:
    members: Pairs = [("Data", dice.choice(_DATA[: dice.choice((2, 6, 9))]))]
    members.append(("PartitionKey", dice.choice(_KEYS[: dice.choice((3, 5, len(_KEYS)))])))
    if not dice.randrange(3):
        members.append(("ExplicitHashKey", dice.choice(_HASH_KEYS[: dice.choice((3, 9))])))
    if not dice.randrange(6):
        members.append((dice.choice(("X", "X:Y", "\ud800")), dice.choice(TEXTS)))
    if not dice.randrange(5):
        members.append((dice.choice(members)[0], dice.choice(("aGk=", "k", None))))
    dice.shuffle(members)
    return members


def limits_of(service: Service) -> PutLimits:
    return PutLimits(
        record_bytes_max=service.record_bytes_max,
        request_bytes_max=service.request_bytes_max,
        partition_key_bytes_max=service.partition_key_bytes_max,
        is_stream_name_free=not service.has_arns,
    )


def one_input(data: bytes) -> None:
    choice, body = data[0] if data else 0, data[1:]
    limits = limits_of(YANDEX if choice & 2 else AWS)
    is_single = bool(choice & 1)
    try:
        request = (parse_put_record if is_single else parse_put_records)(body, limits)
    except ApiError as error:
        _check_refusal(error, body, is_single=is_single)
    else:
        assert request.is_single is is_single
        check_request(request, limits)
        _compare_with_json(request, body)
        _compare_with_sandbox(request)


def _check_refusal(error: ApiError, body: bytes, *, is_single: bool) -> None:
    status, answer, _ = render(error.refusal, error.encoding)
    assert status == 400
    assert len(answer) <= ANSWER_BYTES_MAX
    assert msgspec.json.decode(answer)["__type"] == error.refusal.code
    assert error.record_count >= 1
    if "is there twice" in (error.refusal.message or ""):
        assert _has_repeats(_pairs(body), is_single=is_single) in (True, UNKNOWN)


def check_request(request: PutRequest, limits: PutLimits) -> None:
    assert 1 <= len(request.records) == len(request.sizes) <= 500
    assert request.stream
    assert sum(request.sizes) <= limits.request_bytes_max or request.is_single
    keyless_count = 0
    for record, size in zip(request.records, request.sizes, strict=True):
        key_bytes = len(record.partition_key.encode())
        keyless_count += not key_bytes
        assert size == len(record.data) + (key_bytes or SPREAD_KEY_BYTES)
        assert size <= limits.record_bytes_max
        assert len(record.partition_key) <= 256
        hash_key = record.explicit_hash_key
        if hash_key is not None:
            assert 0 <= int(hash_key) <= HASH_KEY_MAX
            assert str(int(hash_key)) == hash_key
    assert keyless_count == request.keyless_count
    try:
        require_keys(request)
    except ApiError:
        assert keyless_count
    else:
        assert not keyless_count


class _Pairs(list[tuple[str, Any]]):
    """The members of an object, each as often as it is there."""


def _pairs(body: bytes) -> Any:
    try:
        return json.loads(
            body.decode(),
            object_pairs_hook=_Pairs,
            parse_int=str,
            parse_float=str,
            parse_constant=str,
        )
    except (ValueError, RecursionError):
        return UNKNOWN  # what the decoder skips may be no text, or too deep for Python


def _has_repeats(found: Any, *, is_single: bool) -> object:
    if found is UNKNOWN or not isinstance(found, _Pairs):
        return UNKNOWN
    objects = [found]
    if not is_single:
        objects += [
            entry
            for name, value in found
            if name == "Records" and isinstance(value, list)
            for entry in value
            if isinstance(entry, _Pairs)
        ]
    return any(len(dict(pairs)) < len(pairs) for pairs in objects)


def _compare_with_json(request: PutRequest, body: bytes) -> None:
    found = _pairs(body)
    if found is UNKNOWN:
        return
    assert not _has_repeats(found, is_single=request.is_single), "a member is lost"
    members = dict(found)
    assert members.get("StreamName") == request.stream_name
    assert members.get("StreamARN") == request.stream_arn
    entries = [members] if request.is_single else [dict(entry) for entry in members["Records"]]
    assert [
        Record(
            base64.b64decode(entry["Data"], validate=True),
            entry.get("PartitionKey") or "",
            entry.get("ExplicitHashKey"),
        )
        for entry in entries
    ] == request.records


def _compare_with_sandbox(request: PutRequest) -> None:
    for record in request.records:
        record.partition_key = record.partition_key or "k"  # as one is drawn for it when it is sent
    name = request.stream if len(request.stream) <= 128 else "s"
    body = msgspec.json.encode({"StreamName": name, "Records": request.records})
    limits = PutLimits(1 << 30, 1 << 30, None, is_stream_name_free=True)
    assert parse_put_records(body, limits).records == request.records
    try:
        assert yandex.parse_put_records(body) == (name, request.records)
    except ServiceError as error:
        raise AssertionError(f"Yandex: {error}") from error
