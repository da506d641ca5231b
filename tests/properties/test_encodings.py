"""A request means the same in JSON and in CBOR, however either is written."""

import base64
import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from kdaemon.base.limits import HASH_KEY_MAX
from kdaemon.wire.envelope import Operation
from kdaemon.wire.forms import FORMS
from kdaemon.wire.limits import PutLimits, PutRequest
from kdaemon.wire.refusals import ApiError, Encoding
from tests.kit import cbor
from tests.kit.cbor import Blob, Value
from tests.kit.depth import examples
from tests.kit.puts import members_of

FORMS_OF = {
    True: (FORMS[Operation.PUT_RECORD], FORMS[Operation.PUT_RECORD_CBOR]),
    False: (FORMS[Operation.PUT_RECORDS], FORMS[Operation.PUT_RECORDS_CBOR]),
}
ARN = "arn:aws:kinesis:us-east-1:000000000000:stream/s"
LIMITS = (
    PutLimits(record_bytes_max=1000, request_bytes_max=2000),
    PutLimits(1000, 2000, partition_key_bytes_max=256, is_stream_name_free=True),
)


def json_of(value: Value) -> str:
    """A member that is there twice stays so."""
    if isinstance(value, dict):
        return json_of(list(value.items()))
    if isinstance(value, list):
        return "{" + ",".join(f"{json_of(name)}:{json_of(each)}" for name, each in value) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(json_of, value)) + "]"
    if isinstance(value, Blob):
        value = base64.b64encode(value).decode()
    return json.dumps(value, ensure_ascii=False)


def outcome(parse: object, body: bytes, limits: PutLimits) -> object:
    try:
        return parse(body, limits)  # type: ignore[operator]
    except ApiError as error:
        return error


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
    st.just(()),
    st.just([]),
    st.tuples(st.just([("Data", 1), ("Data", 2)]), texts),
)
data = st.binary(max_size=40).map(Blob)
keys = st.one_of(st.just("k"), texts, st.sampled_from(["x" * 256, "x" * 257, "é" * 200]))
hash_keys = st.sampled_from(["0", "7", str(HASH_KEY_MAX), str(HASH_KEY_MAX + 1), "01", "x", ""])
names = st.sampled_from(["s", "no such", "", "/a/b/s", "s" * 129, "s" * 3000])
arns = st.sampled_from([ARN, ARN.replace("/s", "/t"), "arn:", ""])


def often(usual: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    return st.one_of(usual, usual, usual, usual, odd)


@st.composite
def entries(draw: st.DrawFn) -> list[tuple[str, Value]]:
    members: list[tuple[str, Value]] = [("Data", draw(often(data)))]
    members.append(("PartitionKey", draw(often(keys))))
    if not draw(st.integers(0, 3)):
        members.append(("ExplicitHashKey", draw(often(hash_keys))))
    if not draw(st.integers(0, 5)):
        members.append((draw(texts), draw(odd)))
    if not draw(st.integers(0, 5)):
        members.pop(draw(st.integers(0, len(members) - 1)))
    return draw(st.sampled_from([members, sorted(members, key=lambda member: member[0])]))


@st.composite
def requests(draw: st.DrawFn) -> tuple[bool, list[tuple[str, Value]]]:
    is_single = draw(st.booleans())
    members: list[tuple[str, Value]] = [("StreamName", draw(often(names)))]
    rare: list[tuple[str, st.SearchStrategy[Value]]] = [
        ("StreamARN", arns),
        ("StreamId", texts),
        ("DryRun", st.booleans()),
    ]
    if is_single:
        members += draw(entries())
        rare.append(
            ("SequenceNumberForOrdering", st.sampled_from(["0", "01", "x", "9" * 129, "9" * 130]))
        )
    else:
        listed = draw(st.lists(st.one_of(entries(), entries(), entries(), odd), max_size=4))
        if not draw(st.integers(0, 9)):
            listed = [*listed, *([[("Data", Blob(b"x")), ("PartitionKey", "k")]] * 501)]
        members.append(("Records", draw(st.one_of(*[st.just(tuple(listed))] * 6, odd))))
    members += [(name, draw(often(one))) for name, one in rare if not draw(st.integers(0, 4))]
    if not draw(st.integers(0, 5)):
        members.append((draw(texts), draw(odd)))
    if not draw(st.integers(0, 9)):
        members.pop(draw(st.integers(0, len(members) - 1)))
    return is_single, draw(st.permutations(members))


def told(error: ApiError) -> tuple[object, ...]:
    refusal = error.refusal
    message = (refusal.message or "").replace("a CBOR map", "a JSON object")
    return refusal.code, refusal.status, message, error.record_count, error.stream


def names_of(value: Value) -> list[str]:
    return [name for name, _ in value] if isinstance(value, list) else []


def repeats(members: list[tuple[str, Value]]) -> bool:
    records = dict(members).get("Records")
    objects: list[Value] = [members, *(records if isinstance(records, tuple) else ())]
    return any(len(set(names_of(each))) < len(names_of(each)) for each in objects)


@settings(deadline=None, max_examples=examples(400))
@given(
    request=requests(), limits=st.sampled_from(LIMITS), seed=st.integers(0, 2**32), twice=st.data()
)
def test_json_and_cbor_give_the_same_request_or_the_same_refusal(
    request: tuple[bool, list[tuple[str, Value]]],
    limits: PutLimits,
    seed: int,
    twice: st.DataObject,
) -> None:
    is_single, members = request
    in_json, in_cbor = FORMS_OF[is_single]
    expected = outcome(in_json.parse, json_of(members).encode(), limits)
    for body in (cbor.java(members), cbor.any_way(members, random.Random(seed))):
        found = outcome(in_cbor.parse, body, limits)
        if isinstance(expected, PutRequest):
            assert isinstance(found, PutRequest)
            assert members_of(found) == members_of(expected)
            continue
        assert isinstance(expected, ApiError)
        assert isinstance(found, ApiError)
        assert found.encoding is Encoding.CBOR
        assert told(found) == told(expected)
