"""Bodies of PutRecords and PutRecord in CBOR, with the limits of both services.

As `put_bodies.py`: the first byte of an input chooses the operation and the service, the rest is
the body. What is read is compared with what cbor2 reads of the same bytes, and with what the same
members mean in JSON.
"""

import base64
import json
import random
from typing import Any

import cbor2

from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.base.service import AWS, YANDEX
from kdaemon.wire import put, put_cbor
from kdaemon.wire.cbor import DEPTH_MAX
from kdaemon.wire.limits import PutLimits, PutRequest
from kdaemon.wire.refusals import ApiError, Encoding, render
from tests.fuzz.json_text import TEXTS
from tests.fuzz.put_bodies import ANSWER_BYTES_MAX, check_request, limits_of
from tests.kit.cbor import Blob, Value, any_way, java
from tests.kit.puts import members_of

_ENTRY: dict[str, Value] = {"Data": b"hi", "PartitionKey": "k"}
_SINGLE: dict[str, Value] = {**_ENTRY, "StreamName": "s"}
_MANY: dict[str, Value] = {"Records": ({**_ENTRY},) * 3, "StreamName": "s"}
SEEDS = [
    *(bytes([choice]) + java(_MANY) for choice in (0, 2)),
    *(bytes([choice]) + java(_SINGLE) for choice in (1, 3)),
    b"\0" + cbor2.dumps({"StreamName": "s", "Records": [_ENTRY] * 3}),
    b"\0" + any_way(_MANY, random.Random(2)),
    b"\0" + java({**_MANY, "Other": ({"a": (1.5, None, True, -7)},)}),
]
TOKENS = [
    *(b"\xbf", b"\x9f", b"\xff", b"\xa0", b"\x80", b"\xa1", b"\x81", b"\x5f", b"\x7f", b"\xf6"),
    *(b"\xf7", b"\xf8", b"\xf9\x7e\x00", b"\xfb\x7f\xf0\0\0\0\0\0\0", b"\xc0", b"\xc1", b"\xc2"),
    *(b"\xd8\x1c", b"\xd8\x1d\x00", b"\xd9\x01\x00", b"\xd9\xd9\xf7", b"\x1b" + b"\xff" * 8),
    *(b"\x3b" + b"\xff" * 8, b"\x5b" + b"\xff" * 8, b"\x9b" + b"\xff" * 8, b"\xbb" + b"\xff" * 8),
    *(b"\x41x", b"\x61k", b"\x60", b"\x40", b"\x58\x00", b"\x78\x00", b"\x62\xc3\xa9", b"\x61\xff"),
    *(b"\x64Data", b"\x6cPartitionKey", b"\x6fExplicitHashKey", b"\x6aStreamName"),
    *(b"\x69StreamARN", b"\x67Records", b"\x66DryRun", b"\x7f\x62Da\x62ta\xff", java(_ENTRY)),
]
TEST_INPUTS = 2_000


def build(dice: random.Random) -> bytes:
    """A request that is nearly right."""
    is_single = dice.randrange(2)
    entry = _members(dice)
    head: list[tuple[str, Value]] = [("StreamName", dice.choice(("s", "s", "s", "", None, *TEXTS)))]
    if is_single:
        head += entry
    else:
        count = dice.choice((1, 1, 2, 3, 10, 500, 501))
        head.append(("Records", (*([_ENTRY] * (count - 1)), entry)))
    if not dice.randrange(4):
        head.append(("Other", dice.choice((1, 1.5, (), {}, ([("Data", 1), ("Data", 2)],), "x"))))
    if not dice.randrange(8):
        head.append(dice.choice(head))
    dice.shuffle(head)
    body = java(head) if dice.randrange(2) else any_way(head, dice)
    return bytes([is_single | dice.choice((0, 0, 2))]) + body


def _members(dice: random.Random) -> list[tuple[str, Value]]:
    data = dice.choice((b"hi", b"", bytes(300), "aGk=", "a#b=", None, 7, Blob(b"\xff")))
    members: list[tuple[str, Value]] = [("Data", data)]
    members.append(("PartitionKey", dice.choice(("k", "k", None, "", 7, b"k", *TEXTS))))
    if not dice.randrange(3):
        keys = ("0", str(HASH_KEY_MAX), str(HASH_KEY_MAX + 1), "01", "x", None, 5)
        members.append(("ExplicitHashKey", dice.choice(keys)))
    if not dice.randrange(5):
        members.append((dice.choice(members)[0], dice.choice((b"hi", "k", None))))
    if dice.randrange(3):
        dice.shuffle(members)
    else:  # as SDKs have them
        members.sort(key=lambda member: member[0])
    return members


def one_input(data: bytes) -> None:
    choice, body = data[0] if data else 0, data[1:]
    limits = limits_of(YANDEX if choice & 2 else AWS)
    is_single = bool(choice & 1)
    parse = put_cbor.parse_put_record if is_single else put_cbor.parse_put_records
    try:
        request = parse(body, limits)
    except ApiError as error:
        _check_refusal(error)
        return
    check_request(request, limits)
    _compare(request, body, is_single=is_single)


def _check_refusal(error: ApiError) -> None:
    status, answer, _ = render(error.refusal, error.encoding)
    assert (status, error.encoding) == (400, Encoding.CBOR)
    assert len(answer) <= ANSWER_BYTES_MAX
    assert cbor2.loads(answer)["__type"] == error.refusal.code
    assert error.record_count >= 1


def _compare(request: PutRequest, body: bytes, *, is_single: bool) -> None:
    """What was taken is what others read, and what the same members are in JSON."""
    moments = {1: lambda number, _: number / 1000}
    members = cbor2.loads(body, semantic_decoders=moments, max_depth=2 * DEPTH_MAX)
    head = ("StreamName", "StreamARN", "DryRun")
    names = ("Data", "PartitionKey", "ExplicitHashKey")
    known = {name: members.get(name) for name in head}
    entries = [members] if is_single else members["Records"]
    if all(set(entry) <= {*names, *head} for entry in entries) and set(members) <= {
        *(*head, *names, "Records")
    }:  # else members may be there twice in what nobody asks for
        cbor2.loads(body, semantic_decoders=moments, allow_duplicate_keys=False)
    listed = [{name: _in_json(entry.get(name)) for name in names} for entry in entries]
    limits = PutLimits(1 << 30, 1 << 30, None, is_stream_name_free=True)
    if is_single:
        known["SequenceNumberForOrdering"] = members.get("SequenceNumberForOrdering")
        text = json.dumps({**known, **listed[0]}).encode()
        expected = put.parse_put_record(text, limits)
    else:
        text = json.dumps({**known, "Records": listed}).encode()
        expected = put.parse_put_records(text, limits)
    assert members_of(request) == members_of(expected)


def _in_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value
