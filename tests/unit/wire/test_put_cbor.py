"""PutRecord(s) in CBOR: what `tests/properties/test_encodings.py` does not say.

That property holds both encodings to one meaning; here stand the forms that only CBOR has, what
large and broken bodies cost, and the answers.
"""

import gc
import json
import random
import sys
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdaemon.base.limits import KIB, MIB
from kdaemon.base.record import Record, RecordResult
from kdaemon.base.steps import at_once
from kdaemon.wire import cbor as wire_cbor
from kdaemon.wire import put_cbor
from kdaemon.wire.envelope import AT_ONCE_BYTES_MAX, Operation
from kdaemon.wire.forms import FORMS
from kdaemon.wire.limits import PutLimits, PutRequest
from kdaemon.wire.refusals import ApiError, Encoding
from kdaemon.wire.results import (
    encode_put_record,
    encode_put_record_cbor,
    encode_put_records,
    encode_put_records_cbor,
)
from tests.kit.cbor import Blob, Value, any_way, java
from tests.kit.puts import members_of

LIMITS = PutLimits(record_bytes_max=10 * MIB, request_bytes_max=10 * MIB)
PARSERS = {"PutRecord": put_cbor.parse_put_record, "PutRecords": put_cbor.parse_put_records}
Parse = Callable[[bytes, PutLimits], PutRequest]


def requested(*entries: Value, **more: Value) -> dict[str, Value]:
    return {"Records": entries, "StreamName": "s", **more}


def entry(data: bytes = b"hi", key: Value = "k", **more: Value) -> dict[str, Value]:
    return {"Data": data, "PartitionKey": key, **more}


def refusal_of(parse: Parse, body: bytes, limits: PutLimits = LIMITS) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(body, limits)
    assert caught.value.encoding is Encoding.CBOR
    return caught.value


def told(parse: Parse, body: bytes) -> str:
    error = refusal_of(parse, body)
    assert error.refusal.code == "SerializationException"
    assert error.refusal.status == 400
    return error.refusal.message or ""


# --- what is read


@pytest.mark.parametrize(
    "write", [java, cbor2.dumps, lambda value: any_way(value, random.Random(5))]
)
@pytest.mark.parametrize("size", [0, 1, 23, 24, 255, 256, 65_535, 65_536, 200_000])
def test_data_of_any_size_is_read(write: Callable[[object], bytes], size: int) -> None:
    data = bytes(range(256)) * (size // 256) + bytes(size % 256)
    sent = {"StreamName": "s", "Records": [entry(data), entry(b"x", "é" * 100), entry(data, "k")]}
    if write is not cbor2.dumps:
        sent["Records"] = tuple(sent["Records"])
    request = put_cbor.parse_put_records(write(sent), LIMITS)
    assert request.records == [Record(data, "k"), Record(b"x", "é" * 100), Record(data, "k")]
    assert request.sizes == [size + 1, 201, size + 1]
    assert request.byte_count == 2 * size + 203


@pytest.mark.parametrize("count", [1, 2, 499, 500])
def test_records_as_sdks_write_them_are_read_without_their_plain_values(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_cbor, "_read_any", None)
    records = [entry(bytes(number), f"key-{number}") for number in range(count)]
    expected = [Record(bytes(number), f"key-{number}") for number in range(count)]
    members = {"Records": tuple(records), "StreamName": "s", "DryRun": True}
    for sent in (members, dict(reversed(members.items()))):
        assert put_cbor.parse_put_records(java(sent), LIMITS).records == expected
        body = cbor2.dumps({**sent, "Records": records})
        assert put_cbor.parse_put_records(body, LIMITS).records == expected


@pytest.mark.parametrize(
    ("hash_key", "code"),
    [
        ("", "ValidationException"),
        ("01", "ValidationException"),
        ("x" * 300, "ValidationException"),
        (str(2**128), "InvalidArgumentException"),
    ],
)
def test_hash_keys_as_sdks_write_them_are_held_to_the_same_rules(hash_key: str, code: str) -> None:
    bad = {"Data": b"x", "ExplicitHashKey": hash_key, "PartitionKey": "k"}
    good = {**bad, "ExplicitHashKey": "7"}
    for records in ([bad], [entry(), good, bad], [good, bad, entry()]):
        error = refusal_of(put_cbor.parse_put_records, java(requested(*records)))
        assert (error.refusal.code, error.record_count) == (code, len(records))
        if code == "ValidationException":
            at = records.index(bad) + 1
            assert f"'records.{at}.member.explicitHashKey'" in (error.refusal.message or "")


def test_a_map_of_two_members_has_no_third() -> None:
    """Where a map says its length, a hash key is counted."""
    records = [{"Data": b"x", "ExplicitHashKey": "7", "PartitionKey": "k"}, entry()]
    body = cbor2.dumps({"StreamName": "s", "Records": records})
    assert put_cbor.parse_put_records(body, LIMITS).records[0].explicit_hash_key == "7"
    told(put_cbor.parse_put_records, body.replace(b"\xa3", b"\xa2"))


@pytest.mark.parametrize(
    "other",
    [
        {"PartitionKey": "k", "Data": b"x"},
        {"Data": b"x"},
        {"Data": b"x", "PartitionKey": ""},
        {"Data": b"x", "PartitionKey": None},
        {"Data": b"x", "PartitionKey": "k", "ExplicitHashKey": "7"},
        {"Data": b"x", "ExplicitHashKey": "7", "PartitionKey": "k"},
        {"Data": b"x", "ExplicitHashKey": "1" * 38, "PartitionKey": "k"},
        {"Data": b"x", "ExplicitHashKey": "7"},
        {"Data": b"x", "ExplicitHashKey": None, "PartitionKey": "k"},
        {"Data": b"x", "PartitionKey": "k", "Other": ({}, 1, 1.5)},
        {"Data": "eA==", "PartitionKey": "k"},
        {"Data": b"x", "PartitionKey": "k" * 256},
    ],
)
@pytest.mark.parametrize("place", [0, 1, 499])
def test_one_record_of_another_form_changes_nothing_for_the_rest(
    other: dict[str, Value], place: int
) -> None:
    records = [entry(b"%d" % number) for number in range(500)]
    records[place] = other
    if other.get("PartitionKey") == "":
        error = refusal_of(put_cbor.parse_put_records, java(requested(*records)))
        assert f"records.{place + 1}.member.partitionKey" in (error.refusal.message or "")
        return
    request = put_cbor.parse_put_records(java(requested(*records)), LIMITS)
    expected = [Record(b"%d" % number, "k") for number in range(500)]
    found = Record(b"x", other.get("PartitionKey") or "", other.get("ExplicitHashKey"))  # type: ignore[arg-type]
    expected[place] = found
    assert request.records == expected
    assert request.keyless_count == (not found.partition_key)


def test_data_may_be_a_text_of_base64_as_at_the_reference() -> None:
    request = put_cbor.parse_put_records(java(requested(entry("aGk="))), LIMITS)  # type: ignore[arg-type]
    assert request.records == [Record(b"hi", "k")]
    text = told(put_cbor.parse_put_records, java(requested(entry("a#b="))))  # type: ignore[arg-type]
    assert text == "'a#b=' can not be converted to a Blob: Invalid Base64 character: '#'"


@pytest.mark.parametrize(
    ("member", "value", "text"),
    [
        ("PartitionKey", b"k", "class java.nio.HeapByteBuffer can not be converted to an String"),
        ("StreamName", b"s", "class java.nio.HeapByteBuffer can not be converted to an String"),
        ("DryRun", b"s", "class java.nio.HeapByteBuffer can not be converted to an Boolean"),
        ("Data", float("nan"), "TruncatingBigNumber can not be converted to a Blob"),
        ("StreamName", float("inf"), "TruncatingBigNumber can not be converted to an String"),
        ("ExplicitHashKey", 7, "TruncatingBigNumber can not be converted to an String"),
    ],
)
def test_a_wrong_type_is_named(member: str, value: Value, text: str) -> None:
    sent = {**entry(), "StreamName": "s", member: value}
    assert text in told(put_cbor.parse_put_record, java(sent))


def test_a_moment_is_no_member_of_these() -> None:
    body = b"\xa3\x64Data\x41x\x6cPartitionKey\xc1\x01\x6aStreamName\x61s"
    assert "can not be converted to an String" in told(put_cbor.parse_put_record, body)
    ignored = b"\xa4\x64Data\x41x\x6cPartitionKey\x61k\x6aStreamName\x61s\x61X\xc1\x01"
    assert put_cbor.parse_put_record(ignored, LIMITS).records == [Record(b"x", "k")]


@pytest.mark.parametrize("operation", PARSERS)
@pytest.mark.parametrize(
    "number", [b"\xf6", b"\x00", b"\x80", b"\x61x", b"\x41x", b"\xf5", b"\xf7"]
)
def test_a_body_that_is_no_map_is_refused(operation: str, number: bytes) -> None:
    error = refusal_of(PARSERS[operation], number)
    if number == b"\x80":  # the service takes a list for an object without members
        assert error.refusal.code == "ValidationException"
    else:
        assert error.refusal.message == "The body must be a CBOR map."


# --- members twice


@pytest.mark.parametrize("write", [java, lambda value: any_way(value, random.Random(3))])
@pytest.mark.parametrize("place", [0, 1, 400])
@pytest.mark.parametrize("twice", ["Data", "PartitionKey", "Other"])
def test_a_member_that_is_there_twice_is_refused(
    write: Callable[[Value], bytes], place: int, twice: str
) -> None:
    members: dict[str, Value] = {"Data": b"x", "PartitionKey": "k", "Other": 1}
    records: list[Value] = [entry()] * 500
    records[place] = [*members.items(), (twice, members[twice])]
    error = refusal_of(put_cbor.parse_put_records, write(requested(*records)))
    assert error.refusal.code == "SerializationException"
    assert error.refusal.message == (
        f"The member {twice} is there twice: one of its two values would be lost."
    )
    assert (error.record_count, error.stream) == (500, "s")


@pytest.mark.parametrize("twice", ["StreamName", "Records", "Other"])
def test_a_member_of_the_request_twice_is_refused(twice: str) -> None:
    members: dict[str, Value] = {"Records": (entry(),), "StreamName": "s", "Other": None}
    for extra in ((twice, members[twice]), (twice, None)):
        body = java([extra, *members.items()])
        assert f"{twice} is there twice" in told(put_cbor.parse_put_records, body)


def test_what_unknown_members_hold_is_not_looked_into() -> None:
    inside: Value = ([("Data", 1), ("Data", 2)],)
    members = requested(entry(), Other=inside)
    assert len(put_cbor.parse_put_records(java(members), LIMITS).records) == 1
    single: list[tuple[str, Value]] = [*entry().items(), ("StreamName", "s"), ("Records", inside)]
    assert len(put_cbor.parse_put_record(java(single), LIMITS).records) == 1


# --- what is broken


def test_a_body_cut_off_anywhere_is_refused() -> None:
    hashed = {"Data": b"x", "ExplicitHashKey": "7", "PartitionKey": "k"}
    for members in (requested(*[entry(b"xy", f"k{n}") for n in range(3)]), requested(hashed), {}):
        for body in (java(members), cbor2.dumps({"StreamName": "s", "Records": [entry()] * 3})):
            for end in range(len(body)):
                if body[:end]:
                    assert told(put_cbor.parse_put_records, body[:end])
                    assert told(put_cbor.parse_put_record, body[:end])


def test_bytes_behind_the_end_are_refused() -> None:
    body = java(requested(entry()))
    for more in (b"\x00", b"\xff", body):
        assert "bytes follow its end" in told(put_cbor.parse_put_records, body + more)


def test_a_key_that_is_not_utf8_is_refused() -> None:
    body = java(requested(entry(key="kk"), entry(key="kk"))).replace(b"kk", b"k\xff")
    assert told(put_cbor.parse_put_records, body) == "The body is not UTF-8."


@pytest.mark.parametrize(
    ("declared", "there"), [(1, 2), (3, 2), (2**64 - 1, 2), (501, 500), (2**32, 500)]
)
def test_a_list_is_as_long_as_it_says(declared: int, there: int) -> None:
    records = b"".join(java(entry()) for _ in range(there))
    head = wire_cbor.head(wire_cbor.LIST, declared)
    body = b"\xbf\x67Records" + head + records + b"\x6aStreamName\x61s\xff"
    assert told(put_cbor.parse_put_records, body)


def test_more_records_than_may_be_are_counted_and_refused() -> None:
    for count in (501, 900):
        error = refusal_of(put_cbor.parse_put_records, java(requested(*[entry()] * count)))
        assert error.refusal.code == "ValidationException"
        assert "less than or equal to 500" in (error.refusal.message or "")
        assert (error.record_count, error.stream) == (count, "s")


@pytest.mark.parametrize("operation", PARSERS)
@pytest.mark.parametrize(
    ("opening", "many", "text"),
    [
        (b"\x9f", b"\x80", "more than"),
        (b"\x9f", b"\xa0", "more than"),
        (b"\xbf\x61X\x9f", b"\x80", "more than"),
        (b"\xbf\x67Records\x9f", b"\xa0", "more than"),
        (b"\xbf\x67Records\x9f", b"\xf6", "more than"),
        (b"\xbf\x67Records\x9f", java(entry()), "more than"),
        (b"\xbf\x67Records\x9f", b"\xa1\x64Data\x41x", "more than"),
        (b"\xbf\x64Data\x5f", b"\x41x", "more than"),
        (b"\xbf\x64Data", b"\x81", "nested too deeply"),
        (b"", b"\x9f", "nested too deeply"),
        (b"\xbf\x61X", b"\xc1", "nested too deeply"),
    ],
)
def test_what_makes_much_of_few_bytes_costs_little(
    operation: str, opening: bytes, many: bytes, text: str
) -> None:
    body = opening + many * (8 * MIB // len(many)) + b"\xff\xff\xff"
    tracemalloc.start()
    assert text in told(PARSERS[operation], body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MIB


# --- large bodies


def outcome_of(get: Callable[[], PutRequest]) -> object:
    try:
        return members_of(get())
    except ApiError as error:
        return error.refusal, error.record_count, error.stream, error.encoding


def test_a_large_body_is_read_in_steps_with_the_same_outcome() -> None:
    big = bytes(3 * KIB)
    ordinary = java(requested(*[entry(big, f"k{n}") for n in range(400)]))
    keyless = java(requested(*[entry(big, None) for n in range(400)]))
    twice = java(requested([("Data", big), *entry(big).items()], *[entry(big)] * 400))
    wrong = java(requested(*[entry(big, 7) for n in range(400)]))
    for body in (ordinary, keyless, twice, wrong):
        assert len(body) > AT_ONCE_BYTES_MAX
        in_steps = put_cbor.read_put_records(body, LIMITS)
        next(in_steps)  # not all at once
        at_last = outcome_of(partial(at_once, in_steps))
        assert at_last == outcome_of(partial(put_cbor.parse_put_records, body, LIMITS))
    single = java({**entry(bytes(2 * MIB)), "StreamName": "s"})
    in_steps = put_cbor.read_put_record(single, LIMITS)
    next(in_steps)
    at_last = members_of(at_once(in_steps))
    assert at_last == members_of(put_cbor.parse_put_record(single, LIMITS))


def test_a_large_body_is_not_explained() -> None:
    body = java(requested(*[entry(bytes(KIB), 7)] * 100))
    text = told(put_cbor.parse_put_records, body)
    assert text.startswith("The body cannot be read as this operation's input: Expected `str")


BODIES = {
    "good": java(requested(*[entry()] * 3)),
    "keyless": java(requested(entry(key=None))),
    "cut off": java(requested(*[entry()] * 3))[:-4],
    "not UTF-8": java(requested(entry(key="kk"))).replace(b"kk", b"k\xff"),
    "twice": java(requested([("Data", b"x"), *entry().items()])),
    "a wrong type": java(requested(entry(key=7))),
    "a wrong hash key": java(requested(entry(ExplicitHashKey="x"))),
    "no map": b"\x80",
    "deep": b"\x9f" * KIB,
    "one": java({**entry(), "StreamName": "s"}),
    "one of a wrong type": java({**entry(), "StreamName": 7}),
}


@pytest.mark.parametrize("operation", PARSERS)
@pytest.mark.parametrize("name", BODIES)
def test_no_collector_is_needed_to_free_a_body(operation: str, name: str) -> None:
    for body in (BODIES[name], BODIES[name] + b"\x80" * MIB):
        gc.disable()  # so what falls below is freed by its count alone
        try:
            references = sys.getrefcount(body)
            with suppress(ApiError):
                PARSERS[operation](body, LIMITS)
            assert sys.getrefcount(body) == references
        finally:
            gc.enable()


# --- answers

RESULTS = [
    RecordResult(sequence_number="7", shard_id="shardId-000000000001"),
    RecordResult(error_code="InternalFailure", error_message="Internal Service Failure"),
    RecordResult("", "", "ThrottlingException", None),
    RecordResult(),
    RecordResult("8", "shardId-000000000002", None, ""),
    RecordResult("9", None),
    RecordResult("9" * 300, "s" * 300),
    RecordResult("é", "shardId-ü"),
    RecordResult("1", "shardId-1", "", None),
]


@given(st.lists(st.sampled_from(RESULTS), max_size=30), st.sampled_from(["NONE", "KMS"]))
def test_an_answer_says_the_same_in_both_encodings(
    results: list[RecordResult], encryption: str
) -> None:
    found = cbor2.loads(encode_put_records_cbor(results, encryption))
    assert found == json.loads(encode_put_records(results, encryption))
    for result in results[:3]:
        single = partial(encode_put_record_cbor, [result], encryption)
        try:
            expected = json.loads(encode_put_record([result], encryption))
        except ApiError as error:
            refusal = error.refusal
            with pytest.raises(ApiError) as caught:
                single()
            assert (caught.value.refusal, caught.value.encoding) == (refusal, Encoding.CBOR)
        else:
            assert cbor2.loads(single()) == expected


def test_a_stream_may_have_more_shards_than_are_kept() -> None:
    results = [RecordResult(str(n), f"shardId-{n:012d}") for n in range(9, 1_600)]
    for part in (results[:500], results[500:1_000], results[1_000:], results[:500]):
        assert cbor2.loads(encode_put_records_cbor(part)) == json.loads(encode_put_records(part))


def test_every_operation_has_a_form_in_its_encoding() -> None:
    assert set(FORMS) == set(Operation)
    for operation, form in FORMS.items():
        assert isinstance(operation, Operation)
        assert form.encoding is operation.value[1]
        assert form.content_type == form.encoding.value


def test_blobs_are_bytes() -> None:
    assert put_cbor.parse_put_records(java(requested(entry(Blob(b"x")))), LIMITS).records
